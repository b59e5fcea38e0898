"""The shared level of the cache: Redis, as long as it answers, and nothing the moment it does not.

A query may lose its budget to it, and never more: not an answer, not a
connection, not a wait for one. `L2.get` and `L2.put` are what the gateway calls;
three tasks do the talking, so that a caller who leaves cancels nothing that is on
the wire. Read `_read_rounds` next.

Knows nothing of redis-py: it talks to a `Link`, which `redis_link.py` is.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, get_args

import msgspec

from handler.breaker import Breaker
from handler.entries import PROBE, ForeignValue, Found, read, write
from handler.log import Log
from handler.policy import Scores
from handler.statistics import L2Drop, L2Failure, L2Operation, L2Reject, L2Statistics

# More keys than this in one MGET, or SETs in one pipeline, would hold up the next.
KEYS_MAX = 256
# Answers that wait to be written. One is some 200 bytes, so a full buffer is 2 MB.
WRITES_MAX = 8192
# How long writes gather. Nobody waits for them, so they may share round trips.
WRITE_GATHER_S = 0.01
# While all is well: how often to look, so that a loss is known before a query meets it.
HEARTBEAT_S = 1.0
# After a bad heartbeat the next comes sooner, to know rather than to guess.
DOUBT_S = 0.1
# Tries of a probe, the quickest of which counts: this process may itself be the slow one.
PROBE_TRIES = 3
CANCEL_AGAIN_S = 0.05
# What is still to be written when the process ends gets this long.
CLOSE_S = 0.5


class LinkError(Exception):
    """Redis could not be asked, or refused. `kind` is a metric's label, the message for people."""

    def __init__(self, kind: L2Failure, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Link(Protocol):
    """How L2 speaks to Redis. Every method may raise `LinkError`, and nothing else on purpose."""

    async def greet(self) -> None:
        """Connect, and make sure that what answers can be used as a cache."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """One round trip; a value or None for each key."""

    async def set_many(self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float) -> list[LinkError | None]:
        """One round trip; for each entry None, or why it was refused."""

    async def size(self) -> int | None:
        """Keys in the database, all applications' together; None where asking is not allowed."""

    async def close(self) -> None: ...


class LookUp(msgspec.Struct, eq=False):
    """A look-up that waits. `since` is loop time in seconds; `value` becomes bytes or None."""

    key: bytes
    since: float
    value: asyncio.Future[bytes | None]


class L2:
    """Scores by key, shared by all gateways of one Redis. `run` must be kept running by the owner."""

    def __init__(
        self,
        link: Link,
        *,
        address: str,
        timeout_s: float,
        ttl_s: float,
        log: Log,
        operation: Callable[[L2Operation, float], None] = lambda operation, took_s: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        address    where Redis is, for people
        timeout_s  the most that a look-up may cost a query
        ttl_s      life of an entry
        operation  told of every round trip that was answered: which, and its seconds
        now        seconds since 1970, as the other gateways on this Redis count them
        """
        self.address = address
        self.timeout_s = timeout_s
        self.size: int | None = None
        self.trouble: str | None = "not connected yet"
        # Open until the first probe: no query pays for connecting.
        self.reads = Breaker(closed=False)
        self.writes = Breaker(closed=False)
        self._errors: Counter[L2Failure] = Counter()
        self._dropped: Counter[L2Drop] = Counter()
        self._rejected: Counter[L2Reject] = Counter()
        self._round_trips: Counter[L2Operation] = Counter()
        self._round_trips_s: dict[L2Operation, float] = dict.fromkeys(get_args(L2Operation), 0.0)
        self._tell = operation
        self._link = link
        self._ttl_s = ttl_s
        self._log = log
        self._now = now
        self._waiting: list[LookUp] = []
        self._asked = asyncio.Event()
        self._round: list[LookUp] | None = None
        self._late = False
        self._buffer: deque[tuple[bytes, Scores]] = deque()
        self._buffered = asyncio.Event()
        # What the log has said of each open breaker: a kind of failure is said once.
        self._told: set[tuple[str, L2Failure]] = set()

    @property
    def healthy(self) -> bool:
        """Whether look-ups and writes both work."""
        return self.trouble is None

    def statistics(self) -> L2Statistics:
        return L2Statistics(
            address=self.address,
            trouble=self.trouble,
            size=self.size,
            open={"reads": not self.reads.closed, "writes": not self.writes.closed},
            errors={kind: self._errors[kind] for kind in get_args(L2Failure)},
            rejected={reason: self._rejected[reason] for reason in get_args(L2Reject)},
            dropped={reason: self._dropped[reason] for reason in get_args(L2Drop)},
            mean_ms={
                operation: round(spent_s / count * 1000, 3)
                if (count := self._round_trips[operation])
                else None
                for operation, spent_s in self._round_trips_s.items()
            },
        )

    def _answered(self, operation: L2Operation, took_s: float) -> None:
        """Note a round trip that Redis answered."""
        self._round_trips[operation] += 1
        self._round_trips_s[operation] += took_s
        self._tell(operation, took_s)

    async def get(self, key: bytes, tasks: int) -> Found | None:
        """Look an entry up, together with whoever else asks now.

        tasks  how many probabilities the model gives

        Costs nothing while Redis is not answering, and `timeout_s` at most otherwise.
        """
        if self._late or not self.reads.closed:
            return None
        loop = asyncio.get_running_loop()
        asked = LookUp(key, loop.time(), loop.create_future())
        self._waiting.append(asked)
        self._asked.set()
        value = await asked.value
        if value is None:
            return None
        try:
            return read(key, value, tasks, now=self._now)
        except ForeignValue as foreign:
            self._rejected[foreign.reason] += 1
        except Exception:  # whatever came, a query is worth more than an entry
            self._rejected["corrupt"] += 1
        return None  # the model's answer will overwrite it

    def put(self, key: bytes, scores: Scores) -> None:
        """Remember to write an entry. Never waits; drops and counts what there is no room or use for."""
        if not (self.reads.closed and self.writes.closed):
            self._dropped["unavailable"] += 1
        elif len(self._buffer) >= WRITES_MAX:
            self._dropped["full"] += 1
        else:
            self._buffer.append((key, scores))
            self._buffered.set()

    async def run(self) -> None:
        """Look up, write and probe until cancelled; then write what is left and hang up."""
        rounds = (self._read_rounds(), self._write_rounds(), self._probe_rounds())
        tasks = {asyncio.create_task(each) for each in rounds}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a bug of ours; the owner ends the process
        finally:
            # More than once: `asyncio.wait_for` of Python 3.11, on which redis-py sends,
            # forgets a cancellation that comes together with its result.
            while tasks := {task for task in tasks if not task.done()}:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
            self._release(self._waiting)
            await self._close()

    # Look-ups: one round trip at a time, for all who asked while the last one was under way.

    async def _read_rounds(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._waiting:
                asked, self._waiting = self._waiting[:KEYS_MAX], self._waiting[KEYS_MAX:]
                await self._read_round(asked)

    async def _read_round(self, asked: list[LookUp]) -> None:
        """Ask for all of them at once. When the oldest's budget is over, nobody waits any longer.

        The answer is still read when it comes late: giving up the connection instead
        would cost a new one each time Redis is a little slow.
        """
        loop = asyncio.get_running_loop()
        self._round = asked
        started = time.perf_counter()
        timer = loop.call_at(asked[0].since + self.timeout_s, self._look_again, asked)
        values: Sequence[bytes | None] = [None] * len(asked)
        try:
            found = await self._link.get_many([one.key for one in asked])
            values = [value for _, value in zip(asked, found, strict=True)]
        except Exception as exc:
            if not self._late:
                self._failed(self.reads, exc)
        else:
            self._answered("get", time.perf_counter() - started)
            if not self._late:
                self._succeeded(self.reads)
        finally:
            timer.cancel()
            self._round, self._late = None, False
            for one, value in zip(asked, values, strict=True):
                if not one.value.done():
                    one.value.set_result(value)

    def _look_again(self, asked: list[LookUp]) -> None:
        # If the loop itself was held up, the answer may lie in the socket; one more
        # turn of the loop reads it. Our lateness must not be taken for Redis's.
        asyncio.get_running_loop().call_soon(self._give_up, asked)

    def _give_up(self, asked: list[LookUp]) -> None:
        if self._round is not asked:
            return
        self._late = True
        self._release(asked)
        self._release(self._waiting)  # they would wait behind it
        self._waiting = []
        self._failed(self.reads, LinkError("timeout", f"no answer within {self.timeout_s * 1000:g} ms"))

    def _release(self, asked: list[LookUp]) -> None:
        for one in asked:
            if not one.value.done():
                one.value.set_result(None)

    # Writes: behind the answers' backs, many to a round trip.

    async def _write_rounds(self) -> None:
        while True:
            await self._buffered.wait()
            await asyncio.sleep(WRITE_GATHER_S)
            self._buffered.clear()
            while self._buffer:
                await self._write_round()

    async def _write_round(self) -> None:
        batch = [self._buffer.popleft() for _ in range(min(KEYS_MAX, len(self._buffer)))]
        if not (self.reads.closed and self.writes.closed):
            self._dropped["unavailable"] += len(batch)
            return
        expires_at = self._now() + self._ttl_s
        entries = [(key, write(key, scores, expires_at)) for key, scores in batch]
        try:
            refused = await self._send(entries, self._ttl_s)
        except asyncio.CancelledError:
            self._buffer.extendleft(reversed(batch))  # `_close` writes them, perhaps again
            raise
        if refused:
            self._dropped["failed"] += refused

    async def _send(self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float) -> int:
        """Write entries. Returns how many were not."""
        started = time.perf_counter()
        try:
            refusals = [refusal for refusal in await self._link.set_many(entries, ttl_s) if refusal]
        except Exception as exc:
            self._failed(self.writes, exc)
            return len(entries)
        self._answered("set", time.perf_counter() - started)
        if refusals:
            self._failed(self.writes, refusals[0], count=len(refusals))
        else:
            self._succeeded(self.writes)
        return len(refusals)

    # Probes: a loss is noticed without queries, and so is its end.

    async def _probe_rounds(self) -> None:
        while True:
            calm = await self._probe()
            loop = asyncio.get_running_loop()
            pause_s = HEARTBEAT_S if calm else DOUBT_S
            for breaker in (self.reads, self.writes):
                if not breaker.closed:
                    pause_s = breaker.rests_until - loop.time()
                    break
            await asyncio.sleep(max(0.0, pause_s))

    async def _probe(self) -> bool:
        """Ask once, as a query would, and write once if writing is in doubt. Whether all went well."""
        loop = asyncio.get_running_loop()
        try:
            if not self.reads.closed:
                await self._link.greet()
            quickest_s = await self._time_a_look_up()
            if quickest_s > self.timeout_s:
                raise LinkError(
                    "timeout",
                    f"answers in {quickest_s * 1000:.0f} ms; the budget is {self.timeout_s * 1000:g}",
                )
            self.size = await self._link.size()
        except Exception as exc:
            self.size = None
            self._failed(self.reads, exc)
            return False
        self._succeeded(self.reads)
        if self.writes.due(loop.time()):
            await self._send([(PROBE, b"written by query-gateway to see whether it can")], HEARTBEAT_S)
        return self.writes.closed

    async def _time_a_look_up(self) -> float:
        """Seconds that a look-up takes, at its best of a few."""
        quickest_s = float("inf")
        for _ in range(PROBE_TRIES):
            started = time.perf_counter()
            await self._link.get_many([PROBE])
            quickest_s = min(quickest_s, time.perf_counter() - started)
            if quickest_s <= self.timeout_s:
                break
        self._answered("probe", quickest_s)
        return quickest_s

    async def _close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._buffer:
                    await self._write_round()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._link.close()

    # State, and a word about it whenever it changes.

    def _failed(self, breaker: Breaker, exc: Exception, *, count: int = 1) -> None:
        kind: L2Failure = exc.kind if isinstance(exc, LinkError) else "other"
        self._errors[kind] += count
        breaker.failed(asyncio.get_running_loop().time())
        if breaker.closed:
            return
        what = self._what(breaker)
        trouble = f"{what}: {exc}" if isinstance(exc, LinkError) else f"{what}: {type(exc).__name__}"
        if (what, kind) not in self._told:
            # Neither once per probe nor per wording: a text may hold a time that never repeats, and
            # two kinds may take turns for hours.
            self._told.add((what, kind))
            self._log.error(
                "l2_down",
                error_type="RedisConnectionFailure",
                error=None if isinstance(exc, LinkError) else exc,
                kind=kind,
                address=self.address,
                message=trouble,
            )
        self.trouble = trouble

    def _what(self, breaker: Breaker) -> str:
        return "look-ups" if breaker is self.reads else "writes"

    def _succeeded(self, breaker: Breaker) -> None:
        was_closed = breaker.closed
        breaker.succeeded()
        if not was_closed:
            self._told = {told for told in self._told if told[0] != self._what(breaker)}
        if not was_closed and self.reads.closed and self.writes.closed:
            self.trouble = None
            self._log.info("l2_up", address=self.address, size=self.size)
