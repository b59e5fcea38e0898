"""Names and bytes of Redis entries."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.entries import PROBE, ForeignValue, key, pattern, read, write
from handler.policy import Scores

KEY = key("6bd0e1f2a3b4", bytes(range(16)))
float32 = st.floats(0, 1, width=32)


def refused(value: bytes, *, tasks: int = 3, of: bytes = KEY) -> str:
    with pytest.raises(ForeignValue) as caught:
        read(of, value, tasks)
    return caught.value.reason


def test_an_entry_looks_as_the_documentation_shows_it() -> None:
    value = write(KEY, Scores.of([0.25, 0.5, 0.25]), expires_at=1764003600.4)

    assert KEY == b"qg:2:6bd0e1f2a3b4:000102030405060708090a0b0c0d0e0f"
    assert value.rpartition(b" ")[0] == b"2 whole 1764003600 - 0.25 0.5 0.25"


def test_a_need_that_was_learnt_stands_before_the_probabilities() -> None:
    value = write(KEY, Scores.of([0.25, 0.5, 0.25], learnt=0.75), expires_at=1764003600.4)

    assert value.rpartition(b" ")[0] == b"2 whole 1764003600 0.75 0.25 0.5 0.25"


@given(st.lists(float32, min_size=1, max_size=20), st.booleans(), st.none() | float32)
def test_scores_come_back_to_the_last_bit(
    probabilities: list[float], truncated: bool, learnt: float | None
) -> None:
    scores = Scores.of(probabilities, truncated=truncated, learnt=learnt)

    found = read(KEY, write(KEY, scores, 1000.0), len(probabilities), now=lambda: 0.0)

    assert found.scores == scores


def test_a_reader_learns_how_long_an_entry_still_lasts() -> None:
    value = write(KEY, Scores.of([1.0]), expires_at=1000.0)

    found = read(KEY, value, 1, now=lambda: 940.0)

    assert found.lasts_s == 60.0


@given(st.data())
def test_a_value_cut_short_anywhere_is_foreign(data: st.DataObject) -> None:
    value = write(KEY, Scores.of([0.25, 0.5, 0.25]), 1000.0)
    length = data.draw(st.integers(0, len(value) - 1))

    assert refused(value[:length]) == "corrupt"


@given(st.data())
def test_a_value_with_one_bit_turned_is_foreign(data: st.DataObject) -> None:
    value = bytearray(write(KEY, Scores.of([0.25, 0.5, 0.25]), 1000.0))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= 1 << data.draw(st.integers(0, 7))

    assert refused(bytes(value)) in ("corrupt", "version")


@given(st.binary(max_size=300))
def test_no_bytes_whatever_are_more_than_foreign(value: bytes) -> None:
    assert refused(value) in ("corrupt", "version")


def test_a_value_under_another_key_is_foreign() -> None:
    value = write(KEY, Scores.of([1.0]), 1000.0)

    assert refused(value, tasks=1, of=key("6bd0e1f2a3b4", bytes(16))) == "corrupt"


def test_a_value_of_another_format_is_told_from_a_damaged_one() -> None:
    assert refused(b"3 0xfa 0xce something new") == "version"


def test_a_value_of_the_first_format_is_a_miss() -> None:
    assert refused(b"1 whole 1764003600 0.25 0.5 0.25 8c1f09aa") == "version"


def test_a_value_with_another_number_of_tasks_is_foreign() -> None:
    value = write(KEY, Scores.of([0.5, 0.5]), 1000.0)

    assert refused(value, tasks=3) == "corrupt"


@pytest.mark.parametrize(
    "body", [b"2 whole x - 0.5", b"2 whole 1 - 1e999 x", b"2", b"2 whole 1 - 1e40", b"2 whole 1 x 0.5"]
)
def test_a_forged_checksum_makes_no_entry_out_of_nonsense(body: bytes) -> None:
    from zlib import crc32

    assert refused(body + b" %08x" % crc32(body, crc32(KEY)), tasks=1) == "corrupt"


def test_models_share_no_key() -> None:
    assert key("6bd0e1f2a3b4", bytes(16)) != key("6bd0e1f2a3b5", bytes(16))


def test_a_model_is_found_by_its_pattern_whatever_the_format() -> None:
    assert pattern("6bd0e1f2a3b4") == "qg:*:6bd0e1f2a3b4:*"
    assert pattern(None) == "qg:*:*:*"


def test_the_probe_is_no_entry() -> None:
    assert PROBE.count(b":") < KEY.count(b":")


def test_an_entry_of_ten_tasks_is_small() -> None:
    worst = struct.unpack("<10f", struct.pack("<10f", *[1.2345678e-12] * 10))

    assert len(write(KEY, Scores.of(worst, learnt=worst[0]), 1764003600.0)) < 225
