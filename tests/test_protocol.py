"""What holds for every path: HEAD, preflights, one host, and bodies that nobody wants."""

from typing import Any

import pytest

from handler.origins import Origins
from handler.protocol import DISCARD_MAX_BYTES, Message, Receive, Scope, Send, conform

PAGE = b"https://app.example"


class Exchange:
    """One request to a wrapped application, and what came of it."""

    def __init__(
        self, method: str = "POST", *headers: tuple[bytes, bytes], chunks: tuple[bytes, ...] = ()
    ) -> None:
        self.scope: Scope = {"type": "http", "method": method, "headers": list(headers), "client": ("::1", 7)}
        self.chunks = list(chunks)
        self.read = 0
        self.seen: list[Scope] = []
        self.refused = False
        self.sent: list[Message] = []
        self.read_when_answered: int | None = None

    async def receive(self) -> Message:
        chunk = self.chunks.pop(0) if self.chunks else b""
        self.read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.read_when_answered = self.read
        self.sent.append(message)

    async def through(
        self,
        status: int = 200,
        *,
        reads: int = 0,
        closing: bool = False,
        length: bool = False,
        **settings: Any,
    ) -> None:
        own = [(b"x-own", b"1"), (b"content-length", b"1")] if length else [(b"x-own", b"1")]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self.seen.append(scope)
            for _ in range(reads):
                await receive()
            await send({"type": "http.response.start", "status": status, "headers": own})
            await send({"type": "http.response.body", "body": b"b", "more_body": False})

        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            self.refused = True
            await send({"type": "http.response.start", "status": 400, "headers": []})

        wrapped = conform(app, closing=lambda: closing, refuse_hosts=refuse, discard_s=60, **settings)
        await wrapped(self.scope, self.receive, self.send)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


# Methods


async def test_head_is_answered_as_get() -> None:
    asked = Exchange("HEAD")

    await asked.through()

    assert asked.seen[0]["method"] == "GET"
    assert asked.scope["method"] == "HEAD"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_other_methods_are_left_as_they_are(method: str) -> None:
    asked = Exchange(method)

    await asked.through()

    assert asked.seen[0]["method"] == method


async def test_an_answer_closes_its_connection_once_the_process_ends() -> None:
    asked = Exchange("GET")

    await asked.through(closing=True)

    assert asked.headers == {b"x-own": b"1", b"connection": b"close"}


# Hosts


async def test_two_host_lines_are_refused() -> None:
    asked = Exchange("POST", (b"host", b"a"), (b"host", b"b"))

    await asked.through()

    assert asked.refused
    assert asked.seen == []


@pytest.mark.parametrize("headers", [[], [(b"host", b"a")], [(b"host", b"a"), (b"x-forwarded-host", b"b")]])
async def test_one_host_line_or_none_is_taken(headers: list[tuple[bytes, bytes]]) -> None:
    asked = Exchange("POST", *headers)

    await asked.through()

    assert not asked.refused


# Bodies


async def test_a_refused_body_is_read_to_its_end_before_its_sender_is_told() -> None:
    asked = Exchange(chunks=(b"a" * 1000,) * 5)

    await asked.through(413, reads=1)

    assert asked.read_when_answered == 5000


async def test_a_whole_answer_waits_for_the_end_of_a_body_that_it_did_not_need() -> None:
    asked = Exchange(chunks=(b"a" * 1000,) * 5)

    await asked.through(200, reads=1, length=True)

    assert asked.read_when_answered == 5000


async def test_an_answer_that_is_streamed_leaves_the_body_to_the_application() -> None:
    asked = Exchange(chunks=(b"a" * 1000,) * 5)

    await asked.through(200, reads=1)

    assert asked.read_when_answered == 1000


async def test_of_a_refused_body_without_end_only_so_much_is_read() -> None:
    chunk = bytes(1024 * 1024)
    asked = Exchange(chunks=(chunk,) * 2000)

    await asked.through(413, reads=1)

    assert asked.read_when_answered == len(chunk) + DISCARD_MAX_BYTES


async def test_a_refused_body_that_says_it_is_longer_than_that_is_not_read() -> None:
    length = b"%d" % (DISCARD_MAX_BYTES + 1)
    asked = Exchange("POST", (b"content-length", length), chunks=(b"a" * 1000,) * 5)

    await asked.through(413)

    assert asked.read_when_answered == 0


