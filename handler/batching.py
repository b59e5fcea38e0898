"""Micro-batching: queries that wait anyway share one model run.

`Plan` decides who may wait, what leaves and when, and never looks at a clock;
`Batcher` owns the clock, the lanes and the futures. Read `Plan` first.

Work-conserving: an idle lane takes what is there at once, and nobody is held
back for company.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from handler.errors import DeadlineExceeded, Overloaded
from handler.log import Log
from handler.policy import Scores
from handler.query import Normalised
from handler.scored import Scored
from handler.statistics import BatcherStatistics
from handler.telemetry import Telemetry

if TYPE_CHECKING:  # the runtime is imported on a thread of its own, while the start goes on
    from handler.model import Run

DropReason = Literal["deadline", "caller_gone"]

# How much of the lanes' own time the measured throughput looks back on.
THROUGHPUT_MEMORY_S = 0.5
# What a lane is taken to do, in tokens a second, before anything was measured; what was measured
# counts for more as soon as lanes have worked for longer than `GUESS_S`.
LANE_TOKENS_PER_S = 10_000
GUESS_S = 0.02
# A burst may pass `queue_min` for as long as `BURST_S` after the queue was last short, which is under
# half of it; a queue that never gets short again is a flood.
BURST_S = 0.02
# Runs differ, and neighbours come and go: a query is let in when so many times its expected wait fits
# into its time.
DEADLINE_MARGIN = 1.25
# A query that has less than this share of `wait_max_s` left when it is queued was given less by its caller.
OWN_TIME = 0.9
# Tokens in a run of bulk queries, which is how long a single query may find every lane taken by them:
# `BULK_TOKENS_BESIDE` while single queries came within `SINGLES_SEEN_S`.
BULK_TOKENS_MAX = 128
BULK_TOKENS_BESIDE = 56
SINGLES_SEEN_S = 0.1
# While single queries never end, a bulk query that has waited so long leaves after so many of their runs.
BULK_PATIENCE_S = 0.1
BULK_AFTER_RUNS = 7
# A full queue is searched for queries that nobody wants any more no more often: in a storm of refusals
# the search would cost more than they do.
CLEAR_EVERY_S = 0.02
# Nobody is sent away for longer, whatever the arithmetic says of a lane that hangs.
RETRY_AFTER_MAX_S = 30
# Made once: in a flood most of what the gateway says is one of these.
_RETRY_AFTER = tuple((("retry-after", str(seconds)),) for seconds in range(RETRY_AFTER_MAX_S + 1))
_REFUSED = "the gateway has {}; Retry-After says when what waits now will be done"
_FULL = _REFUSED.format("more queries waiting than it can answer soon")
_TOO_LATE = _REFUSED.format("too much to do to answer this query in its time")


class Scorer(Protocol):
    """A model, as far as the lanes know it."""

    def run(self, queries: list[Normalised]) -> "Run":
        """Score a batch. Blocks; called on a lane's thread."""


class Ticket(msgspec.Struct, eq=False):
    """A query in the queue, and who waits for it.

    scorer    the model that it was normalised and keyed for, which alone may score it
    tokens    estimate, for the budgets
    deadline  loop time, in seconds, after which nobody wants the answer; a later
              caller of the same query may move it back
    wanted    whether anybody still waits
    bulk      one of many that were sent together: single queries go before it
    caller    names who asks, of whom none may take the queue from the others; empty: unknown
    keep      is given the scores before anybody hears of them
    """

    query: Normalised
    scorer: Scorer
    tokens: int
    deadline: float
    wanted: bool = True
    bulk: bool = False
    caller: bytes = b""
    keep: Callable[[Scores], None] | None = None
    arrived: float = 0.0
    done: asyncio.Future[Scored] | None = None

    @property
    def dropped(self) -> bool:
        """Whether it failed, or was left out of every batch; then nobody may join it any more."""
        done = self.done
        return done is not None and done.done() and (done.cancelled() or done.exception() is not None)

    def dead(self, now: float) -> DropReason | None:
        if not self.wanted or (self.done is not None and self.done.cancelled()):
            return "caller_gone"
        return "deadline" if now >= self.deadline else None

    def resolve(self, scored: Scored) -> None:
        if self.done is not None and not self.done.done():
            if self.keep is not None:
                self.keep(scored.scores)
            self.done.set_result(scored)

    def fail(self, error: BaseException) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


