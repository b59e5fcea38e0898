"""What the model is shown of a text, what that is called, and what it will cost."""

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.query import (
    BYTES_PER_TOKEN,
    CUT,
    KEY_BYTES,
    SPECIAL_TOKENS,
    Limits,
    Normalised,
    estimate_tokens,
    key,
    normalise,
)

LIMITS = Limits(head_tokens_max=96, tail_tokens_max=32, head_chars_max=30, tail_chars_max=10)
DIGEST = bytes(range(32))
# All that `str.split` takes for white space, and two characters that it does not.
WHITE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000"
NOT_WHITE = "\u200b\ufeff"

words = st.text("aAbBéÉßΣςİI…1.,\u200b\ufeff", min_size=1, max_size=60)
blanks = st.text(WHITE, min_size=1, max_size=60)
texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.one_of(words, blanks), max_size=40).map("".join),
    st.builds(lambda unit, times: unit * times, st.text(min_size=1, max_size=5), st.integers(1, 400)),
)
limits_of_any_size = st.builds(
    Limits,
    head_tokens_max=st.integers(0, 128),
    tail_tokens_max=st.integers(0, 128),
    head_chars_max=st.integers(1, 40),
    tail_chars_max=st.integers(0, 40),
)


def slowly_normalised(text: str, limits: Limits) -> Normalised:
    """The promise in its plainest words: fold the whole text, then cut out its middle."""
    folded = " ".join(text.split())
    if len(folded) <= limits.chars_max:
        return Normalised(folded.lower())
    head = folded[: limits.head_chars_max]
    tail = folded[len(folded) - limits.tail_chars_max :]
    return Normalised((head + CUT + tail).lower(), clipped=True)


@given(text=texts, limits=limits_of_any_size)
@example(text="", limits=LIMITS)
@example(text=WHITE, limits=LIMITS)
@example(text="x" * 40, limits=LIMITS)
@example(text="x" * 41, limits=LIMITS)
@example(text="y " * 20 + "z", limits=LIMITS)
@example(text="y " * 21 + "z", limits=LIMITS)
@example(text=" " * 100 + "y " * 20, limits=LIMITS)
def test_normalising_equals_folding_the_whole_text_first(text: str, limits: Limits) -> None:
    normalised = normalise(text, limits)

    assert normalised == slowly_normalised(text, limits)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 400_000, id="two megabytes of words"),
        pytest.param("W" * 2_000_000, id="one giant word"),
        pytest.param("A" + " " * 2_000_000 + "B", id="two words with megabytes of blanks between"),
        pytest.param(WHITE * 100_000, id="nothing but blanks"),
        pytest.param("head " + "x" * 2_000_000 + " tail", id="a giant word between two small ones"),
        pytest.param("a " * 30 + "x" * 2_000_000, id="small words before a giant one"),
        pytest.param("x" * 2_000_000 + " a" * 30, id="small words after a giant one"),
    ],
)
def test_a_very_long_text_is_folded_like_any_other(text: str) -> None:
    normalised = normalise(text, LIMITS)

    assert normalised == slowly_normalised(text, LIMITS)


@given(text=texts, limits=limits_of_any_size)
def test_a_normalised_text_is_never_longer_than_its_limits(text: str, limits: Limits) -> None:
    normalised = normalise(text, limits)

    # İ is the one character that lower case makes into two.
    grown = normalised.text.count("i̇")
    assert len(normalised.text) - grown <= limits.chars_max + len(CUT)


@given(text=texts)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    short = Limits(head_tokens_max=1, tail_tokens_max=1, head_chars_max=10_000, tail_chars_max=0)

    once = normalise(text, short)

    assert normalise(once.text, short) == once


@pytest.mark.parametrize("blank", WHITE)
def test_every_kind_of_white_space_is_one_blank(blank: str) -> None:
    text = f"{blank}a{blank}{blank}b{blank}"

    assert normalise(text, LIMITS).text == "a b"


@pytest.mark.parametrize("sign", NOT_WHITE)
def test_an_invisible_sign_is_not_white_space(sign: str) -> None:
    assert normalise(f"a{sign}b", LIMITS).text == f"a{sign}b"


