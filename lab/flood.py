"""Open arrivals from an asyncio client, for tests that do other things meanwhile.

`lab/drive.py` is the driver that measures; its outcome and its queries are used here.
"""

import asyncio
import random
import zlib
from collections import deque
from collections.abc import Callable
from typing import cast

from lab import drive
from lab.drive import ANSWER_WITHIN_S, CONNECTIONS_MAX, Outcome, request


class Caller(asyncio.Protocol):
    """One kept-alive connection; one query at a time."""

    def __init__(self) -> None:
        self.waiting: asyncio.Future[bytes] | None = None
        self.closing = False
        self._seen = b""
        self._head = b""
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._head:
            end = self._seen.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = self._seen[: end + 4]
            lower = self._head.lower()
            start = lower.index(b"content-length:") + 15
            self._wanted = end + 4 + int(lower[start : lower.index(b"\r\n", start)])
            self.closing = b"\r\nconnection: close\r\n" in lower
        if len(self._seen) >= self._wanted:
            head, self._seen, self._head = self._head, self._seen[self._wanted :], b""
            if self.waiting and not self.waiting.done():
                self.waiting.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(ConnectionError("lost"))


class Callers:
    """A pool of connections, opened as they are needed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: deque[Caller] = deque()
        self.opened = 0

    async def ask(self, asked: bytes) -> bytes:
        """Send one request and return its answer's head. Raises `OSError` when it has none."""
        caller = None
        while self._idle and (caller is None or caller.closing):
            caller = self._idle.pop()
        if caller is None or caller.closing:
            if self.opened >= CONNECTIONS_MAX:
                raise ConnectionError("the driver is out of connections")
            self.opened += 1
            loop = asyncio.get_running_loop()
            _, caller = await loop.create_connection(Caller, "127.0.0.1", self.port)
        caller.waiting = asyncio.get_running_loop().create_future()
        caller.transport.write(asked)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                head = await caller.waiting
        except BaseException:
            caller.transport.close()
            raise
        if caller.closing:
            caller.transport.close()
        else:
            self._idle.append(caller)
        return head

    def close(self) -> None:
        for caller in self._idle:
            caller.transport.close()


def texts(seed: str) -> Callable[[], str]:
    """Endless queries, no two alike, and as long as those that capacity is measured with."""
    found = drive.texts(zlib.crc32(seed.encode()))
    return lambda: next(found)


async def flood(
    port: int,
    *,
    per_s: float,
    seconds: float,
    seed: str,
    text: Callable[[], str] | None = None,
    callers: Callers | None = None,
) -> Outcome:
    """Offer `per_s` queries a second, at random moments (Poisson), for `seconds`."""
    loop = asyncio.get_running_loop()
    pool = callers or Callers(port)
    next_text, dice = text or texts(seed), random.Random(seed)
    seen = Outcome()
    under_way: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        try:
            head = await pool.ask(request(next_text()))
        except (OSError, TimeoutError):
            seen.lost += 1
            return
        seen.note(head, loop.time() - due)

    began = due = loop.time()
    while due < began + seconds:
        now = loop.time()
        if due > now:
            await asyncio.sleep(due - now)
        else:
            seen.behind_s = max(seen.behind_s, now - due)
            if seen.offered % 16 == 0:
                await asyncio.sleep(0)
        task = loop.create_task(one(due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        seen.offered += 1
        due += dice.expovariate(per_s)
    seen.took_s = loop.time() - began
    while under_way:
        await asyncio.wait(set(under_way))
    seen.drained_s = loop.time() - began - seen.took_s
    if callers is None:
        pool.close()
    return seen
