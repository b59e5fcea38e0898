"""A second model beside the one in service: it scores a share of the misses when there is nothing else to do.

`offer` takes a query that the model in service has just answered, and `run` scores it with
the second model and counts where the two part. No caller waits for it, and no answer holds
anything of it. Read `run` first. Knows nothing of files, queues or HTTP.

Idle is: every lane rests, nothing waits for one, and no query came within `QUIET_S`. One
query is scored at a time, so whoever comes meanwhile shares the CPU with one short run.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from handler.log import Log
from handler.policy import Decision, Policy, Scores, UnknownTask, decide
from handler.policy_file import PolicyError
from handler.query import normalise
from handler.series import Buckets
from handler.statistics import ShadowDrop, ShadowStatistics
from handler.telemetry import LATENCY_BUCKETS_S

if TYPE_CHECKING:  # the runtime is imported on a thread of its own, while the start goes on
    from handler.model import Router, Run

# After a query the next one is likely: of a burst, of the same stream.
QUIET_S = 0.005
# What waits is text that callers sent: so many of them, so many characters in all, for so long.
WAITING_MAX = 64
WAITING_CHARS_MAX = 1_000_000
WAITING_S = 10.0
# A run that takes longer hangs.
RUN_MAX_S = 10.0

InForce = Callable[[], "tuple[Router, Policy] | None"]


class Sample(msgspec.Struct, frozen=True):
    """A query that waits to be scored a second time.

    digest  of the model that answered it
    scores  that model's
    at      when it was answered, in seconds
    """

    text: str
    digest: bytes
    scores: Scores
    at: float


class Comparison:
    """What two models and their policies said of the same queries, since they stand side by side.

    since  when that began, in seconds since 1970
    """

    def __init__(self, live: "tuple[Router, Policy]", shadow: "tuple[Router, Policy]", since: float) -> None:
        self.live, self.shadow = live, shadow
        self.digest = live[0].digest
        self.since = since
        known = set(shadow[1].tasks)
        self.common = tuple(task for task in live[1].tasks if task in known)
        self.routes: Counter[tuple[str, str]] = Counter(
            {(a, b): 0 for a in live[1].labels for b in shadow[1].labels}
        )
        self.tasks = Counter({(task, same): 0 for task in self.common for same in (True, False)})
        self.changes: Counter[tuple[str, str]] = Counter()
        self.times = Buckets(LATENCY_BUCKETS_S)

    def compare(self, live: Scores, shadow: Scores, took_s: float) -> None:
        """Count one query. By task it is compared only where both models know both tasks.

        took_s  what the shadow took for it, in seconds
        """
        ours, other = decide(live, self.live[1]), decide(shadow, self.shadow[1])
        self.routes[ours.label, other.label] += 1
        self.times.observe(took_s)
        if self._knows(ours) and self._knows(other):
            self.tasks[ours.task, ours.task == other.task] += 1
            if ours.task != other.task:
                self.changes[ours.task, other.task] += 1

    def _knows(self, decision: Decision) -> bool:
        return (decision.task, True) in self.tasks


class Shadow:
    """Scores with a second model in idle time. `run` must be kept running by the owner."""

    def __init__(
        self,
        path: str,
        *,
        share: float,
        in_force: InForce,
        policy_for: "Callable[[Router], Policy]",
        idle: Callable[[], bool],
        executor: Executor,
        log: Log,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """
        path        the folder of its model, to be told
        share       of the misses, 0 to 1
        in_force    the model and the policy in service; None while there are none
        policy_for  the policy that a model would have in service; raises `PolicyError` or `UnknownTask`
        idle        whether every lane rests and nothing waits for one
        executor    one thread of its own: a lane's would keep a query waiting
        now, wall   a clock in seconds that is the event loop's, and seconds since 1970
        dice        a number from 0 to below 1
        """
        self.path = path
        self.share = share
        self.trouble: str | None = None
        self._in_force = in_force
        self._policy_for = policy_for
        self._idle = idle
        self._executor = executor
        self._log = log
        self._now = now
        self._wall = wall
        self._dice = dice
        self._router: Router | None = None
        self._comparison: Comparison | None = None
        self._waiting: deque[Sample] = deque()
        self._chars = 0
        self._offered = asyncio.Event()
        self._asked_at = now()
        self._dropped: Counter[ShadowDrop] = Counter()
        self._failed = False

    # What the gateway calls: nothing here waits.

    def asked(self) -> None:
        """A query has come, whoever will answer it: the shadow rests for a moment."""
        self._asked_at = self._now()

    def offer(self, text: str, scores: Scores, router: "Router") -> None:
        """Take a query for later, or not: a share of them, as far as there is room.

        router  the model that gave the scores
        """
        if self._comparison is None or self._dice() >= self.share:
            return
        self._drop_late()
        if len(self._waiting) >= WAITING_MAX or self._chars + len(text) > WAITING_CHARS_MAX:
            self._dropped["full"] += 1
            return
        self._push(Sample(text, router.digest, scores, self._now()))
        self._offered.set()

    # Its model, which comes and goes.

    def place(self, router: "Router") -> dict[str, Any]:
        """Take a model as the shadow from now on. Returns facts for the log.

        Raises `PolicyError` or `UnknownTask` when the policy in force is not for it; then the old one stays.
        """
        old = self._router
        if old is None or router.manifest != old.manifest:
            self._policy_for(router)
            self._router = router
            self.refit()
        facts = {"path": self.path, "version": router.version, "tasks": router.manifest.tasks}
        return facts | ({"replaces": old.version} if old else {})

    def refit(self) -> None:
        """Begin to count anew: the model in service, its policy or the shadow is another one."""
        in_force = self._in_force()
        if self._router is None or in_force is None:
            return
        try:
            shadow = (self._router, self._policy_for(self._router))
        except (PolicyError, UnknownTask) as exc:
            self._rest(str(exc))
            return
        self._comparison = Comparison(in_force, shadow, self._wall())
        self._failed = False
        self.trouble = None
        self._keep_only(self._comparison.digest)

    def _rest(self, why: str) -> None:
        """Score nothing until another model or policy comes."""
        self._comparison = None
        self._keep_only(None)
        if self.trouble != why:
            self._log.error(
                "shadow_rests", error_type="SettingsError", setting="SHADOW_MODEL_PATH", message=why
            )
        self.trouble = why

    def statistics(self, trouble: str | None = None) -> ShadowStatistics:
        """`trouble` is why what stands on disk is not the shadow; None when it is."""
        found = self._comparison
        manifest = found.shadow[0].manifest if found else None
        return ShadowStatistics(
            loaded=found is not None,
            path=self.path,
            share=self.share,
            name=manifest.name if manifest else "",
            version=found.shadow[0].version if found else "",
            since=found.since if found else 0.0,
            waiting=len(self._waiting),
            routes=dict(found.routes) if found else {},
            tasks=dict(found.tasks) if found else {},
            changes=dict(found.changes) if found else {},
            runs=tuple(found.times.counts) if found else (),
            run_s=found.times.total if found else 0.0,
            dropped=dict(self._dropped),
            trouble=trouble or self.trouble,
        )

    # Its time.

    async def run(self) -> None:
        """Score what was offered, for ever, in idle time alone. Raises nothing for what a model does."""
        while True:
            await self._offered.wait()
            await self._idle_time()
            sample, comparison = self._next(), self._comparison
            if sample is None or comparison is None:
                continue
            try:
                async with asyncio.timeout(RUN_MAX_S):
                    await self._score(comparison, sample)
            except TimeoutError:
                self._rest(f"a run of the shadow took over {RUN_MAX_S:g} s")
            except (Exception, SystemExit, KeyboardInterrupt) as exc:  # the gateway goes on, whatever it did
                self._dropped["failed"] += 1
                if not self._failed:  # once per model, not once per query
                    self._log.error("shadow_run_failed", error=exc if isinstance(exc, Exception) else None)
                self._failed = True

    async def _idle_time(self) -> None:
        """Wait until there is nothing else to do, or nothing left to score."""
        while self._waiting:
            rest_s = self._asked_at + QUIET_S - self._now()
            if rest_s <= 0 and self._idle():
                return
            await asyncio.sleep(rest_s if rest_s > 0 else QUIET_S)
            self._drop_late()

    async def _score(self, comparison: Comparison, sample: Sample) -> None:
        began = self._now()
        scoring = partial(_run, comparison.shadow[0], sample.text)
        run = await asyncio.get_running_loop().run_in_executor(self._executor, scoring)
        comparison.compare(sample.scores, run.scores[0], self._now() - began)

    # What waits.

    def _next(self) -> Sample | None:
        sample = self._pop() if self._waiting else None
        if not self._waiting:
            self._offered.clear()
        return sample

    def _push(self, sample: Sample) -> None:
        self._waiting.append(sample)
        self._chars += len(sample.text)

    def _pop(self) -> Sample:
        sample = self._waiting.popleft()
        self._chars -= len(sample.text)
        return sample

    def _drop_late(self) -> None:
        late = self._now() - WAITING_S
        while self._waiting and self._waiting[0].at < late:
            self._pop()
            self._dropped["late"] += 1

    def _keep_only(self, digest: bytes | None) -> None:
        """Drop what another model than this one answered; with None, all."""
        for _ in range(len(self._waiting)):
            sample = self._pop()
            if sample.digest == digest:
                self._push(sample)
            else:
                self._dropped["other_model"] += 1


def _run(router: "Router", text: str) -> "Run":
    """On the shadow's thread: one query, prepared as this model wants it."""
    return router.run([normalise(text, router.manifest.limits)])
