"""A query's life, from top to bottom.

    text → normalise → key → L1 → one flight per key { L2 → batcher → model } → decide

`Gateway.classify` is the story; every other module is one stage of it and does
not know the others. Knows nothing of HTTP: `app.py` does.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from handler import entries
from handler.batching import Batcher, Ticket
from handler.cache import L1
from handler.decision import Decision, Scores, decide
from handler.errors import DeadlineExceeded
from handler.l2 import L2
from handler.query import estimate_tokens, key, normalise
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
    """One trip to Redis and the model, shared by all who ask the same thing meanwhile."""

    __slots__ = ("task", "ticket", "waiters")

    def __init__(self, ticket: Ticket, trip: Coroutine[None, None, Landed]) -> None:
        self.ticket = ticket
        self.waiters = 0
        self.task = asyncio.get_running_loop().create_task(trip)
        # All who asked may have left before it failed; its error is then nobody's.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def boards(self) -> bool:
        """Whether a newcomer may still join: not once it was dropped from the queue."""
        done = self.ticket.done
        return done is None or not done.done() or done.exception() is None


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

        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        landed: Landed | None = None
        try:
            flight = self._flights.get(name)
            if flight is None or not flight.boards:
                tokens = estimate_tokens(query, router.manifest.limits)
                if self.l2 is None:
                    # Before a flight: a refusal must cost less than a hit. Where there is Redis, it
                    # is asked first, since what it knows needs no room.
                    self.batcher.require_room(tokens)
                ticket = Ticket(query=query, tokens=tokens, deadline=deadline)
                flight = self._flights[name] = Flight(ticket, self._fly(name, ticket, router))
            flight.ticket.deadline = max(flight.ticket.deadline, deadline)
            landed = await self._board(flight, deadline, caller_left)
        finally:
            # Once per query, joiners and failures too: hit rates are about queries, not flights.
            if landed is not None and landed.cache == "l2":
                self.telemetry.cache_hit("L2")
            else:
                self.telemetry.cache_miss()
        waited_s = time.perf_counter() - looked_up
        return self._answer(landed.scores, landed.cache, stages + shares(landed.stages, waited_s))

    async def _fly(self, name: bytes, ticket: Ticket, router: "Router") -> Landed:
        """What happens once for all who ask the same thing at the same time.

        Redis is asked before the queue is: a gateway that sheds misses goes on serving hits.
        """
        try:
            stages: Stages = ()
            entry = entries.key(router.version, name)
            if self.l2 is not None:
                asked = time.perf_counter()
                found = await self.l2.get(entry, len(router.manifest.tasks))
                stages = (("l2", time.perf_counter() - asked),)
                if found is not None:
                    self.l1.put(name, found.scores, lasts_s=found.lasts_s)
                    return Landed(found.scores, "l2", stages)
            answered = await self.batcher.submit(ticket)
            self.l1.put(name, answered.scores)
            if self.l2 is not None:
                self.l2.put(entry, answered.scores)
            spent = (
                ("queue", answered.queue_s),
                ("tokenize", answered.tokenize_s),
                ("infer", answered.infer_s),
            )
            return Landed(answered.scores, "miss", stages + spent)
        finally:
            flight = self._flights.get(name)
            if flight is not None and flight.ticket is ticket:  # else a newer one has taken its place
                del self._flights[name]

    async def _board(
        self, flight: Flight, deadline: float, caller_left: Callable[[], Awaitable[None]] | None
    ) -> Landed:
        """Wait for a flight as long as this caller would.

        Leaving early hurts nobody else: the flight goes on for those who stay,
        and is dropped before the model runs once nobody does.
        """
        loop = asyncio.get_running_loop()
        waiting: set[asyncio.Future[Any]] = {flight.task}
        flight.waiters += 1
        flight.ticket.wanted = True
        hung_up: asyncio.Future[None] | None = None
        try:
            patience_s = deadline - loop.time()
            if caller_left and patience_s > WATCH_AFTER_S:
                await asyncio.wait(waiting, timeout=WATCH_AFTER_S)
                if not flight.task.done():
                    hung_up = asyncio.ensure_future(caller_left())
                    waiting.add(hung_up)
            if not flight.task.done():
                await asyncio.wait(
                    waiting, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
                )
            if flight.task.done():
                return flight.task.result()
            if hung_up is not None and hung_up.done():
                raise CallerGone
            raise DeadlineExceeded("the query's time was over before its answer was there")
        finally:
            flight.waiters -= 1
            flight.ticket.wanted = flight.waiters > 0
            if hung_up is not None:
                hung_up.cancel()

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
