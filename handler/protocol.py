"""What HTTP asks of every path, whatever stands there.

HEAD is answered as GET, a browser's preflight by `CORS_ORIGINS`, two `host` lines are
refused, a body that nobody wants is read to its end before its sender is told so, and
connections close when the process ends. `conform` wraps the application in all that.
Knows nothing of queries, nor of the framework.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, MutableSet
from typing import Any

from handler.origins import Origins

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# Of a body that is refused so much is read and thrown away: a client that sends all before it
# reads would otherwise meet a closed connection, and never the reason.
DISCARD_MAX_BYTES = 1024 * 1024 * 1024
# A refusal waits for the rest of a body that comes slowly; another answer only for what is on its way.
GAP_S = 0.05


def conform(
    app: App,
    *,
    closing: Callable[[], bool],
    refuse_hosts: App,
    discard_s: float,
    busy: MutableSet[Any] | None = None,
    origins: Origins | None = None,
) -> App:
    """Wrap an application in what holds for all of its paths.

    closing       true from the moment that the process is told to end: a kept connection would go
                  on sending to it
    refuse_hosts  answers a request with more than one `host` line, which a proxy before us may have
                  read another way
    discard_s     until so many seconds after its head a body is read that the answer did not need
    busy          holds the peers of requests that are being answered
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        method = scope["method"]
        peer = scope["client"]
        named = dict(headers)  # every request pays for this, so once for all
        repeated = len(named) < len(headers)
        body = None
        if method not in ("GET", "HEAD"):
            body = _Body(receive, named.get(b"content-length", b""))
        extra: Headers = []
        if origins is not None and (origin := named.get(b"origin", b"")):
            extra = origins.answer(origin)
        if busy is not None:
            busy.add(peer)

        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if body is not None and not body.ended and _is_whole(message):
                    await body.discard(headers, discard_s, GAP_S if message["status"] < 400 else discard_s)
                if extra:
                    message["headers"] = [*message["headers"], *extra]
                if closing():
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            if repeated and sum(name == b"host" for name, _ in headers) > 1:
                await refuse_hosts(scope, receive, closing_send)
            elif origins is not None and _is_preflight(method, headers):
                extra = []
                allowed = origins.preflight(
                    _value(headers, b"origin"), _value(headers, b"access-control-request-headers")
                )
                await _answer_empty(closing_send, allowed)
            else:
                if method == "HEAD":  # the server sends the head of our answer alone
                    scope = {**scope, "method": "GET"}
                await app(scope, body.receive if body else receive, closing_send)
        finally:
            if busy is not None:
                busy.discard(peer)

    return wrapped


class _Body:
    """A request's body on its way to the application, and to nobody once it is refused.

    ended  nothing more of it will come
    """

    __slots__ = ("_left", "_receive", "_since", "ended")

    def __init__(self, receive: Receive, length: bytes) -> None:
        self._since = time.monotonic()
        # Bytes that are still to come, where the request says how many; negative where it does not.
        self._left = int(length) if length.isdigit() and len(length) < 20 else -1
        self.ended = self._left == 0
        self._receive = receive

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            self.ended = True
        elif self._left >= 0:
            self._left -= len(message["body"])
            self.ended = self._left <= 0
        return message

    async def discard(self, headers: Headers, within_s: float, gap_s: float) -> None:
        """Read on to the end, or until nothing has come for `gap_s` seconds.

        within_s  seconds from when the request's head had come
        """
        if self._left > DISCARD_MAX_BYTES:
            return
        if _value(headers, b"expect").lower() == b"100-continue":
            return  # its sender waits for us to ask for it
        loop = asyncio.get_running_loop()
        until, read = loop.time() + within_s - (time.monotonic() - self._since), 0
        try:
            while not self.ended and read < DISCARD_MAX_BYTES:
                async with asyncio.timeout_at(min(until, loop.time() + gap_s)):
                    read += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass


def _value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for found, value in headers if found == name), b"")


def _is_whole(start: Message) -> bool:
    """Whether an answer needs no more of the request; one that is streamed may read while it is sent."""
    return start["status"] >= 400 or any(name == b"content-length" for name, _ in start["headers"])


def _is_preflight(method: str, headers: Headers) -> bool:
    return (
        method == "OPTIONS"
        and bool(_value(headers, b"origin"))
        and bool(_value(headers, b"access-control-request-method"))
    )


async def _answer_empty(send: Send, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
