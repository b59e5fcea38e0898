"""A query's life, from top to bottom.

    text → normalise → key → L1 → one shared run per key { L2 → batcher → model } → decide

`Gateway.classify` is the story; every other module is one stage of it and does
not know the others. Knows nothing of HTTP: `app.py` does.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from handler import entries
from handler.batching import Batcher, Ticket
from handler.cache import L1
from handler.errors import Overloaded
from handler.flights import Flights
from handler.l2 import L2
from handler.model_holder import ModelHolder, Serving
from handler.policy import Decision, decide
from handler.query import estimate_tokens, normalise
from handler.query import key as cache_key
from handler.refusals import Refusals
from handler.scored import CacheLevel, Scored, Stages, shares
from handler.shadow import Shadow
from handler.telemetry import Telemetry

if TYPE_CHECKING:
    from handler.model import Router


class Answer(msgspec.Struct, frozen=True):
    """A decision and how it came about.

    scored   what it was decided from; None where the model was not asked
    serving  the model and the policy that decided; None where there was none
    """

    decision: Decision
    scored: Scored | None
    serving: Serving | None

    @property
    def cache(self) -> CacheLevel:
        """Which level of the cache answered, or that none could."""
        return self.scored.cache if self.scored else "miss"

    @property
    def stages(self) -> Stages:
        """(name, seconds) in the order they happened; their sum is at most the time that the caller waited."""
        return self.scored.stages if self.scored else ()

    @property
    def version(self) -> str | None:
        """Of the model in service when it was answered; None where there was none."""
        return self.serving.router.version if self.serving else None


class Gateway:
    """The stages of a query's life, put in order."""

    def __init__(
        self,
        *,
        model: ModelHolder,
        l1: L1,
        batcher: Batcher,
        refusals: Refusals,
        telemetry: Telemetry,
        l2: L2 | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self.model = model
        self.l1 = l1
        self.l2 = l2
        self.shadow = shadow
        self.batcher = batcher
        self.refusals = refusals
        self.telemetry = telemetry
        self.flights: Flights[Scored] = Flights()

    async def classify(
        self,
        text: str,
        *,
        timeout_s: float,
        threshold: float | None = None,
        caller_left: Callable[[], Awaitable[None]] | None = None,
        bulk: bool = False,
        caller: bytes = b"",
    ) -> Answer:
        """Answer one query.

        timeout_s    how long its caller will wait
        threshold    the query's own, 0 to 1, instead of the policy's
        caller_left  returns when the caller has hung up
        bulk         whether it is one of many, which single queries go before
        caller       what names its caller among others; nobody may hold the whole queue

        Raises a `GatewayError` that the caller can act on, `CallerGone`, or what the
        model raised on exactly this query.
        """
        started = time.perf_counter()
        if self.shadow is not None:
            self.shadow.asked()
        serving = self.model.serving
        query = normalise(text, serving.router.manifest.limits)
        key = cache_key(query, serving.router.digest)
        scored = self._recall(key, started)
        if scored is None:
            if self.l2 is None and key not in self.flights:
                self._require_room(caller, bulk)
            deadline = asyncio.get_running_loop().time() + timeout_s
            ticket = Ticket(
                query=query,
                scorer=serving.router,
                tokens=estimate_tokens(query, serving.router.manifest.limits),
                deadline=deadline,
                bulk=bulk,
                caller=caller,
                keep=partial(self.l1.put, key),
            )
            scored = await self._share_a_run(key, ticket, serving.router, started, caller_left)
            if self.shadow is not None and scored.cache == "miss":
                self.shadow.offer(text, scored.scores, serving.router)
        return self._answer(scored, serving, threshold)

    def _recall(self, key: bytes, started: float) -> Scored | None:
        """Look into L1. `started` is when the query's life began, by `time.perf_counter`."""
        scores = self.l1.get(key)
        if scores is None:
            return None
        self.telemetry.cache_hit("L1")
        return Scored(scores, "l1", (("l1", time.perf_counter() - started),))

    def _require_room(self, caller: bytes, bulk: bool) -> None:
        """Refuse what will be refused before anything is made for it: in a flood, that is most of all work."""
        try:
            self.batcher.require_room(caller, bulk)
        except Overloaded:
            self.telemetry.cache_miss()
            raise

    async def _share_a_run(
        self,
        key: bytes,
        ticket: Ticket,
        router: "Router",
        started: float,
        caller_left: Callable[[], Awaitable[None]] | None,
    ) -> Scored:
        """Wait for what one run brings to all who ask the same thing meanwhile.

        ticket  what is queued, unless a run of the same key is under way
        """
        looked_up = time.perf_counter()

        def start() -> tuple[Ticket, Awaitable[Scored]]:
            # Without L2 there is nothing to wait for before the queue: no task of its own, and a
            # query that is refused is refused here.
            return ticket, self.batcher.submit(ticket) if self.l2 is None else self._run(
                self.l2, key, ticket, router
            )

        scored: Scored | None = None
        try:
            scored = await self.flights.join(key, ticket.deadline, start, caller_left)
        finally:
            # Once per query, joiners and failures too: hit rates are about queries, not runs.
            if scored is not None and scored.cache == "l2":
                self.telemetry.cache_hit("L2")
            else:
                self.telemetry.cache_miss()
        own = shares(scored.stages, time.perf_counter() - looked_up)
        return Scored(scored.scores, scored.cache, (("l1", looked_up - started), *own))

    async def _run(self, l2: L2, key: bytes, ticket: Ticket, router: "Router") -> Scored:
        """What happens once for all who ask the same thing at the same time. Raises `Overloaded`.

        Redis is asked before the queue is: a gateway that sheds misses goes on serving hits.
        """
        asked = time.perf_counter()
        found = await l2.get(entries.key(router.version, key), len(router.manifest.tasks))
        stages: Stages = (("l2", time.perf_counter() - asked),)
        if found is not None:
            self.l1.put(key, found.scores, lasts_s=found.lasts_s)
            return Scored(found.scores, "l2", stages)
        scored = await self.batcher.submit(ticket)
        l2.put(entries.key(router.version, key), scored.scores)
        return Scored(scored.scores, "miss", stages + scored.stages)

    def _answer(self, scored: Scored, serving: Serving, threshold: float | None) -> Answer:
        decision = decide(scored.scores, serving.policy, threshold)
        self.telemetry.answered(
            decision.label, decision.task, decision.confidence, doubtful=decision.low_confidence
        )
        return Answer(decision, scored, serving)
