"""Open arrivals: queries that come when they come, whether or not the last was answered.

A closed loop slows down with the server that it measures, and so hides its stalls;
here each query has its own moment, and its latency counts from that moment. One
process, raw sockets, kept alive.
"""

import asyncio
import itertools
import json
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from scripts.capacity import ASKS, NOUNS

CONNECTIONS_MAX = 4000
ANSWER_WITHIN_S = 20.0


@dataclass
class Outcome:
    """What the callers saw. `lost` had no answer, or one that breaks the contract's shape."""

    offered: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    without_retry_after: int = 0
    latencies_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    behind_s: float = 0.0
    took_s: float = 0.0
    drained_s: float = 0.0

    def percentile_ms(self, fraction: float, of: list[float] | None = None) -> float:
        ordered = sorted(self.latencies_s if of is None else of)
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] * 1000 if ordered else 0.0

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return self.codes[200] / self.took_s if self.took_s else 0.0

    @property
    def others(self) -> str:
        """What was neither an answer nor a refusal; empty where there was nothing else."""
        odd = [f"{number} × {code}" for code, number in sorted(self.codes.items()) if code not in (200, 429)]
        return ", ".join(odd + [f"{self.lost} lost"] * bool(self.lost))

    def note(self, head: bytes, waited_s: float) -> None:
        code = int(head[9:12])
        self.codes[code] += 1
        if code == 200:
            self.latencies_s.append(waited_s)
        elif code == 429:
            self.refusals_s.append(waited_s)
            self.without_retry_after += b"\r\nretry-after: " not in head.lower()


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


def request(text: str, *, path: str = "/v1/query-classify", extra: str = "") -> bytes:
    body = json.dumps({"text": text})
    return (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{extra}"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


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
    dice, numbers = random.Random(seed), itertools.count()
    run = 1000 + zlib.crc32(seed.encode()) % 9000
    return lambda: f"{dice.choice(ASKS).format(noun=dice.choice(NOUNS))} {run}-{next(numbers)}"


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
