"""Bytes that no client library would send, on raw sockets against a real process."""

import re
import socket
from collections.abc import Iterator

import pytest

from lab.launch import Served, eventually

BODY = b'{"text":"q"}'
HEAD = b"POST /v1/query-classify HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: 12\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
PROBE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served({"READ_TIMEOUT_MS": "500"}) as served:
        yield served


def said(served: Served, raw: bytes, *, answers: int = 1) -> bytes:
    """What comes back: until so many answers are there, or the gateway closes."""
    seen = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as caller:
        try:
            caller.sendall(raw)
            while len(STATUS.findall(seen)) < answers or not whole(seen):
                if not (more := caller.recv(65536)):
                    break
                seen += more
        except ConnectionError:
            pass
    return seen


def whole(seen: bytes) -> bool:
    """Whether the last answer has come to its end."""
    last = list(STATUS.finditer(seen))[-1]
    head, ended, body = seen[last.start() :].partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(ended) and (length is None or len(body) >= int(length[1]))


def codes(seen: bytes) -> list[int]:
    return [int(code) for code in STATUS.findall(seen)]


# One request must never be read as two, whoever stands in front of us.
SMUGGLING = {
    "two lengths that differ": HEAD + LENGTH + b"content-length: 5\r\n\r\n" + BODY + PROBE,
    "a list of lengths": HEAD + b"content-length: 12, 12\r\n\r\n" + BODY + PROBE,
    "a negative length": HEAD + b"content-length: -1\r\n\r\n" + BODY + PROBE,
    "a signed length": HEAD + b"content-length: +12\r\n\r\n" + BODY + PROBE,
    "a length past all numbers": HEAD + b"content-length: 99999999999999999999999\r\n\r\n" + BODY + PROBE,
    "a length in another script": HEAD + "content-length: ١٢\r\n\r\n".encode() + BODY + PROBE,
    "a blank before the colon": HEAD + b"content-length : 12\r\n\r\n" + BODY + PROBE,
    "length, then chunks": HEAD + LENGTH + CHUNKED + b"\r\n0\r\n\r\n" + PROBE,
    "chunks, then length": HEAD + CHUNKED + LENGTH + b"\r\nc\r\n" + BODY + b"\r\n0\r\n\r\n" + PROBE,
    "an encoding like chunked": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + PROBE,
    "chunked, but not last": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + PROBE,
    "a folded header": HEAD + b"x-a: b\r\n transfer-encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY + PROBE,
    "chunks that are no numbers": HEAD + CHUNKED + b"\r\nzz\r\n" + BODY + b"\r\n0\r\n\r\n" + PROBE,
    "a chunk past all numbers": HEAD + CHUNKED + b"\r\nffffffffffffffffff\r\n" + BODY + PROBE,
    "a chunk longer than it says": HEAD + CHUNKED + b"\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n" + PROBE,
}


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_a_request_whose_end_is_in_doubt_is_answered_once_and_the_connection_closed(
    served: Served, raw: bytes
) -> None:
    seen = said(served, raw, answers=2)

    assert len(codes(seen)) == 1
    assert codes(seen)[0] in (200, 400)
    assert b"alive" not in seen


