"""What a stranger's headers may do: be echoed, clean and short; and what ours say."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.errors import GatewayError, MethodNotAllowed, Overloaded, UnsupportedMediaType, ValidationError
from handler.gateway import Answer
from handler.headers import (
    KEYS_MAX,
    REQUEST_ID_MAX,
    Asked,
    of_answer,
    of_error,
    read,
    request_id,
    require_json,
    timeout_s,
)
from handler.model_holder import Serving
from handler.policy import Decision, Policy, Scores
from handler.scored import Scored
from tests.fakes import TASKS, FakeRouter

MADE = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
ANSWER = Answer(
    Decision(route="fast", label="0", task="closed_qa", confidence=0.9, need=0.1, margin=0.2),
    Scored(
        Scores.of([0.9, 0.1]),
        "miss",
        (("l1", 0.00001), ("queue", 0.0005), ("tokenize", 0.0001), ("infer", 0.00125)),
    ),
    Serving(FakeRouter(), Policy.of_routes(TASKS, FakeRouter.manifest.policy)),  # type: ignore[arg-type]
)


def asked(**headers: bytes) -> Asked:
    """What was read of a request with these headers; `_` stands for `-`."""
    return read([(name.replace("_", "-").encode(), value) for name, value in headers.items()])


# Request ids


@given(given=st.binary(max_size=2000), traceparent=st.binary(max_size=100))
@example(given=b"a" * 5000, traceparent=b"")
@example(given=b"id\r\nset-cookie: x=1", traceparent=b"")
@example(given="müde-id".encode(), traceparent=b"")
@example(given=b"\x00\xff", traceparent=TRACE + b"\r\n")
def test_a_request_id_is_never_empty_long_or_unsafe(given: bytes, traceparent: bytes) -> None:
    seen = request_id(given, traceparent)

    assert re.fullmatch(rf"[A-Za-z0-9._:/+=@-]{{1,{REQUEST_ID_MAX}}}", seen)


@given(st.text("abcXYZ019._:/+=@-", min_size=1, max_size=REQUEST_ID_MAX))
def test_a_clean_id_is_echoed_as_it_came(given: str) -> None:
    assert asked(x_request_id=given.encode()).request_id == given


def test_an_unclean_id_keeps_its_clean_part() -> None:
    assert asked(x_request_id=b"run 7\r\n<b>").request_id == "run7b"


def test_an_id_without_any_clean_part_is_replaced() -> None:
    assert MADE.fullmatch(asked(x_request_id=b"\xc3\xbc \t").request_id)


def test_a_trace_names_a_request_that_has_no_id() -> None:
    assert asked(traceparent=TRACE).request_id == TRACE_ID


def test_an_id_comes_before_a_trace() -> None:
    assert asked(traceparent=TRACE, x_request_id=b"mine").request_id == "mine"


@pytest.mark.parametrize(
    "traceparent",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", id="a trace id of zeros"),
        pytest.param(TRACE.upper(), id="upper case"),
        pytest.param(TRACE[:-3], id="no flags"),
        pytest.param(TRACE.replace(b"4bf9", b"4bg9"), id="not hexadecimal"),
        pytest.param(b" " + TRACE, id="a blank before it"),
        pytest.param(TRACE + b"x", id="something after it"),
        pytest.param(b"4bf92f3577b34da6a3ce929d0e0e4736", id="a trace id alone"),
    ],
)
def test_a_traceparent_that_cannot_be_read_is_passed_over(traceparent: bytes) -> None:
    assert MADE.fullmatch(asked(traceparent=traceparent).request_id)


def test_a_traceparent_of_a_later_version_may_hold_more() -> None:
    later = TRACE.replace(b"00-", b"01-", 1) + b"-more"

    assert asked(traceparent=later).request_id == TRACE_ID


def test_made_ids_differ() -> None:
    ids = {asked().request_id for _ in range(1000)}

    assert len(ids) == 1000


# Reading


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=20))
def test_headers_that_are_not_ours_change_nothing(others: list[tuple[bytes, bytes]]) -> None:
    ours = {
        b"x-request-id", b"traceparent", b"content-type", b"content-encoding", b"content-length",
        b"x-request-timeout-ms", b"authorization", b"x-api-key",
    }  # fmt: skip
    strangers = [(name, value) for name, value in others if name not in ours]

    assert read([*strangers, (b"x-request-id", b"a")]) == read([(b"x-request-id", b"a")])


def test_the_last_of_several_headers_wins() -> None:
    assert read([(b"x-request-id", b"first"), (b"x-request-id", b"last")]).request_id == "last"


@pytest.mark.parametrize(
    ("given", "length"), [(b"0", 0), (b"17", 17), (b"", None), (b"-1", None), (b"1e3", None), (b"\xb2", None)]
)
def test_a_content_length_is_a_whole_number_or_unknown(given: bytes, length: int | None) -> None:
    assert asked(content_length=given).content_length == length


# Keys


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ([], ()),
        ([(b"authorization", b"Bearer ours")], (b"ours",)),
        ([(b"authorization", b"bearer  ours ")], (b"ours",)),
        ([(b"x-api-key", b" ours ")], (b"ours",)),
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"ours")], (b"ours",)),
        ([(b"authorization", b"Bearer theirs"), (b"x-api-key", b"ours")], (b"theirs", b"ours")),
        ([(b"x-api-key", b"theirs"), (b"authorization", b"Bearer ours")], (b"theirs", b"ours")),
        ([(b"authorization", b"Bearer theirs"), (b"authorization", b"Bearer ours")], (b"theirs", b"ours")),
        ([(b"x-api-key", b"theirs"), (b"x-api-key", b"ours")], (b"theirs", b"ours")),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"")], ()),
        ([(b"authorization", b"Bearer")], ()),
        ([(b"authorization", b"ours")], ()),
    ],
)
def test_every_key_of_a_request_counts(headers: list[tuple[bytes, bytes]], keys: tuple[bytes, ...]) -> None:
    assert read(headers).keys == keys


def test_of_a_flood_of_keys_only_a_few_are_looked_at() -> None:
    assert len(read([(b"x-api-key", b"k%d" % i) for i in range(1000)]).keys) == KEYS_MAX


# Content types


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"APPLICATION/JSON",
        b" application/json ",
        b"application/json;charset=utf-8",
        b"application/json; charset=UTF-8",
        b'application/json; charset="utf-8"',
        b"application/json; charset=utf8",
        b"application/json;",
        b"application/problem+json",
        b"application/vnd.acme.query.v1+json; charset=utf-8",
        b"application/json; profile=strict",
        b"application/json;odata.metadata=minimal;IEEE754Compatible=true",
        b'application/json; charset=utf-8; profile="a, b; c"',
        b"application/json; version=1; charset=utf-8",
        b"application/json; charset='utf-8'",
        b"application/json; charset = utf-8",
        b"application/json; charset=US-ASCII",
        b"application/json; charset=",
        b"application/json;;",
        b"application/json; foo",
    ],
)
def test_json_by_any_of_its_names_is_read(content_type: bytes) -> None:
    require_json(asked(content_type=content_type))


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain",
        b"text/json",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/xml",
        b"application/jsonp",
        b"application/json5",
        b"application/x-ndjson",
        b"application/json; charset=latin-1",
        b"application/json; charset=utf-16",
        b"application/json, text/plain",
        b"application/json; charset=utf-8, text/plain",
        b"application/json; profile=a; charset=latin-1",
        b"application/json; charset=utf-8; charset=utf-16",
        b"application/json charset=utf-8",
        b"json",
        b"*/*",
        b"\xff",
    ],
)
def test_what_is_not_json_is_refused(content_type: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="content-type application/json"):
        require_json(asked(content_type=content_type))


# Time-outs


def test_without_a_timeout_of_its_own_a_query_has_ours() -> None:
    assert timeout_s(asked(), at_most_s=1.0) == 1.0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (b"250", 0.25),
        (b"0.5", 0.0005),
        (b" 10 ", 0.01),
        (b"1e2", 0.1),
        (b".5", 0.0005),
        (b"5.", 0.005),
        (b"+7", 0.007),
        (b"007", 0.007),
    ],
)
def test_a_callers_timeout_shortens_ours(given: bytes, seconds: float) -> None:
    assert timeout_s(asked(x_request_timeout_ms=given), at_most_s=1.0) == pytest.approx(seconds)


@pytest.mark.parametrize("given", [b"1001", b"1e300", b"inf", b"Infinity"])
def test_a_callers_timeout_never_lengthens_ours(given: bytes) -> None:
    assert timeout_s(asked(x_request_timeout_ms=given), at_most_s=1.0) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        b"0",
        b"-5",
        b"nan",
        b"-inf",
        b"soon",
        b"10ms",
        b"1,5",
        b"\xff",
        b"1e-999",
        b"1_000",
        b"1_0.5",
        b"0x10",
        b"1e1_0",
        b".",
        b"1e",
        b"\xd9\xa1",
        b"+",
        b"1 000",
    ],
)
def test_a_timeout_that_is_no_time_is_refused(given: bytes) -> None:
    with pytest.raises(ValidationError, match="x-request-timeout-ms must be a number of milliseconds over 0"):
        timeout_s(asked(x_request_timeout_ms=given), at_most_s=1.0)


@given(st.binary(min_size=1, max_size=30))
def test_whatever_a_timeout_says_a_query_has_a_bounded_time_or_is_refused(given: bytes) -> None:
    try:
        allowed_s = timeout_s(asked(x_request_timeout_ms=given), at_most_s=1.0)
    except ValidationError:
        return

    assert 0 < allowed_s <= 1.0


# Ours


def test_an_answer_tells_its_id_time_cache_model_and_stages() -> None:
    headers = dict(of_answer(ANSWER, "id-1", 0.002))

    assert headers == {
        b"x-request-id": b"id-1",
        b"x-router-latency": b"2.000",
        b"x-query-route": b"fast",
        b"x-query-label": b"0",
        b"x-query-task": b"closed_qa",
        b"x-query-confidence": b"0.9000",
        b"x-cache": b"miss",
        b"x-model-version": b"fake",
        b"server-timing": b"l1;dur=0.010, queue;dur=0.500, tokenize;dur=0.100, infer;dur=1.250",
    }


@given(
    id_given=st.binary(max_size=300),
    stages=st.lists(
        st.tuples(st.sampled_from(["l1", "queue", "tokenize", "infer"]), st.floats(0, 10)), max_size=6
    ),
    total_s=st.floats(0, 100),
)
def test_no_header_of_an_answer_can_hold_a_line_break(
    id_given: bytes, stages: list[tuple[str, float]], total_s: float
) -> None:
    answer = Answer(ANSWER.decision, Scored(Scores.of([1.0, 0.0]), "l1", tuple(stages)), ANSWER.serving)

    headers = of_answer(answer, request_id(id_given, b""), total_s)

    assert all(re.fullmatch(rb"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?|", value) for _, value in headers)


def test_an_error_tells_its_id_and_time() -> None:
    headers = dict(of_error(ValidationError("no"), "id-1", 0.0005))

    assert headers == {b"x-request-id": b"id-1", b"x-router-latency": b"0.500"}


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (Overloaded("full", headers=(("Retry-After", "1"),)), (b"retry-after", b"1")),
        (MethodNotAllowed("no", headers=(("Allow", "POST"),)), (b"allow", b"POST")),
    ],
)
def test_an_errors_own_headers_are_sent_in_lower_case(
    error: GatewayError, header: tuple[bytes, bytes]
) -> None:
    assert header in of_error(error, "id-1")