class Throughput:
    """How fast the lanes work off queries, in estimated tokens a second.

    guess  what holds until something was measured
    """

    def __init__(self, guess: float) -> None:
        self._tokens = guess * GUESS_S
        self._seconds = GUESS_S

    def ran(self, tokens: int, lanes_s: float) -> None:
        """Note a run: its tokens, and its share of the time of all lanes together."""
        keep = math.exp(-lanes_s / THROUGHPUT_MEMORY_S)
        self._tokens = self._tokens * keep + tokens
        self._seconds = self._seconds * keep + lanes_s

    def seconds_for(self, tokens: int) -> float:
        """How long so much work takes."""
        return tokens * self._seconds / self._tokens


class Line:
    """Queries that wait: callers take turns, and each one's oldest query leaves first."""

    def __init__(self) -> None:
        self._of: dict[bytes, deque[Ticket]] = {}  # by caller; no entry is empty
        self._turns: deque[bytes] = deque()
        self._count = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self._count

    @property
    def head(self) -> Ticket:
        """The query that leaves next."""
        return self._of[self._turns[0]][0]

    @property
    def callers(self) -> int:
        """How many callers have a query here."""
        return len(self._of)

    def held_by(self, caller: bytes) -> int:
        return len(self._of.get(caller, ()))

    def append(self, ticket: Ticket) -> None:
        if ticket.caller not in self._of:
            self._of[ticket.caller] = deque()
            self._turns.append(ticket.caller)
        self._of[ticket.caller].append(ticket)
        self._count += 1
        self.tokens += ticket.tokens

    def popleft(self) -> Ticket:
        caller = self._turns.popleft()
        queries = self._of[caller]
        ticket = queries.popleft()
        if queries:
            self._turns.append(caller)
        else:
            del self._of[caller]
        self._count -= 1
        self.tokens -= ticket.tokens
        return ticket

    def remove_dead(self, now: float) -> list[tuple[Ticket, DropReason]]:
        """Take out all that nobody wants any more, wherever it stands."""
        everyone = [self.popleft() for _ in range(len(self))]
        dead = []
        for ticket in everyone:
            if reason := ticket.dead(now):
                dead.append((ticket, reason))
            else:
                self.append(ticket)
        return dead


