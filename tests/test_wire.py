"""What crosses HTTP, byte for byte; and that a refusal never repeats what was sent."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import wire
from handler.errors import ERRORS, GatewayError, ValidationError, from_bug
from handler.policy import LABELS, Decision

SECRET = "xyzzy-swordfish"
SECRET_JSON = SECRET.encode()

DECISION = Decision(route="fast", label="0", task="summarization", confidence=0.97, need=0.03, margin=0.27)

# Answers


def test_an_answer_has_exactly_these_bytes() -> None:
    assert (
        wire.write_answer(DECISION)
        == b'{"label":"0","route":"fast","task":"summarization","confidence":0.97}'
    )


def test_a_slow_answer_has_exactly_these_bytes() -> None:
    decision = msgspec.structs.replace(DECISION, route="slow", label="1", task="coding", confidence=0.998)

    assert wire.write_answer(decision) == b'{"label":"1","route":"slow","task":"coding","confidence":0.998}'


def test_a_confidence_is_written_with_four_decimals_at_most() -> None:
    decision = msgspec.structs.replace(DECISION, confidence=0.123456789)

    assert b'"confidence":0.1235}' in wire.write_answer(decision)


def test_a_doubtful_answer_gives_its_reason() -> None:
    decision = msgspec.structs.replace(
        DECISION, route="slow", label="1", confidence=0.6, reason="low_confidence"
    )

    assert wire.write_answer(decision) == (
        b'{"label":"1","route":"slow","task":"summarization","confidence":0.6,"reason":"low_confidence"}'
    )


def test_an_answer_to_a_cut_query_says_so() -> None:
    decision = msgspec.structs.replace(DECISION, truncated=True)

    assert wire.write_answer(decision) == (
        b'{"label":"0","route":"fast","task":"summarization","confidence":0.97,"truncated":true}'
    )


@given(
    place=st.integers(0, 9),
    confidence=st.floats(0, 1),
    low_confidence=st.booleans(),
    truncated=st.booleans(),
)
def test_every_answer_is_one_that_its_own_schema_accepts(
    place: int, confidence: float, low_confidence: bool, truncated: bool
) -> None:
    reason = "low_confidence" if low_confidence else None
    decision = Decision(f"tier-{place}", LABELS[place], "coding", confidence, 0.5, 0.1, reason, truncated)

    answer = msgspec.json.decode(wire.write_answer(decision), type=wire.ClassifyAnswer)

    assert (answer.label, answer.route) == (str(place), f"tier-{place}")
    assert answer.confidence == pytest.approx(confidence, abs=5.1e-5)
    assert (answer.reason, answer.truncated) == (reason, truncated)


# Errors


def test_an_error_has_exactly_these_bytes() -> None:
    error = ValidationError("no text", details=("text: missing",))

    assert wire.write_error(error) == (
        b'{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"no text","details":["text: missing"]}}'
    )


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_the_one_shape(kind: type[GatewayError]) -> None:
    error = kind("what was seen")

    body = msgspec.json.decode(wire.write_error(error), type=wire.ErrorAnswer).error

    assert (body.code, body.status, body.message, body.details) == (
        kind.code,
        kind.status,
        "what was seen",
        [],
    )


def test_the_vocabulary_of_errors_is_the_contracts() -> None:
    vocabulary = {(kind.code, kind.status, kind.error_type) for kind in ERRORS}

    assert vocabulary == {
        (400, "INVALID_ARGUMENT", "ValidationError"),
        (401, "UNAUTHENTICATED", "Unauthenticated"),
        (404, "NOT_FOUND", "NotFound"),
        (405, "INVALID_ARGUMENT", "ValidationError"),
        (413, "INVALID_ARGUMENT", "PayloadTooLarge"),
        (415, "INVALID_ARGUMENT", "ValidationError"),
        (429, "RESOURCE_EXHAUSTED", "Overloaded"),
        (500, "INTERNAL", "InternalError"),
        (500, "INTERNAL", "MemoryError"),
        (503, "UNAVAILABLE", "ModelNotReady"),
        (504, "DEADLINE_EXCEEDED", "TimeoutError"),
    }


@pytest.mark.parametrize(
    ("bug", "error_type"),
    [
        (ValueError(SECRET), "InternalError"),
        (KeyError(SECRET), "InternalError"),
        (MemoryError(SECRET), "MemoryError"),
    ],
)
def test_a_bug_is_told_without_its_innards(bug: Exception, error_type: str) -> None:
    error = from_bug(bug)

    assert (error.code, error.error_type) == (500, error_type)
    assert SECRET not in wire.write_error(error).decode()


# Probes


def test_a_good_probe_is_one_word() -> None:
    assert wire.encode(wire.Probe("ready")) == b'{"status":"ready"}'


def test_a_bad_probe_gives_its_reason() -> None:
    assert wire.encode(wire.Probe("not_ready", "no model")) == b'{"status":"not_ready","reason":"no model"}'
