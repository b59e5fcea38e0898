"""Probes and the deep report: what the gateway says of its own state.

Liveness and readiness never touch the model, the disk or the network.
"""

import asyncio
import time

from handler import __version__, wire
from handler.gateway import Gateway
from handler.l2 import L2
from handler.settings import Settings


class Health:
    """Reads the gateway's state; changes only `draining`, when the process is told to end."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.draining = False
        self._gateway = gateway
        self._settings = settings
        self._started = time.monotonic()

    def live(self) -> wire.Probe:
        if self._gateway.batcher.alive(asyncio.get_running_loop().time()):
            return wire.Probe("alive")
        return wire.Probe("dead", "a lane of the batcher has ended or hangs in a model run")

    def ready(self) -> wire.Probe:
        if self.draining:
            return wire.Probe("not_ready", "the gateway is shutting down")
        if not self._gateway.shelf.loaded:
            return wire.Probe("not_ready", f"no model is loaded: {self._gateway.shelf.reason}")
        return wire.Probe("ready")

    def deep(self) -> wire.DeepReport:
        model = self._model()
        batcher = self._gateway.batcher
        running = batcher.alive(asyncio.get_running_loop().time())
        l2 = self._gateway.l2
        healthy = model.loaded and model.files == "present" and running and (l2 is None or l2.healthy)
        telemetry = self._gateway.telemetry
        return wire.DeepReport(
            status="healthy" if healthy else "degraded",
            version=__version__,
            uptime_s=round(time.monotonic() - self._started, 1),
            checks=wire.Checks(
                model=model,
                cache=self._cache(),
                batch_processor=wire.BatchCheck(
                    running=running,
                    queue_depth=len(batcher.plan),
                    max_batch_size=batcher.plan.size_max,
                    max_wait_ms=self._settings.batch_max_wait_ms,
                    average_batch_size=round(batcher.average_size, 2),
                    lanes=batcher.lanes,
                ),
                metrics=wire.MetricsCheck(active_requests=telemetry.active, model_loaded=model.loaded),
            ),
        )

    def _model(self) -> wire.ModelCheck:
        shelf = self._gateway.shelf
        return wire.ModelCheck(
            loaded=shelf.loaded,
            version=shelf.router.version if shelf.loaded else None,
            path=str(shelf.folder),
            device="cpu",
            tasks=shelf.router.manifest.tasks if shelf.loaded else [],
            files=shelf.files(),
            error=shelf.reason,
        )

    def _cache(self) -> wire.CacheCheck:
        l1, l2 = self._gateway.l1, self._gateway.l2
        return wire.CacheCheck(
            l1_enabled=l1.size_max > 0,
            l1_size=len(l1),
            l1_max_size=l1.size_max,
            l2_enabled=l2 is not None,
            l2_healthy=l2 is not None and l2.healthy,
            l2_size=l2.size if l2 else None,
            l2=self._l2(l2) if l2 else None,
        )

    def _l2(self, l2: L2) -> wire.L2Check:
        return wire.L2Check(
            address=l2.address,
            trouble=l2.trouble,
            breakers={
                "reads": "closed" if l2.reads.closed else "open",
                "writes": "closed" if l2.writes.closed else "open",
            },
            latency_ms=l2.metrics.mean_ms(),
            errors=l2.metrics.errors(),
            rejected_values=l2.metrics.rejected_values(),
            dropped_writes=l2.metrics.dropped_writes(),
        )
