"""Micro-batching: queries that wait anyway share one model run.

`Plan` decides what leaves and when, and never looks at a clock; `Batcher` owns
the clock, the lanes and the futures. Read `Plan` first.

Work-conserving: an idle lane takes what is there at once. Queries gather only
while every lane is busy, unless gathering was asked for.
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
from handler.query import Normalised
from handler.scored import Scored
from handler.statistics import BatcherStatistics
from handler.telemetry import Telemetry

if TYPE_CHECKING:  # the runtime is imported on a thread of its own, while the start goes on
    from handler.model import Run

DropReason = Literal["deadline", "caller_gone"]

# How much of the lanes' own time the measured drain rate looks back on.
DRAIN_MEMORY_S = 0.5
# A burst may pass the bound on waiting for as long as `BURST_S`; a flood goes on, and is cut.
# What counts as one flood: no longer a pause than `CALM_S` between two looks over the bound.
BURST_S = 0.05
CALM_S = 0.25
# How much of the event loop's last lateness is still expected after one more model run.
LAG_KEPT = 0.8
# Nobody is sent away for longer, whatever the arithmetic says of a lane that hangs.
RETRY_AFTER_MAX_S = 30


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
    """

    query: Normalised
    scorer: Scorer
    tokens: int
    deadline: float
    wanted: bool = True
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
            self.done.set_result(scored)

    def fail(self, error: BaseException) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


class Drain:
    """How fast the lanes work off queries, in estimated tokens a second."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def ran(self, tokens: int, lanes_s: float) -> None:
        """Note a run: its tokens, and its share of the time of all lanes together."""
        keep = math.exp(-lanes_s / DRAIN_MEMORY_S)
        self._tokens = self._tokens * keep + tokens
        self._seconds = self._seconds * keep + lanes_s

    def seconds_for(self, tokens: int) -> float:
        """How long so much work takes; 0 while nothing was measured."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0


