"""One HTTP request and the answer to it, as far as every wire needs them.

Bounded reading and unpacking of a body, and sending. Knows ASGI, and neither
Litestar nor what a body means.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from handler import headers
from handler.errors import PayloadTooLarge, UnsupportedMediaType, ValidationError
from handler.tracing import Trace

# ASGI's three arguments.
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

JSON = b"application/json"
NDJSON = b"application/x-ndjson"


class Exchange:
    """A request whose head has come, and what it takes to answer it.

    asked          the request's headers, as far as the gateway reads them
    started        when its head had come, by `time.perf_counter`
    own_timeout_s  what its caller gave its query, in seconds, where that is less than we would
    traced         whether it was decided if it is traced
    trace          its trace, if it is
    """

    __slots__ = ("_receive", "_send", "asked", "own_timeout_s", "scope", "started", "trace", "traced")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started = time.perf_counter()
        self.asked = headers.read(scope["headers"])
        self.own_timeout_s: float | None = None
        self.scope = scope
        self.traced = False
        self.trace: Trace | None = None
        self._receive = receive
        self._send = send

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    def header(self, name: bytes) -> bytes:
        """A header by its lower-case name; the last of several, empty where there is none."""
        found = b""
        for key, value in self.scope["headers"]:
            if key == name:
                found = value
        return found

    def timeout_s(self, *, at_most_s: float, also_s: float | None = None) -> float:
        """Seconds for a query: ours, or its caller's own where that is shorter. Raises `ValidationError`.

        at_most_s  ours
        also_s     what the caller said elsewhere than in the header, if anything
        """
        own_s = headers.timeout_s(self.asked, at_most_s=at_most_s)
        if also_s is not None:
            own_s = min(own_s, also_s)
        if own_s < at_most_s:
            self.own_timeout_s = own_s
        return own_s

    @property
    def spent_s(self) -> float:
        """Seconds since the request's head had come."""
        return time.perf_counter() - self.started

    async def body(self, bytes_max: int, within_s: float) -> bytes:
        """Read the whole body, unpacked.

        bytes_max  at most so many bytes, before and after unpacking
        within_s   seconds for all of it to come

        Raises `PayloadTooLarge`, `UnsupportedMediaType` or `ValidationError`.
        """
        declared = self.asked.content_length
        if declared is not None and declared > bytes_max:
            raise PayloadTooLarge(f"the body is {declared} bytes; at most {bytes_max} are read")
        # What `asyncio.timeout` does, for a third of its cost: every query pays for it.
        task, late = asyncio.current_task(), False
        assert task is not None

        def expire() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(within_s, expire)
        try:
            packed = await self._whole(declared, bytes_max)
        except asyncio.CancelledError:
            if not late or task.uncancel():
                raise
            raise ValidationError(f"the body had not arrived in full after {within_s:g} s") from None
        finally:
            timer.cancel()
        encoding = self.asked.content_encoding
        return packed if not encoding else unpacked(packed, encoding, bytes_max)

    async def _whole(self, declared: int | None, bytes_max: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            chunk, more = _of_body(await self._receive())
            size += len(chunk)
            if size > bytes_max:
                raise PayloadTooLarge(f"the body is over {bytes_max} bytes")
            chunks.append(chunk)
            if size == declared or not more:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def chunk(self) -> tuple[bytes, bool]:
        """The next bytes of the body as they came, and whether more may follow. Raises `ValidationError`."""
        return _of_body(await self._receive())

    async def chunks(self, within_s: float) -> AsyncIterator[bytes]:
        """The body as it comes, not unpacked.

        within_s  seconds to wait for the next bytes
        """
        more = True
        while more:
            try:
                async with asyncio.timeout(within_s):
                    chunk, more = await self.chunk()
            except TimeoutError:
                raise ValidationError(f"no more of the body had arrived after {within_s:g} s") from None
            if chunk:
                yield chunk

    async def discard(self, within_s: float, gap_s: float) -> None:
        """Read on and throw away: to the end, or until nothing has come for `gap_s`, or `within_s` are over.

        A connection that is closed with bytes unread takes away what its caller has not read of the answer.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        try:
            while True:
                async with asyncio.timeout_at(min(until, loop.time() + gap_s)):
                    message = await self._receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
        except TimeoutError:
            pass

    async def hung_up(self) -> None:
        """Return when the caller has gone. Only after the whole body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(
        self, code: int, body: bytes, extra: headers.Headers, content_type: bytes = JSON
    ) -> None:
        """Send a whole answer."""
        await self._send(
            {
                "type": "http.response.start",
                "status": code,
                "headers": [
                    (b"content-type", content_type),
                    (b"content-length", b"%d" % len(body)),
                    *extra,
                ],
            }
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def begin(self, code: int, extra: headers.Headers, content_type: bytes) -> None:
        """Begin an answer of unknown length; `part` and `end` follow."""
        start = [(b"content-type", content_type), *extra]
        await self._send({"type": "http.response.start", "status": code, "headers": start})

    async def part(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _of_body(message: Mapping[str, Any]) -> tuple[bytes, bool]:
    """The bytes that a message brings, and whether more may follow. Raises `ValidationError`."""
    if message["type"] == "http.disconnect":
        # So the server tells of a caller who left, and of chunks that cannot be read; who
        # sent the latter is still there.
        raise ValidationError("the body broke off before its end, or its chunks cannot be read")
    return message["body"], bool(message.get("more_body"))


# Packed bodies


# A stream is unpacked in pieces of so many bytes, so that its memory does not grow with its packing.
PIECE = 256 * 1024


class Unpacker(Protocol):
    """Unpacks a stream piece by piece, never into more than was asked for."""

    def feed(self, packed: bytes, bytes_max: int) -> bytes:
        """Unpack more; raises `PayloadTooLarge` where it would be over `bytes_max`, `ValidationError`."""

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """Unpack more, however much it makes, in pieces of `PIECE` bytes at most; raises `ValidationError`."""

    def end(self) -> None:
        """Raise `ValidationError` where the stream is not at its end."""


class _Plain:
    def feed(self, packed: bytes, bytes_max: int) -> bytes:
        return packed

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        yield packed

    def end(self) -> None:
        pass


class _Zlib:
    """gzip and deflate; the latter with and without zlib's frame, since both are in use."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream = zlib.decompressobj(wbits=31) if name == "gzip" else None
        self._head = b""  # of a deflate stream, until it says which of the two it is

    def feed(self, packed: bytes, bytes_max: int) -> bytes:
        found = self._some(packed, bytes_max + 1)
        if len(found) > bytes_max or (self._stream is not None and self._stream.unconsumed_tail):
            raise PayloadTooLarge(f"the body is over {bytes_max} bytes once it is unpacked")
        return found

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        yield (piece := self._some(packed, PIECE))
        # A full piece may leave more within zlib though it has taken all that it was given.
        while self._stream is not None and (self._stream.unconsumed_tail or len(piece) == PIECE):
            yield (piece := self._some(self._stream.unconsumed_tail, PIECE))

    def _some(self, packed: bytes, bytes_max: int) -> bytes:
        if self._stream is None:
            self._head += packed
            if len(self._head) < 2:
                return b""
            packed = self._head
            framed = packed[0] & 0x0F == 8 and int.from_bytes(packed[:2], "big") % 31 == 0  # RFC 1950
            self._stream = zlib.decompressobj(wbits=15 if framed else -15)
        try:
            found = self._stream.decompress(packed, bytes_max)
        except zlib.error as exc:
            raise ValidationError(f"the body cannot be unpacked as {self._name}") from exc
        if self._stream.unused_data.strip(b"\0"):
            raise ValidationError(f"bytes follow the end of the {self._name} body")
        return found

    def end(self) -> None:
        if (self._head and self._stream is None) or (self._stream is not None and not self._stream.eof):
            raise ValidationError(f"the {self._name} body breaks off before its end")


class _Zstd:
    def __init__(self) -> None:
        self._stream, self._error = _zstd()
        self._fed = False

    def feed(self, packed: bytes, bytes_max: int) -> bytes:
        found = self._some(packed, bytes_max + 1)
        if len(found) > bytes_max or self._more:
            raise PayloadTooLarge(f"the body is over {bytes_max} bytes once it is unpacked")
        return found

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        yield self._some(packed, PIECE)
        while self._more:
            yield self._some(b"", PIECE)

    @property
    def _more(self) -> bool:
        """Whether it holds what has not been handed out."""
        return self._fed and not (self._stream.needs_input or self._stream.eof)

    def _some(self, packed: bytes, bytes_max: int) -> bytes:
        if not packed and not self._more:
            return b""
        self._fed = True
        if self._stream.eof:
            raise ValidationError("bytes follow the end of the zstd body")
        try:
            found: bytes = self._stream.decompress(packed, bytes_max)
        except self._error as exc:
            raise ValidationError("the body cannot be unpacked as zstd") from exc
        if self._stream.unused_data:
            raise ValidationError("bytes follow the end of the zstd body")
        return found

    def end(self) -> None:
        if self._fed and not self._stream.eof:
            raise ValidationError("the zstd body breaks off before its end")


# What an unpacker may remember of the past, as a power of two: 8 MiB, zstd's own default bound.
ZSTD_WINDOW_LOG_MAX = 23


def _zstd() -> tuple[Any, type[Exception]]:
    """Python's own zstd from 3.14 on, else the same from a package; imported when one is first needed."""
    try:
        from compression import zstd  # type: ignore[import-not-found]
    except ImportError:
        from backports import zstd
    options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
    return zstd.ZstdDecompressor(options=options), zstd.ZstdError


def unpacker(encoding: bytes) -> Unpacker:
    """What unpacks a content-encoding. Raises `UnsupportedMediaType`."""
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return _Plain()
    if name in (b"gzip", b"x-gzip"):
        return _Zlib("gzip")
    if name == b"deflate":
        return _Zlib("deflate")
    if name == b"zstd":
        return _Zstd()
    raise UnsupportedMediaType("the body must be sent plain or with content-encoding gzip, deflate or zstd")


def unpacked(packed: bytes, encoding: bytes, bytes_max: int) -> bytes:
    """Unpack a whole body into at most `bytes_max` bytes.

    Raises `PayloadTooLarge`, `UnsupportedMediaType` or `ValidationError`.
    """
    stream = unpacker(encoding)
    found = stream.feed(packed, bytes_max)
    stream.end()
    return found
