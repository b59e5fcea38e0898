"""Probes and the deep report: what the gateway says of its own state.

Liveness and readiness never touch the model, the disk or the network; the deep report
looks at the model's files, on a thread of its own.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from handler import __version__, wire
from handler.aside import OneAtATime
from handler.follow import Follower
from handler.gateway import Gateway
from handler.settings import Settings
from handler.statistics import L2Statistics, PolicyStatistics

# A report waits so long for the volume of the model.
LOOK_S = 1.0


class Health:
    """Reads the gateway's state; what changes is `drain_began`, when the process is told to end."""

    def __init__(self, gateway: Gateway, settings: Settings, follower: Follower) -> None:
        self.drain_began = asyncio.Event()
        self._follower = follower
        self._gateway = gateway
        self._settings = settings
        self._started = time.monotonic()
        self._looks = OneAtATime("model files")

    @property
    def draining(self) -> bool:
        return self.drain_began.is_set()

    def live(self) -> wire.Probe:
        if self._gateway.batcher.alive:
            return wire.Probe("alive")
        return wire.Probe("dead", "a lane of the batcher has ended or hangs in a model run")

    def ready(self) -> wire.Probe:
        if self.draining:
            return wire.Probe("not_ready", "the gateway is shutting down")
        if not self._gateway.model.loaded:
            return wire.Probe("not_ready", f"no model is loaded: {self._gateway.model.reason}")
        return wire.Probe("ready")

    async def deep(self) -> wire.DeepReport:
        model = self._model(await self._model_files())
        batcher = self._gateway.batcher.statistics()
        l2 = self._gateway.l2.statistics() if self._gateway.l2 else None
        policy = self._policy()
        shadow = self._shadow()
        keys = self._follower.troubles("keys")
        healthy = (
            model.loaded
            and model.files == "present"
            and batcher.running
            and (l2 is None or l2.healthy)
            and (policy is None or policy.error is None)
            and (shadow is None or shadow.error is None)
            and not any(keys.values())
        )
        return wire.DeepReport(
            status="healthy" if healthy else "degraded",
            version=__version__,
            uptime_s=round(time.monotonic() - self._started, 1),
            checks=wire.Checks(
                model=model,
                policy=policy,
                shadow=shadow,
                keys=keys,
                cache=self._cache(l2),
                batch_processor=wire.BatchCheck(
                    running=batcher.running,
                    queue_depth=batcher.queue_depth,
                    max_batch_size=batcher.size_max,
                    max_wait_ms=self._settings.batch_max_wait_ms,
                    average_batch_size=round(batcher.average_size, 2),
                    lanes=batcher.lanes,
                ),
                metrics=wire.MetricsCheck(
                    active_requests=self._gateway.telemetry.active, model_loaded=model.loaded
                ),
            ),
        )

    async def _model_files(self) -> wire.FilesState:
        """How the model's files fare; a volume that does not answer costs the report a second, and nobody else."""
        try:
            return await self._looks.call(self._gateway.model.files, LOOK_S)
        except OSError:
            return "unreadable"

    def _model(self, files: wire.FilesState) -> wire.ModelCheck:
        model = self._gateway.model.statistics()
        return wire.ModelCheck(
            loaded=model.loaded,
            version=model.version or None,
            path=model.path,
            device="cpu",
            tasks=list(model.tasks),
            files=files,
            error=model.reason or self._follower.trouble("MODEL_PATH"),
            since=_moment(model.since) if model.loaded else None,
            curve=[wire.CurveCheck(**point) for point in model.curve],
        )

    def _policy(self) -> wire.PolicyCheck | None:
        found = self._gateway.model.policy_statistics(self._follower.trouble("POLICY_FILE"))
        return policy_check(found) if found else None

    def _shadow(self) -> wire.ShadowCheck | None:
        if self._gateway.shadow is None:
            return None
        found = self._gateway.shadow.statistics(self._follower.trouble("SHADOW_MODEL_PATH"))
        return wire.ShadowCheck(
            loaded=found.loaded,
            version=found.version or None,
            path=found.path,
            share=found.share,
            since=_moment(found.since) if found.loaded else None,
            compared=found.compared,
            agreement=None if found.agreement is None else round(found.agreement, 4),
            dropped=dict(found.dropped),
            error=found.trouble,
        )

    def _cache(self, l2: L2Statistics | None) -> wire.CacheCheck:
        l1 = self._gateway.l1.statistics()
        return wire.CacheCheck(
            l1_enabled=l1.size_max > 0,
            l1_size=l1.size,
            l1_max_size=l1.size_max,
            l2_enabled=l2 is not None,
            l2_healthy=l2 is not None and l2.healthy,
            l2_size=l2.size if l2 else None,
            l2=_l2(l2) if l2 else None,
        )


def policy_check(policy: PolicyStatistics) -> wire.PolicyCheck:
    """A policy as an operator reads it."""
    return wire.PolicyCheck(
        source=policy.source,
        file=policy.file,
        version=policy.version,
        threshold=policy.threshold,
        tiers=[wire.TierCheck(name, need_max) for name, need_max in policy.tiers.items()],
        need=dict(policy.needs),
        options=dict(policy.options),
        predicates=list(policy.predicates),
        error=policy.trouble,
    )


def _moment(since: float) -> str:
    """Seconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")


def _l2(l2: L2Statistics) -> wire.L2Check:
    return wire.L2Check(
        address=l2.address,
        trouble=l2.trouble,
        breakers=_breakers(l2.open),
        shards=[
            wire.ShardCheck(shard.address, shard.trouble, _breakers(shard.open), shard.size)
            for shard in l2.shards
        ],
        latency_ms=dict(l2.mean_ms),
        errors=dict(l2.errors),
        rejected_values=dict(l2.rejected),
        dropped_writes=dict(l2.dropped),
    )


def _breakers(open_on: Mapping[str, int]) -> dict[str, wire.BreakerState]:
    return {name: "open" if count else "closed" for name, count in open_on.items()}