class Plan:
    """The queue, who may wait in it, and what the next run is.

    size_max    queries in a run
    tokens_max  estimated tokens in a run; one query always fits
    queue_min   queries that may always wait, however long they are
    queue_max   queries that may wait in a burst; where it is the smaller of the two, it holds
    lanes       runs at once, for a guess at the throughput before it was measured
    wait_max_s  how long a query is given, unless its caller gives it less

    The law (docs/decisions/0011): a query may wait while fewer than `queue_min` do.
    Past that only a burst may, or a caller who holds less than its share of the
    queue. Either way it is refused when the measured throughput says that its own
    deadline would pass.

    Bulk queries wait in a line of their own, behind every single one. They are few:
    whoever sends them queues only so many of a request at a time.
    """

    def __init__(
        self,
        *,
        size_max: int,
        tokens_max: int,
        queue_min: int,
        queue_max: int,
        lanes: int = 1,
        wait_max_s: float = 1.0,
    ) -> None:
        self.size_max = size_max
        self.tokens_max = tokens_max
        self.queue_min = min(queue_min, queue_max)
        self.queue_max = queue_max
        self.wait_max_s = wait_max_s
        # All lanes together hold a quarter of what may wait, so that the queue is what a query waits for.
        self._run_max = max(2, self.queue_min // (4 * lanes))
        self._single = Line()
        self._bulk = Line()
        self._running = 0
        self._throughput = Throughput(guess=lanes * LANE_TOKENS_PER_S)
        self._short_at = -math.inf  # when fewer than half of `queue_min` waited last
        self._single_at = -math.inf  # when a single query came last
        self._runs_since_bulk = 0
        self._cleared_at = -math.inf
        self._removed: list[tuple[Ticket, DropReason]] = []

    def __len__(self) -> int:
        return len(self._single) + len(self._bulk) + len(self._removed)

    @property
    def waiting(self) -> int:
        """Single queries that wait for a lane."""
        return len(self._single)

    @property
    def tokens(self) -> int:
        """Estimated tokens of all that waits for a lane, bulk included."""
        return self._single.tokens + self._bulk.tokens

    @property
    def expected_s(self) -> float:
        """How long all that waits or runs will take, by the measured throughput."""
        return self._throughput.seconds_for(self.tokens + self._running)

    @property
    def fullness(self) -> float:
        """How near the queue is to refusing a single query that is no part of a burst: 1 is full."""
        ahead_s = self._throughput.seconds_for(self._single.tokens + self._running)
        by_time = DEADLINE_MARGIN * ahead_s / self.wait_max_s if len(self._single) else 0.0
        return min(1.0, max(len(self._single) / self.queue_min, by_time))

    def add(self, ticket: Ticket, now: float) -> None:
        """Queue a query. Never blocks.

        Full: raises `Overloaded`. Raises `DeadlineExceeded` when a time of `wait_max_s` would do and the
        query's own, shorter one will not.
        """
        self.require_room(ticket.caller, ticket.bulk, now)
        if not self._in_time(ticket, ticket.deadline, now):
            short = ticket.deadline - now < OWN_TIME * self.wait_max_s
            if short and self._in_time(ticket, now + self.wait_max_s, now):
                # Whoever allows less time than we do is late by its own choice: nothing was shed.
                raise DeadlineExceeded("what waits before this query takes longer than the time it was given")
            raise self._refusal(_TOO_LATE)
        ticket.arrived = now
        if ticket.bulk:
            self._bulk.append(ticket)
        else:
            self._single.append(ticket)
            self._single_at = now

    def require_room(self, caller: bytes, bulk: bool, now: float) -> None:
        """Raise `Overloaded` where one more query of this caller may not wait, whatever its length."""
        line = self._bulk if bulk else self._single
        if self._has_room(line, caller, now):
            return
        if not (self._cleared(line, now) and self._has_room(line, caller, now)):
            raise self._refusal(_FULL)

    def _cleared(self, line: Line, now: float) -> bool:
        """Take out what nobody wants any more, unless that was done just now; whether it was done."""
        if now - self._cleared_at < CLEAR_EVERY_S:
            return False
        self._cleared_at = now
        self._removed += line.remove_dead(now)
        return True

    def _has_room(self, line: Line, caller: bytes, now: float) -> bool:
        """Whether one more may wait."""
        if len(self._single) < self.queue_min / 2:
            self._short_at = now
        if line is self._bulk:
            # Who queues bulk bounds it; this bounds how many such requests there are at once.
            return len(line) < self.queue_max and self._shares(line, caller, self.queue_max)
        if len(line) < self.queue_min:
            return True
        if len(line) >= self.queue_max:
            return False
        if now - self._short_at <= BURST_S:
            return self._shares(line, caller, self.queue_max)
        others = line.callers > bool(line.held_by(caller))
        return others and self._shares(line, caller, self.queue_min)

    def _shares(self, line: Line, caller: bytes, places: int) -> bool:
        """Whether a caller holds less of so many places than is its share while others wait: half at most."""
        held = line.held_by(caller)
        callers = line.callers + (not held)
        return callers == 1 or held < places / callers

    def _in_time(self, ticket: Ticket, deadline: float, now: float) -> bool:
        """Whether a query may expect its answer before a deadline. Where nothing waits or runs, always."""
        ahead = self._single.tokens + self._running + (self._bulk.tokens if ticket.bulk else 0)
        if not ahead:
            return True
        return now + DEADLINE_MARGIN * self._throughput.seconds_for(ahead + ticket.tokens) <= deadline

    def _refusal(self, message: str) -> Overloaded:
        after_s = min(max(1, math.ceil(self.expected_s)), RETRY_AFTER_MAX_S)
        return Overloaded(message, headers=_RETRY_AFTER[after_s])

    def take(self, now: float, lanes_free: int = 1) -> tuple[list[Ticket], list[tuple[Ticket, DropReason]]]:
        """Remove the next run's queries, oldest first, and whatever died before them.

        lanes_free  lanes that could run now, this one included: what waits is shared out among them

        `ran` must be told when the run is done.
        """
        dropped, self._removed = self._removed, []
        batch: list[Ticket] = []
        # A line may hold dead queries alone; then the other has its turn.
        for line in (self._next_line(now), self._single, self._bulk):
            if not batch:
                batch = self._take_from(line, now, lanes_free, dropped)
        if batch:
            self._running += sum(ticket.tokens for ticket in batch)
            self._runs_since_bulk = 0 if batch[0].bulk else self._runs_since_bulk + 1
        return batch, dropped

    def _next_line(self, now: float) -> Line:
        """Single queries go first, but bulk ones have a run now and then though single ones never end."""
        patient = (
            len(self._bulk)
            and self._runs_since_bulk >= BULK_AFTER_RUNS
            and now - self._bulk.head.arrived > BULK_PATIENCE_S
        )
        return self._bulk if patient or not len(self._single) else self._single

    def _take_from(
        self, line: Line, now: float, lanes_free: int, dropped: list[tuple[Ticket, DropReason]]
    ) -> list[Ticket]:
        size_max = min(self.size_max, self._run_max, math.ceil(len(line) / max(1, lanes_free)))
        tokens_max = self.tokens_max
        if line is self._bulk:
            # Where single queries wait, this is the run now and then, which is worth its turn.
            beside = now - self._single_at < SINGLES_SEEN_S and not len(self._single)
            tokens_max = min(tokens_max, BULK_TOKENS_BESIDE if beside else BULK_TOKENS_MAX)
        batch: list[Ticket] = []
        tokens = 0
        while len(line) and len(batch) < size_max:
            ticket = line.head
            reason = ticket.dead(now)
            if reason is None:
                tokens += ticket.tokens
                # No run mixes two models: what was keyed for one is scored by that one.
                if batch and (tokens > tokens_max or ticket.scorer is not batch[0].scorer):
                    break
                batch.append(line.popleft())
            else:
                dropped.append((line.popleft(), reason))
        return batch

    def ran(self, batch: list[Ticket], lanes_s: float) -> None:
        """A run is done.

        lanes_s  its share of the time of all lanes together
        """
        tokens = sum(ticket.tokens for ticket in batch)
        self._running -= tokens
        self._throughput.ran(tokens, lanes_s)


class Batcher:
    """Lanes that take batches from one queue.

    A lane is a task that waits for one model run at a time on the executor.
    `run_lane` for each of `lanes` must be kept running, and watched, by the owner.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        lanes: int,
        executor: Executor,
        stall_s: float,
        telemetry: Telemetry,
        log: Log,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        stall_s  a run that takes longer than this means the lane hangs
        now      a clock in seconds that is the event loop's
        """
        self.plan = plan
        self.lanes = lanes
        self._executor = executor
        self._stall_s = stall_s
        self._telemetry = telemetry
        self._log = log
        self._now = now
        self._idle: deque[asyncio.Future[None]] = deque()
        self._busy_since: dict[int, float] = {}
        self._running = 0
        self.batches = 0
        self.answered = 0

    def submit(self, ticket: Ticket) -> asyncio.Future[Scored]:
        """Queue a query. Raises `Overloaded` at once when there is no room, `DeadlineExceeded` when its own time will not do.

        The future ends with its scores, with `DeadlineExceeded` when its time was
        over before a lane took it, or with what the model raised on it.
        """
        loop = asyncio.get_running_loop()
        self.plan.add(ticket, loop.time())
        ticket.done = loop.create_future()
        self._wake()
        return ticket.done

    def require_room(self, caller: bytes, bulk: bool) -> None:
        """Raise `Overloaded` where a query of this caller would be refused for its place in the queue."""
        self.plan.require_room(caller, bulk, asyncio.get_running_loop().time())

    @property
    def alive(self) -> bool:
        """Whether every lane runs and none hangs in a model run."""
        now = self._now()
        stalled = any(now - since > self._stall_s for since in list(self._busy_since.values()))
        return self._running == self.lanes and not stalled

    @property
    def idle(self) -> bool:
        """Whether every lane rests and nothing waits for one."""
        return not self._busy_since and not len(self.plan)

    def statistics(self) -> BatcherStatistics:
        return BatcherStatistics(
            running=self.alive,
            lanes=self.lanes,
            queue_depth=self.plan.waiting,
            queue_tokens=self.plan.tokens,
            fullness=self.plan.fullness,
            size_max=self.plan.size_max,
            average_size=self.answered / self.batches if self.batches else 0.0,
        )

    async def run_lane(self) -> None:
        """Take batches until cancelled. Ends in no other way: its owner ends the process if it does."""
        lane = self._running
        self._running += 1
        try:
            while True:
                if len(self.plan):
                    await self._turn(lane)
                else:
                    await self._pause()
        finally:
            self._running -= 1

    async def _turn(self, lane: int) -> None:
        """Take a batch and run it. An idle lane keeps nothing of it, such as a model that was swapped since."""
        loop = asyncio.get_running_loop()
        batch, dropped = self.plan.take(loop.time(), self.lanes - len(self._busy_since))
        for ticket, reason in dropped:
            self._telemetry.dropped(reason)
            ticket.fail(DeadlineExceeded("the query's time ran out before a lane was free"))
        if batch:
            left = loop.time()
            await self._run(lane, batch)
            self.plan.ran(batch, (loop.time() - left) / self.lanes)

    def _wake(self) -> None:
        while self._idle:
            if _rouse(self._idle.popleft()):
                return

    async def _pause(self) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(sleeper)
        await sleeper

    async def _run(self, lane: int, batch: list[Ticket]) -> None:
        """Run a batch and answer its queries."""
        loop = asyncio.get_running_loop()
        left = self._busy_since[lane] = loop.time()
        try:
            run = await loop.run_in_executor(self._executor, self._timed, batch)
        except Exception as exc:
            await self._isolate(lane, batch, exc)
            return
        except (SystemExit, KeyboardInterrupt) as end:
            # It would end the event loop as if that had been asked for, with exit code 0.
            raise RuntimeError("a model run wanted to end the process") from end
        finally:
            self._busy_since.pop(lane, None)
        self.batches += 1
        self.answered += len(batch)
        waits_s = [left - ticket.arrived for ticket in batch]
        self._telemetry.batch(len(batch), run.tokenize_s + run.infer_s, waits_s)
        for ticket, scores, queue_s in zip(batch, run.scores, waits_s, strict=True):
            stages = (("queue", queue_s), ("tokenize", run.tokenize_s), ("infer", run.infer_s))
            ticket.resolve(Scored(scores, "miss", stages))

    def _timed(self, batch: list[Ticket]) -> "Run":
        """On the lane's thread: a model run."""
        return batch[0].scorer.run([ticket.query for ticket in batch])

    async def _isolate(self, lane: int, batch: list[Ticket], error: Exception) -> None:
        """A batch raised: run each of its queries alone, so that only the bad one fails."""
        if len(batch) == 1:
            self._log.error("model_run_failed", error=error)
            batch[0].fail(error)
            return
        for ticket in batch:
            await self._run(lane, [ticket])


def _rouse(sleeper: asyncio.Future[None]) -> bool:
    """Wake a pausing lane; False when something else already did."""
    if sleeper.done():
        return False
    sleeper.set_result(None)
    return True