class Plan:
    """The queue, its bounds, and what the next batch is.

    size_max         queries in a batch
    tokens_max       estimated tokens in a batch
    queue_max        queries that may wait
    queue_tokens_max estimated tokens that may wait, so that a thousand pages are
                     not taken for a thousand sentences
    gather_s         how long the oldest may be held back for company; 0 never
    wait_max_s       how long a newcomer may be expected to wait for its answer, by
                     the measured drain rate, in anything longer than a burst; 0 no bound
    """

    def __init__(
        self,
        *,
        size_max: int,
        tokens_max: int,
        queue_max: int,
        queue_tokens_max: int,
        gather_s: float = 0.0,
        wait_max_s: float = 0.0,
    ) -> None:
        self.size_max = size_max
        self.tokens_max = tokens_max
        self.queue_max = queue_max
        self.queue_tokens_max = queue_tokens_max
        self.gather_s = gather_s
        self.wait_max_s = wait_max_s
        self._queue: deque[Ticket] = deque()
        self._tokens = 0
        self._running = 0
        self._drain = Drain()
        self._lag_s = 0.0
        self._flood_began = self._flood_seen = -math.inf

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def tokens(self) -> int:
        return self._tokens

    @property
    def expected_s(self) -> float:
        """How long all that waits or runs will take, by the measured drain rate."""
        return self._drain.seconds_for(self._tokens + self._running)

    def answer_s(self, tokens: int = 0) -> float:
        """How long a newcomer of so many tokens must expect to wait, from asking to being answered.

        The event loop's lateness counts twice: before the newcomer was looked at, and
        once more when its answer is there.
        """
        return self._drain.seconds_for(self._tokens + self._running + tokens) + 2 * self._lag_s

    @property
    def fullness(self) -> float:
        """How near the queue is to refusing: 1 is full, by the nearest of its bounds."""
        bounds = [len(self._queue) / self.queue_max, self._tokens / self.queue_tokens_max]
        if self._queue and self.wait_max_s:
            bounds.append(self.answer_s() / self.wait_max_s)
        return max(bounds)

    def _require_room(self, tokens: int, now: float) -> None:
        """Raise `Overloaded` when a query of so many tokens would be one too many."""
        # One query is always let in, however long: otherwise none of its kind ever would be.
        if self._queue and (
            len(self._queue) >= self.queue_max
            or self._tokens + tokens > self.queue_tokens_max
            or self._flooded(tokens, now)
        ):
            after_s = min(max(1, math.ceil(self.expected_s)), RETRY_AFTER_MAX_S)
            raise Overloaded(
                "the gateway has more queries waiting than it can answer in time; Retry-After says when "
                "those will be done",
                headers=(("retry-after", str(after_s)),),
            )

    def _flooded(self, tokens: int, now: float) -> bool:
        """Whether a newcomer would wait too long, and has done so for longer than a burst."""
        if not self.wait_max_s or self.answer_s(tokens) <= self.wait_max_s:
            return False
        if now - self._flood_seen > CALM_S:
            self._flood_began = now
        self._flood_seen = now
        return now - self._flood_began > BURST_S

    def add(self, ticket: Ticket, now: float) -> None:
        """Queue a query. Full: raises `Overloaded`, never blocks."""
        self._require_room(ticket.tokens, now)
        ticket.arrived = now
        self._queue.append(ticket)
        self._tokens += ticket.tokens

    def hold_until(self, now: float, *, dense: bool) -> float:
        """When the queue's head may leave: `now`, or later if company is worth waiting for.

        dense  other queries are being worked on: the gateway is not idle
        """
        if not self.gather_s or not dense or not self._queue or len(self._queue) >= self.size_max:
            return now
        return max(now, self._queue[0].arrived + self.gather_s)

    def take(self, now: float) -> tuple[list[Ticket], list[tuple[Ticket, DropReason]]]:
        """Remove the next batch, oldest first, and whatever died before it.

        `ran` must be told when the batch is done.
        """
        batch: list[Ticket] = []
        dropped: list[tuple[Ticket, DropReason]] = []
        tokens = 0
        while self._queue and len(batch) < self.size_max:
            ticket = self._queue[0]
            reason = ticket.dead(now)
            if reason is None:
                tokens += ticket.tokens
                # No run mixes two models: what was keyed for one is scored by that one.
                if batch and (tokens > self.tokens_max or ticket.scorer is not batch[0].scorer):
                    break
            self._queue.popleft()
            self._tokens -= ticket.tokens
            if reason is None:
                batch.append(ticket)
                self._running += ticket.tokens
            else:
                dropped.append((ticket, reason))
        return batch, dropped

    def ran(self, batch: list[Ticket], lanes_s: float, lag_s: float = 0.0) -> None:
        """A batch is done.

        lanes_s  its share of the time of all lanes together
        lag_s    how late the event loop was to hear of it
        """
        tokens = sum(ticket.tokens for ticket in batch)
        self._running -= tokens
        self._drain.ran(tokens, lanes_s)
        self._lag_s = max(lag_s, LAG_KEPT * self._lag_s)


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
        """Queue a query. Raises `Overloaded` at once when there is no room.

        The future ends with its scores, with `DeadlineExceeded` when its time was
        over before a lane took it, or with what the model raised on it.
        """
        loop = asyncio.get_running_loop()
        self.plan.add(ticket, loop.time())
        ticket.done = loop.create_future()
        self._wake()
        return ticket.done

    @property
    def alive(self) -> bool:
        """Whether every lane runs and none hangs in a model run."""
        now = self._now()
        stalled = any(now - since > self._stall_s for since in list(self._busy_since.values()))
        return self._running == self.lanes and not stalled

    def statistics(self) -> BatcherStatistics:
        return BatcherStatistics(
            running=self.alive,
            lanes=self.lanes,
            queue_depth=len(self.plan),
            queue_tokens=self.plan.tokens,
            fullness=self.plan.fullness,
            size_max=self.plan.size_max,
            average_size=self.answered / self.batches if self.batches else 0.0,
        )

    async def run_lane(self) -> None:
        """Take batches until cancelled. Ends in no other way: its owner ends the process if it does."""
        lane = self._running
        self._running += 1
        loop = asyncio.get_running_loop()
        just_ran = False
        try:
            while True:
                if not len(self.plan):
                    just_ran = False
                    await self._pause(None)
                    continue
                hold = self.plan.hold_until(loop.time(), dense=just_ran or bool(self._busy_since))
                if hold > loop.time():
                    await self._pause(hold)
                    continue
                batch, dropped = self.plan.take(loop.time())
                for ticket, reason in dropped:
                    self._telemetry.dropped(reason)
                    ticket.fail(DeadlineExceeded("the query's time was over before a lane was free"))
                if batch:
                    left = loop.time()
                    lag_s = await self._run(lane, batch)
                    self.plan.ran(batch, (loop.time() - left) / self.lanes, lag_s)
                    just_ran = True
        finally:
            self._running -= 1

    def _wake(self) -> None:
        while self._idle:
            if _rouse(self._idle.popleft()):
                return

    async def _pause(self, until: float | None) -> None:
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        self._idle.append(sleeper)
        timer = loop.call_at(until, _rouse, sleeper) if until else None
        try:
            await sleeper
        finally:
            if timer:
                timer.cancel()

    async def _run(self, lane: int, batch: list[Ticket]) -> float:
        """Run a batch and answer its queries. Returns how late the event loop heard of its end, in seconds."""
        loop = asyncio.get_running_loop()
        left = self._busy_since[lane] = loop.time()
        try:
            run, ended = await loop.run_in_executor(self._executor, self._timed, batch)
        except Exception as exc:
            await self._isolate(lane, batch, exc)
            return 0.0
        except (SystemExit, KeyboardInterrupt) as end:
            # It would end the event loop as if that had been asked for, with exit code 0.
            raise RuntimeError("a model run wanted to end the process") from end
        finally:
            self._busy_since.pop(lane, None)
        lag_s = time.perf_counter() - ended
        self.batches += 1
        self.answered += len(batch)
        waits_s = [left - ticket.arrived for ticket in batch]
        self._telemetry.batch(len(batch), run.tokenize_s + run.infer_s, waits_s)
        for ticket, scores, queue_s in zip(batch, run.scores, waits_s, strict=True):
            stages = (("queue", queue_s), ("tokenize", run.tokenize_s), ("infer", run.infer_s))
            ticket.resolve(Scored(scores, "miss", stages))
        return lag_s

    def _timed(self, batch: list[Ticket]) -> "tuple[Run, float]":
        """On the lane's thread: a model run, and when it ended."""
        run = batch[0].scorer.run([ticket.query for ticket in batch])
        return run, time.perf_counter()

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
