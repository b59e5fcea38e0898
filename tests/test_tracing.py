"""Which queries are traced, and how many spans wait."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.tracing import MANY, Trace, Tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE}-{PARENT}-{flags}".encode() for flags in ("01", "00"))


def tracer(*, share: float = 0.0, follows: bool = True, queue_max: int = 100) -> Tracer:
    return Tracer(share=share, follows=follows, queue_max=queue_max)


def end(made: Tracer, trace: Trace) -> None:
    made.end(trace, "query", 0.001, attributes={})


def test_a_span_stands_below_the_callers() -> None:
    trace = tracer().begin(SAMPLED)

    assert trace is not None
    assert (trace.trace_id, trace.parent_id) == (int(TRACE, 16), int(PARENT, 16))
    assert trace.span_id not in (0, trace.parent_id)


def test_where_callers_decide_a_trace_that_they_do_not_sample_is_not_kept() -> None:
    assert tracer(share=1.0).begin(NOT_SAMPLED) is None


def test_where_callers_do_not_decide_the_trace_is_still_theirs() -> None:
    trace = tracer(share=1.0, follows=False).begin(NOT_SAMPLED)

    assert trace is not None
    assert trace.trace_id == int(TRACE, 16)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_query_without_a_caller_is_traced_by_the_share(share: float) -> None:
    assert (tracer(share=share).begin(b"") is not None) is bool(share)


def test_a_ratio_decides_by_the_traces_id_so_that_all_services_agree() -> None:
    half = tracer(share=0.5, follows=False)
    low, high = (f"00-{'1' * 16}{digit}{'0' * 15}-{PARENT}-00".encode() for digit in "7f")

    assert half.begin(low) is not None
    assert half.begin(high) is None


def not_traceparents() -> Iterator[bytes]:
    yield from (b"", b"00", SAMPLED + b"0", SAMPLED.upper(), b"ff" + SAMPLED[2:], b" " + SAMPLED)
    yield f"00-{'0' * 32}-{PARENT}-01".encode()
    yield f"00-{TRACE}-{'0' * 16}-01".encode()


@pytest.mark.parametrize("given_", list(not_traceparents()), ids=repr)
def test_what_is_no_traceparent_begins_nothing(given_: bytes) -> None:
    assert tracer().begin(given_) is None


@given(st.binary(max_size=80))
def test_no_header_fails_a_query(header: bytes) -> None:
    tracer(share=0.5).begin(header)


def test_a_span_that_finds_the_queue_full_is_dropped_and_counted() -> None:
    made = tracer(queue_max=3)
    trace = made.begin(SAMPLED)
    assert trace is not None

    for _ in range(5):
        end(made, trace)

    assert made.dropped == 2
    assert len(made.take()) == 3


def test_many_that_wait_are_told_of_until_they_are_taken() -> None:
    made = tracer(queue_max=10 * MANY)
    trace = made.begin(SAMPLED)
    assert trace is not None

    told = []
    for _ in range(MANY + 1):
        end(made, trace)
        told.append(made.many.is_set())
    taken = len(made.take())

    assert told.index(True) == MANY - 1
    assert (taken, made.many.is_set(), len(made.take())) == (MANY, False, 1)
