"""Probes and the deep report: what the gateway says of its own state.

Liveness and readiness never touch the model, the disk or the network.
"""

import asyncio
import time

from handler import __version__, wire
from handler.gateway import Gateway
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
        healthy = model.loaded and model.files == "present" and running
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
        l1 = self._gateway.l1
        return wire.CacheCheck(
            l1_enabled=l1.size_max > 0,
            l1_size=len(l1),
            l1_max_size=l1.size_max,
            l2_enabled=False,
            l2_healthy=False,
            l2_size=None,
        )