def test_a_text_at_the_limit_is_kept_whole() -> None:
    normalised = normalise("x" * LIMITS.chars_max, LIMITS)

    assert normalised == Normalised("x" * LIMITS.chars_max)


def test_a_text_over_the_limit_keeps_its_head_and_its_tail() -> None:
    text = "H" * 30 + "middle" + "T" * 10

    normalised = normalise(text, LIMITS)

    assert normalised == Normalised("h" * 30 + CUT + "t" * 10, clipped=True)


def test_a_long_text_costs_no_more_than_two_copies_of_it() -> None:
    text = "Ab " * 1_000_000

    tracemalloc.start()
    normalise(text, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # What `split` leaves of each end is a copy. The whole text in lower case would be a
    # third, and all its words as a list would be twenty.
    assert peak < 2.1 * len(text)


@given(one=texts, other=texts)
def test_two_texts_have_one_key_exactly_when_the_model_sees_the_same_of_both(one: str, other: str) -> None:
    first, second = normalise(one, LIMITS), normalise(other, LIMITS)

    assert (key(first, DIGEST) == key(second, DIGEST)) == (first == second)


def test_case_makes_no_difference_to_a_key() -> None:
    assert key(normalise("Tell ME", LIMITS), DIGEST) == key(normalise("tell me", LIMITS), DIGEST)


@given(text=st.text(max_size=50), padding=blanks)
def test_white_space_around_a_text_makes_no_difference_to_its_key(text: str, padding: str) -> None:
    wide = Limits(head_tokens_max=1, tail_tokens_max=1, head_chars_max=10_000, tail_chars_max=0)

    padded = padding + text + padding

    assert key(normalise(padded, wide), DIGEST) == key(normalise(text, wide), DIGEST)


@given(text=st.text(max_size=80))
def test_a_clipped_text_never_has_the_key_of_a_whole_one(text: str) -> None:
    whole, clipped = Normalised(text), Normalised(text, clipped=True)

    assert key(whole, DIGEST) != key(clipped, DIGEST)


def test_a_text_that_holds_the_cut_mark_is_not_taken_for_a_clipped_one() -> None:
    roomy = Limits(head_tokens_max=96, tail_tokens_max=32, head_chars_max=31, tail_chars_max=12)
    clipped = normalise("h" * 30 + "middle" + "t" * 10, LIMITS)

    whole = normalise("h" * 30 + CUT + "t" * 10, roomy)

    assert whole.text == clipped.text
    assert key(whole, DIGEST) != key(clipped, DIGEST)


@given(
    text=st.text(max_size=80), digests=st.lists(st.binary(min_size=32, max_size=32), unique=True, min_size=2)
)
def test_two_models_never_share_a_key(text: str, digests: list[bytes]) -> None:
    keys = {key(Normalised(text), digest) for digest in digests}

    assert len(keys) == len(digests)


@given(text=st.text(max_size=80), clipped=st.booleans())
def test_a_key_is_always_of_the_same_size(text: str, clipped: bool) -> None:
    assert len(key(Normalised(text, clipped), DIGEST)) == KEY_BYTES


@given(text=texts, limits=limits_of_any_size)
def test_an_estimate_is_never_over_what_the_model_is_shown(text: str, limits: Limits) -> None:
    estimate = estimate_tokens(normalise(text, limits), limits)

    assert SPECIAL_TOKENS <= estimate <= limits.tokens_max + SPECIAL_TOKENS


@given(text=texts, more=texts)
def test_an_estimate_never_falls_as_a_text_grows(text: str, more: str) -> None:
    shorter = estimate_tokens(Normalised(text), LIMITS)

    assert estimate_tokens(Normalised(text + more), LIMITS) >= shorter


def test_an_estimate_counts_bytes_so_that_other_scripts_are_not_taken_for_cheap() -> None:
    latin, chinese = Normalised("a" * 100), Normalised("总" * 100)

    assert estimate_tokens(latin, LIMITS) == 100 // BYTES_PER_TOKEN + 1 + SPECIAL_TOKENS
    assert estimate_tokens(chinese, LIMITS) == 300 // BYTES_PER_TOKEN + 1 + SPECIAL_TOKENS
