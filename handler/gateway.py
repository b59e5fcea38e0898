"""A query's life, from top to bottom.

    text → normalise → key → L1 → one flight per key { L2 → batcher → model } → decide

`Gateway.classify` is the story; every other module is one stage of it and does
not know the others. Knows nothing of HTTP: `app.py` does.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from handler import entries
from handler.batching import Answered, Batcher, Ticket
from handler.cache import L1
from handler.errors import DeadlineExceeded
from handler.l2 import L2
from handler.policy import Decision, Scores, decide
from handler.query import Normalised, estimate_tokens, key, normalise
from handler.shelf import Shelf
from handler.telemetry import Telemetry

if TYPE_CHECKING:
    from handler.model import Router

CacheLevel = Literal["l1", "l2", "miss"]
Stages = tuple[tuple[str, float], ...]

# Only a wait longer than this is worth a look at whether the caller is still
# there: most misses are answered sooner, and watching costs a task each.
WATCH_AFTER_S = 0.02


class CallerGone(Exception):
    """The caller hung up; there is nobody to answer."""


class Answer(msgspec.Struct, frozen=True):
    """A decision and how it came about.

    stages   (name, seconds) in the order they happened; their sum is at most the
             time that the caller waited
    version  of the model that scored it
    """

    decision: Decision
    cache: CacheLevel
    stages: Stages
    version: str


class Landed(msgspec.Struct, frozen=True):
    """What a flight brought: scores, from where, and its stages in the order they happened."""

    scores: Scores
    cache: CacheLevel
    stages: Stages


class Flight:
    """One trip to Redis and the model, shared by all who ask the same thing meanwhile.

    ticket  its place in the queue; wanted for as long as somebody sits here
    """

    __slots__ = ("landed", "seats", "ticket", "trip")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.seats: set[Seat] = set()
        self.landed = False
        self.trip: asyncio.Task[None] | None = None  # to Redis, where there is one

    @property
    def boards(self) -> bool:
        """Whether a newcomer may still join: not once it was dropped from the queue."""
        return not (self.landed or self.ticket.dropped)

    def land(self, landed: Landed) -> None:
        self.landed = True
        for seat in self.seats:
            seat.land(landed)

    def crash(self, error: BaseException) -> None:
        self.landed = True
        for seat in self.seats:
            seat.fail(error)


class Seat:
    """One caller's place on a flight, who waits for its end, for a deadline, or hangs up.

    Leaving early hurts nobody else: the flight goes on for those who stay, and is
    dropped before the model runs once nobody does.
    """

    __slots__ = ("_call", "_caller_left", "_deadline", "_flight", "_timer", "_until", "landed")

    def __init__(
        self, flight: Flight, deadline: float, caller_left: Callable[[], Awaitable[None]] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.landed: asyncio.Future[Landed] = loop.create_future()
        self._flight = flight
        self._deadline = deadline
        # The loop's clock, and so its timers, tick in milliseconds.
        self._until = time.perf_counter() + deadline - loop.time()
        self._caller_left = caller_left
        self._call: asyncio.Future[None] | None = None
        look_at = min(deadline, loop.time() + WATCH_AFTER_S) if caller_left else deadline
        self._timer = loop.call_at(look_at, self._look)
        flight.seats.add(self)
        flight.ticket.wanted = True

    def leave(self) -> None:
        """Make room. To be called once, whatever became of it."""
        self._flight.seats.discard(self)
        self._flight.ticket.wanted = bool(self._flight.seats)
        self._timer.cancel()
        if self._call is not None:
            self._call.cancel()

    def land(self, landed: Landed) -> None:
        if self.landed.done():
            return
        if time.perf_counter() >= self._until:
            self.fail(DeadlineExceeded("the query's time was over when its answer was there"))
        else:
            self.landed.set_result(landed)

    def fail(self, error: BaseException) -> None:
        if not self.landed.done():
            self.landed.set_exception(error)

    def _look(self) -> None:
        """The answer takes its time: see whether its time is over, else whether the caller is there."""
        loop = asyncio.get_running_loop()
        # While the caller is watched, this is the deadline's own timer, which may be a tick early:
        # to watch twice would read the caller's silence as a hang-up.
        if loop.time() >= self._deadline or self._caller_left is None or self._call is not None:
            self.fail(DeadlineExceeded("the query's time was over before its answer was there"))
            return
        self._call = asyncio.ensure_future(self._caller_left())
        self._call.add_done_callback(lambda _: self.fail(CallerGone()))
        self._timer = loop.call_at(self._deadline, self._look)


class Gateway:
    """The stages of a query's life, put in order."""

    def __init__(
        self,
        *,
        shelf: Shelf,
        l1: L1,
        batcher: Batcher,
        telemetry: Telemetry,
        threshold: float,
        l2: L2 | None = None,
    ) -> None:
        self.shelf = shelf
        self.l1 = l1
        self.l2 = l2
        self.batcher = batcher
        self.telemetry = telemetry
        self.threshold = threshold
        self._flights: dict[bytes, Flight] = {}

    async def classify(
        self, text: str, *, timeout_s: float, caller_left: Callable[[], Awaitable[None]] | None = None
    ) -> Answer:
        """Answer one query.

        timeout_s    how long its caller will wait
        caller_left  returns when the caller has hung up

        Raises a `GatewayError` the caller can act on, `CallerGone`, or what the
        model raised on exactly this query.
        """
        router = self.shelf.router
        started = time.perf_counter()
        query = normalise(text, router.manifest.limits)
        name = key(query, router.digest)
        scores = self.l1.get(name)
        looked_up = time.perf_counter()
        stages: Stages = (("l1", looked_up - started),)
        if scores is not None:
            self.telemetry.cache_hit("L1")
            return self._answer(scores, "l1", stages)

        deadline = asyncio.get_running_loop().time() + timeout_s
        landed: Landed | None = None
        try:
            flight = self._flights.get(name)
            if flight is None or not flight.boards:
                flight = self._depart(name, query, deadline, router)
            flight.ticket.deadline = max(flight.ticket.deadline, deadline)
            seat = Seat(flight, deadline, caller_left)
            try:
                landed = await seat.landed
            finally:
                seat.leave()
        finally:
            # Once per query, joiners and failures too: hit rates are about queries, not flights.
            if landed is not None and landed.cache == "l2":
                self.telemetry.cache_hit("L2")
            else:
                self.telemetry.cache_miss()
        waited_s = time.perf_counter() - looked_up
        return self._answer(landed.scores, landed.cache, stages + shares(landed.stages, waited_s))

    def _depart(self, name: bytes, query: Normalised, deadline: float, router: "Router") -> Flight:
        """Begin what happens once for all who ask the same thing at the same time.

        Redis is asked before the queue is: a gateway that sheds misses goes on serving hits.
        Without it, a full queue refuses before anything is spent. Raises `Overloaded`.
        """
        ticket = Ticket(query=query, tokens=estimate_tokens(query, router.manifest.limits), deadline=deadline)
        flight = Flight(ticket)
        if self.l2 is None:
            self._queue(name, flight, ())
        else:
            flight.trip = asyncio.get_running_loop().create_task(self._ask_l2(self.l2, name, flight, router))
        self._flights[name] = flight
        return flight

    async def _ask_l2(self, l2: L2, name: bytes, flight: Flight, router: "Router") -> None:
        try:
            asked = time.perf_counter()
            found = await l2.get(entries.key(router.version, name), len(router.manifest.tasks))
            stages = (("l2", time.perf_counter() - asked),)
            if found is None:
                self._queue(name, flight, stages)
                return
            self.l1.put(name, found.scores, lasts_s=found.lasts_s)
            flight.land(Landed(found.scores, "l2", stages))
        except Exception as error:
            flight.crash(error)
        self._gone(name, flight)

    def _queue(self, name: bytes, flight: Flight, stages: Stages) -> None:
        """Wait for the model. Raises `Overloaded`."""
        self.batcher.submit(flight.ticket).add_done_callback(
            lambda answered: self._arrive(name, flight, stages, answered)
        )

    def _arrive(
        self, name: bytes, flight: Flight, stages: Stages, answered: "asyncio.Future[Answered]"
    ) -> None:
        self._gone(name, flight)
        if error := answered.exception():
            flight.crash(error)
            return
        answer = answered.result()
        self.l1.put(name, answer.scores)
        if self.l2 is not None:
            self.l2.put(entries.key(self.shelf.router.version, name), answer.scores)
        spent = (("queue", answer.queue_s), ("tokenize", answer.tokenize_s), ("infer", answer.infer_s))
        flight.land(Landed(answer.scores, "miss", stages + spent))

    def _gone(self, name: bytes, flight: Flight) -> None:
        if self._flights.get(name) is flight:  # else a newer one has taken its place
            del self._flights[name]

    def _answer(self, scores: Scores, cache: CacheLevel, stages: Stages) -> Answer:
        decision = decide(scores, self.shelf.policy, self.threshold)
        self.telemetry.answered(decision.label, decision.task, decision.confidence)
        return Answer(decision, cache, stages, self.shelf.router.version)


def shares(stages: Stages, waited_s: float) -> Stages:
    """One caller's share of a flight's stages: what of them fell into its own wait.

    Whoever joins late waits for the flight's end, so the last stages count first.
    """
    spent: list[tuple[str, float]] = []
    left_s = waited_s
    for stage, took_s in reversed(stages):
        share_s = min(took_s, left_s)
        spent.append((stage, share_s))
        left_s -= share_s
    return tuple(reversed(spent))