REFUSED = {
    "no HTTP at all": (b"how are you?\r\n\r\n", 400),
    "a TLS hello": (bytes.fromhex("16030100c8010000c40303") + bytes(100), 400),
    "HTTP/0.9": (b"GET /health/live\r\n\r\n", 400),
    "HTTP/3.0": (b"GET /health/live HTTP/3.0\r\nhost: x\r\n\r\n", 400),
    "a path that is no text": (b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a path of 70,000 bytes": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
    "a header of a megabyte": (HEAD + b"x-a: " + b"a" * 1_000_000 + b"\r\n" + LENGTH + b"\r\n" + BODY, 431),
    "5,000 headers": (HEAD + b"x-a: b\r\n" * 5000 + LENGTH + b"\r\n" + BODY, 431),
    "NUL in a header": (HEAD + b"x-request-id: a\0b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a bare return in a header": (HEAD + b"x-request-id: a\rb\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host that is none": (b"GET /health/live HTTP/1.1\r\nhost: a b/c\r\n\r\n", 400),
    "a climb out of the root": (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    "CONNECT": (b"CONNECT elsewhere:80 HTTP/1.1\r\nhost: x\r\n\r\n", 405),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    "a method of one's own": (b"SECRETS /v1/query-classify HTTP/1.1\r\nhost: x\r\n\r\n", 405),
    "a websocket": (
        b"GET /v1/query-classify HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        405,
    ),
    "a length and no body": (HEAD + LENGTH + b"\r\n", 400),
    "half of a body": (HEAD + b"content-length: 500\r\n\r\n" + BODY, 400),
    "half of a chunk": (HEAD + CHUNKED + b"\r\nff\r\nabc", 400),
}


@pytest.mark.parametrize(("raw", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_request_of_ours_is_refused(served: Served, raw: bytes, code: int) -> None:
    assert codes(said(served, raw)) == [code]


TAKEN = {
    "HTTP/1.0": (HEAD.replace(b"1.1", b"1.0") + LENGTH + b"\r\n" + BODY, [200]),
    "no host": (HEAD.replace(b"host: x\r\n", b"") + LENGTH + b"\r\n" + BODY, [200]),
    "the same length twice": (HEAD + LENGTH * 2 + b"\r\n" + BODY, [200]),
    "a length with 5,000 noughts": (HEAD + b"content-length: " + b"0" * 5000 + b"12\r\n\r\n" + BODY, [200]),
    "chunks": (
        HEAD + CHUNKED + b"\r\n6\r\n" + BODY[:6] + b"\r\n6;a=b\r\n" + BODY[6:] + b"\r\n0\r\n\r\n",
        [200],
    ),
    "five at once": ((HEAD + LENGTH + b"\r\n" + BODY) * 5, [200] * 5),
    "expect: 100-continue": (HEAD + b"expect: 100-continue\r\n" + LENGTH + b"\r\n" + BODY, [100, 200]),
    "20,000 bytes of cookies": (
        HEAD + b"cookie: " + b"a=b;" * 5000 + b"\r\n" + LENGTH + b"\r\n" + BODY,
        [200],
    ),
}


@pytest.mark.parametrize(("raw", "expected"), TAKEN.values(), ids=TAKEN.keys())
def test_what_is_odd_but_clear_is_answered(served: Served, raw: bytes, expected: list[int]) -> None:
    assert codes(said(served, raw, answers=len(expected))) == expected


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        (b"plain-1", b"plain-1"),
        (b"<script>alert(1)</script>", b"scriptalert1/script"),
        (b"\xe9t\xe9", b"t"),
        (b'a","level":"error', b"alevel:error"),
        (b"a" * 5000, b"a" * 128),
        (b"%0d%0aset-cookie:a=b", b"0d0aset-cookie:a=b"),
    ],
)
def test_an_id_is_bounded_and_cleaned_before_it_is_echoed(
    served: Served, given: bytes, echoed: bytes
) -> None:
    seen = said(served, HEAD + b"x-request-id: " + given + b"\r\n" + LENGTH + b"\r\n" + BODY)

    (found,) = re.findall(rb"\r\nx-request-id: ([^\r]*)\r\n", seen)
    assert found == echoed


@pytest.mark.parametrize(
    "accept", [b"application/openmetrics-text;version=\xff", b"application/openmetrics-text;q=x", b";;,,q=="]
)
def test_an_accept_header_that_cannot_be_read_gets_metrics_all_the_same(
    served: Served, accept: bytes
) -> None:
    assert codes(said(served, b"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: " + accept + b"\r\n\r\n")) == [
        200
    ]


def test_a_connection_that_never_sends_is_closed(served: Served) -> None:
    assert said(served, b"") == b""


def test_a_head_that_never_ends_is_given_up(served: Served) -> None:
    assert codes(said(served, HEAD)) in ([], [408], [400])


def test_callers_who_leave_in_the_middle_of_a_body_leave_nothing_behind(served: Served) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", served.port)) as caller:
            caller.sendall(HEAD + b"content-length: 500\r\n\r\n" + BODY)

    eventually(lambda: served.metric("query_gateway_active_requests") == 0, "nobody is waited for")


def test_nothing_of_all_this_is_a_bug_or_is_written_down() -> None:
    with Served({"READ_TIMEOUT_MS": "200"}) as served:
        everything = [*SMUGGLING.values(), *(raw for raw, _ in (*REFUSED.values(), *TAKEN.values()))]
        for raw in everything:
            said(served, raw)

        assert not [line for line in served.lines() if line.get("error_type") == "InternalError"]
        assert "passwd" not in served.text()
        assert "SECRETS" not in served.text()
        assert served.client.get("/health/ready").status_code == 200