async def test_a_body_that_is_whole_by_its_length_is_not_waited_for() -> None:
    asked = Exchange("POST", (b"content-length", b"4"), chunks=(b"a" * 4, b"never"))

    await asked.through(400, reads=1)

    assert asked.read_when_answered == 4


async def test_a_client_that_waits_to_be_asked_for_its_body_is_not_asked() -> None:
    asked = Exchange("POST", (b"expect", b"100-Continue"), chunks=(b"a" * 1000,) * 5)

    await asked.through(401)

    assert asked.read_when_answered == 0


# Peers


async def test_a_peer_is_busy_while_it_is_answered() -> None:
    asked = Exchange()
    busy: set[Any] = set()
    seen: list[set[Any]] = []

    async def send(message: Message) -> None:
        seen.append(set(busy))

    asked.send = send  # type: ignore[method-assign]
    await asked.through(busy=busy)

    assert seen[0] == {("::1", 7)}
    assert busy == set()


# Pages of other origins


@pytest.mark.parametrize("text", ["https://app.example", "http://localhost:3000, https://app.example", " * "])
async def test_a_page_of_a_known_origin_may_ask(text: str) -> None:
    asked = Exchange("POST", (b"origin", PAGE))

    await asked.through(origins=Origins.read(text))

    assert asked.headers[b"access-control-allow-origin"] in (PAGE, b"*")
    assert b"x-request-id" in asked.headers[b"access-control-expose-headers"]


async def test_a_page_of_a_known_origin_is_told_what_is_wrong() -> None:
    asked = Exchange("POST", (b"origin", PAGE))

    await asked.through(400, origins=Origins.read(PAGE.decode()))

    assert asked.headers[b"access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "origin", [b"https://other.example", b"http://app.example", b"https://app.example:8443", b"null"]
)
async def test_a_page_of_another_origin_may_not_read_the_answer(origin: bytes) -> None:
    asked = Exchange("POST", (b"origin", origin))

    await asked.through(origins=Origins.read("https://app.example"))

    assert b"access-control-allow-origin" not in asked.headers
    assert asked.headers[b"vary"] == b"origin"


async def test_without_origins_nothing_is_said_to_pages() -> None:
    asked = Exchange("POST", (b"origin", PAGE))

    await asked.through()

    assert asked.headers == {b"x-own": b"1"}


async def test_a_preflight_of_a_known_origin_is_allowed_what_it_asks() -> None:
    asked = Exchange(
        "OPTIONS",
        (b"origin", PAGE),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"content-type, x-api-key"),
    )

    await asked.through(origins=Origins.read(PAGE.decode()))

    assert asked.seen == []
    assert asked.sent[0]["status"] == 204
    assert asked.headers[b"access-control-allow-origin"] == PAGE
    assert b"POST" in asked.headers[b"access-control-allow-methods"]
    assert asked.headers[b"access-control-allow-headers"] == b"content-type, x-api-key"


async def test_a_preflight_of_another_origin_is_allowed_nothing() -> None:
    asked = Exchange(
        "OPTIONS", (b"origin", b"https://other.example"), (b"access-control-request-method", b"POST")
    )

    await asked.through(origins=Origins.read(PAGE.decode()))

    assert not [name for name in asked.headers if name.startswith(b"access-control")]


@pytest.mark.parametrize("asks_for", [b"a: b\r\nx: y", b"a" * 3000, b""])
async def test_what_a_preflight_asks_for_is_echoed_only_where_it_is_clean_and_short(asks_for: bytes) -> None:
    asked = Exchange(
        "OPTIONS",
        (b"origin", PAGE),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", asks_for),
    )

    await asked.through(origins=Origins.read("*"))

    assert b"access-control-allow-headers" not in asked.headers


async def test_options_without_a_page_are_left_to_the_application() -> None:
    asked = Exchange("OPTIONS")

    await asked.through(origins=Origins.read("*"))

    assert len(asked.seen) == 1


@pytest.mark.parametrize("text", ["", " ", ","])
def test_no_origin_means_none(text: str) -> None:
    assert Origins.read(text) is None


@pytest.mark.parametrize(
    "text", ["app.example", "https://app.example/", "https://", "://a", "https://*.example", "https://a, b"]
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="scheme://host"):
        Origins.read(text)
