"""One Redis server as the shared cache level uses it: look-ups, writes and probes, each with its bounds.

Alone it is all of Redis; in a cluster it is one of several, and whatever becomes of it
costs its own keys alone: it has its own round trips, breakers and probes. Three tasks do
the talking, so that a caller who leaves cancels nothing that is on the wire. Read
`_read_rounds` next.

Knows nothing of redis-py: it talks to a `Link`, which `redis_link.py` is.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, get_args

import msgspec

from handler.breaker import Breaker
from handler.entries import write
from handler.log import Log
from handler.policy import Scores
from handler.statistics import L2Drop, L2Failure, L2Operation, L2Reject, ShardStatistics

# More keys than this in one round trip would hold up the next.
KEYS_MAX = 256
# Answers that wait to be written to one server. One is some 200 bytes, so a full buffer is 2 MB.
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
# A cluster sends a key from server to server at most so often: source, target, and one that was moved again.
HOPS_MAX = 3


class LinkError(Exception):
    """Redis could not be asked, or refused. `kind` is a metric's label, the message for people."""

    def __init__(self, kind: L2Failure, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Elsewhere(msgspec.Struct, frozen=True):
    """A cluster's answer for a key that another server has; `asking`: for this one question only."""

    address: str
    asking: bool


class Link(Protocol):
    """How a server is spoken to. Every method may raise `LinkError`, and nothing else on purpose.

    probe  a key of no entry, which is this server's to keep
    """

    @property
    def probe(self) -> bytes: ...

    async def greet(self) -> None:
        """Connect, and make sure that what answers can be used as a cache."""

    async def get_many(
        self, keys: Sequence[bytes], asking: Collection[bytes] = ()
    ) -> Sequence[bytes | Elsewhere | None]:
        """One round trip; a value or None for each key, or who has it. `asking`: those that another server sent here."""

    async def set_many(
        self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
    ) -> Sequence[LinkError | Elsewhere | None]:
        """One round trip; for each entry None, why it was refused, or whose it is."""

    async def size(self) -> int | None:
        """Keys in the database, all applications' together; None where asking is not allowed."""

    async def close(self) -> None: ...


class LookUp(msgspec.Struct, eq=False):
    """A look-up that waits. `since` is loop time in seconds; `value` becomes bytes or None."""

    key: bytes
    since: float
    value: asyncio.Future[bytes | None]
    asking: bool = False
    hops: int = 0

    def settle(self, value: bytes | None) -> None:
        if not self.value.done():
            self.value.set_result(value)


class Write(msgspec.Struct, eq=False):
    """An answer that waits to be written."""

    key: bytes
    scores: Scores
    asking: bool = False
    hops: int = 0


class Counts:
    """What happened since the start, on all servers together.

    answered  told of every round trip that was answered: which, and its seconds
    """

    def __init__(self, answered: Callable[[L2Operation, float], None]) -> None:
        self.errors: Counter[L2Failure] = Counter()
        self.dropped: Counter[L2Drop] = Counter()
        self.rejected: Counter[L2Reject] = Counter()
        self._round_trips: Counter[L2Operation] = Counter()
        self._round_trips_s: dict[L2Operation, float] = dict.fromkeys(get_args(L2Operation), 0.0)
        self._tell = answered

    def answered(self, operation: L2Operation, took_s: float) -> None:
        """Note a round trip that Redis answered."""
        self._round_trips[operation] += 1
        self._round_trips_s[operation] += took_s
        self._tell(operation, took_s)

    def mean_ms(self, operation: L2Operation) -> float | None:
        """Milliseconds of an average round trip; None where there was none."""
        if not (count := self._round_trips[operation]):
            return None
        return round(self._round_trips_s[operation] / count * 1000, 3)


class Owner(Protocol):
    """Who has all the servers, and knows which of them has a key."""

    def sent_on(self, look_up: LookUp, to: Elsewhere) -> None:
        """Ask the server that a look-up was sent to, in what is left of its budget."""

    def write_sent_on(self, write: Write, to: Elsewhere) -> None:
        """Write to the server that a write was sent to."""

    def doubt(self) -> None:
        """What is known of who has which keys may be out of date."""


class Shard:
    """One server. `run` must be kept running by the owner."""

    def __init__(
        self,
        link: Link,
        *,
        address: str,
        timeout_s: float,
        ttl_s: float,
        log: Log,
        counts: Counts,
        owner: Owner,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        address    where it is, for people
        timeout_s  the most that a look-up may cost a query
        ttl_s      life of an entry
        now        seconds since 1970, as the other gateways on this Redis count them
        """
        self.address = address
        self.size: int | None = None
        self.trouble: str | None = "not connected yet"
        # Open until the first probe: no query pays for connecting.
        self.reads = Breaker(closed=False)
        self.writes = Breaker(closed=False)
        self.used_at = float("-inf")  # loop time at which somebody last wanted it
        self.ending = False
        self._link = link
        self._timeout_s = timeout_s
        self._ttl_s = ttl_s
        self._log = log
        self._counts = counts
        self._owner = owner
        self._now = now
        self._waiting: list[LookUp] = []
        self._asked = asyncio.Event()
        self._round: list[LookUp] | None = None
        self._late = False
        self._buffer: deque[Write] = deque()
        self._buffered = asyncio.Event()
        # What the log has said of each open breaker: a kind of failure is said once.
        self._logged: set[tuple[str, L2Failure]] = set()

    def statistics(self) -> ShardStatistics:
        return ShardStatistics(
            address=self.address,
            trouble=self.trouble,
            size=self.size,
            open={"reads": not self.reads.closed, "writes": not self.writes.closed},
        )

    @property
    def unwritten(self) -> int:
        """Writes that wait."""
        return len(self._buffer)

    async def look_up(self, key: bytes) -> bytes | None:
        """The value of a key, asked for together with whoever else asks now.

        Costs nothing while the server is not answering, and `timeout_s` at most otherwise.
        """
        loop = asyncio.get_running_loop()
        self.used_at = loop.time()
        if self._late or self.ending or not self.reads.closed:
            return None
        asked = LookUp(key, loop.time(), loop.create_future())
        self._waiting.append(asked)
        self._asked.set()
        return await asked.value

    def take_over(self, look_up: LookUp, *, asking: bool) -> None:
        """Ask for what another server sent here; the caller's budget began there."""
        loop = asyncio.get_running_loop()
        self.used_at = loop.time()
        if self._late or self.ending or not self.reads.closed or look_up.hops >= HOPS_MAX:
            look_up.settle(None)
            return
        if not look_up.hops:
            # A timer of its own: the round here has its whole budget, and is not late by what was spent there.
            loop.call_at(look_up.since + self._timeout_s, look_up.settle, None)
        self._waiting.append(LookUp(look_up.key, loop.time(), look_up.value, asking, look_up.hops + 1))
        self._asked.set()

    def put(self, entry: Write) -> None:
        """Remember to write an entry. Never waits; drops and counts what there is no room or use for."""
        self.used_at = asyncio.get_running_loop().time()
        if self.ending or not (self.reads.closed and self.writes.closed) or entry.hops > HOPS_MAX:
            self._counts.dropped["unavailable"] += 1
        elif len(self._buffer) >= WRITES_MAX:
            self._counts.dropped["full"] += 1
        else:
            self._buffer.append(entry)
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
            self.ending = True
            await end(tasks)
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
        timer = loop.call_at(asked[0].since + self._timeout_s, self._look_again, asked)
        values: Sequence[bytes | Elsewhere | None] = [None] * len(asked)
        try:
            asking = {one.key for one in asked if one.asking}
            found = await self._link.get_many([one.key for one in asked], asking)
            values = [value for _, value in zip(asked, found, strict=True)]
        except Exception as exc:
            if not self._late:
                self._failed(self.reads, exc)
        else:
            self._counts.answered("get", time.perf_counter() - started)
            if not self._late:
                self._succeeded(self.reads)
        finally:
            timer.cancel()
            self._round, self._late = None, False
            for one, value in zip(asked, values, strict=True):
                if isinstance(value, Elsewhere):
                    self._owner.sent_on(one, value)
                else:
                    one.settle(value)

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
        self._failed(self.reads, LinkError("timeout", f"no answer within {self._timeout_s * 1000:g} ms"))

    def _release(self, asked: list[LookUp]) -> None:
        for one in asked:
            one.settle(None)

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
            self._counts.dropped["unavailable"] += len(batch)
            return
        expires_at = self._now() + self._ttl_s
        entries = [(one.key, write(one.key, one.scores, expires_at)) for one in batch]
        try:
            replies = await self._send(entries, self._ttl_s, {one.key for one in batch if one.asking})
        except asyncio.CancelledError:
            self._buffer.extendleft(reversed(batch))  # `_close` writes them, perhaps again
            raise
        for one, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Elsewhere):
                self._owner.write_sent_on(one, reply)
            elif reply:
                self._counts.dropped["failed"] += 1

    async def _send(
        self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
    ) -> Sequence[LinkError | Elsewhere | None]:
        """Write entries. Returns what became of each."""
        started = time.perf_counter()
        try:
            replies = await self._link.set_many(entries, ttl_s, asking)
        except Exception as exc:
            self._failed(self.writes, exc)
            return [LinkError("other", "not sent")] * len(entries)
        self._counts.answered("set", time.perf_counter() - started)
        if refusals := [reply for reply in replies if isinstance(reply, LinkError)]:
            self._failed(self.writes, refusals[0], count=len(refusals))
        else:
            self._succeeded(self.writes)
        return replies

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
            if quickest_s > self._timeout_s:
                raise LinkError(
                    "timeout",
                    f"answers in {quickest_s * 1000:.0f} ms; the budget is {self._timeout_s * 1000:g}",
                )
            self.size = await self._link.size()
        except Exception as exc:
            self.size = None
            self._failed(self.reads, exc)
            self._owner.doubt()
            return False
        self._succeeded(self.reads)
        if self.writes.due(loop.time()):
            probe = [(self._link.probe, b"written by query-gateway to see whether it can")]
            await self._send(probe, HEARTBEAT_S)
            if not self.writes.closed:
                self._owner.doubt()
        return self.writes.closed

    async def _time_a_look_up(self) -> float:
        """Seconds that a look-up takes, at its best of a few."""
        quickest_s = float("inf")
        for _ in range(PROBE_TRIES):
            started = time.perf_counter()
            await self._link.get_many([self._link.probe])
            quickest_s = min(quickest_s, time.perf_counter() - started)
            if quickest_s <= self._timeout_s:
                break
        self._counts.answered("probe", quickest_s)
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
        self._counts.errors[kind] += count
        breaker.failed(asyncio.get_running_loop().time())
        if breaker.closed:
            return
        what = self._what(breaker)
        trouble = f"{what}: {exc}" if isinstance(exc, LinkError) else f"{what}: {type(exc).__name__}"
        if (what, kind) not in self._logged:
            # Neither once per probe nor per wording: a text may hold a time that never repeats, and
            # two kinds may take turns for hours.
            self._logged.add((what, kind))
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
            self._logged = {one for one in self._logged if one[0] != self._what(breaker)}
        if not was_closed and self.reads.closed and self.writes.closed:
            self.trouble = None
            self._log.info("l2_up", address=self.address, size=self.size)


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    More than once: `asyncio.wait_for` of Python 3.11, on which redis-py sends,
    forgets a cancellation that comes together with its result.
    """
    while left := {task for task in tasks if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
