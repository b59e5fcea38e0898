"""What holds the model: nothing yet and the reason why, or the model in service.

`ModelHolder.fill` tries to load from one folder until it succeeds. A query takes
`serving` once and uses it to its end, so that no answer mixes two models.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from handler.errors import ModelError, ModelNotReady
from handler.log import Log
from handler.policy import Policy
from handler.policy_file import policy_for
from handler.statistics import ModelStatistics

if TYPE_CHECKING:  # the runtime is imported on a thread of its own, while the start goes on
    from handler.model import FilesState, Router

RETRY_S = 1.0


class Serving(msgspec.Struct, frozen=True):
    """A model and the policy in force for it."""

    router: "Router"
    policy: Policy


class ModelHolder:
    """Holds the model in service, or the reason why there is none."""

    def __init__(
        self,
        folder: Path,
        load: "Callable[[], Router]",
        log: Log,
        *,
        fast_tasks: Sequence[str] = (),
        placed: Callable[[Serving], None] = lambda serving: None,
    ) -> None:
        """
        load        blocks and raises `ModelError`; it is called on a thread
        fast_tasks  instead of the model's own policy, if any
        placed      told of every model that goes into service
        """
        self.folder = folder
        self.reason: str | None = "the model is still being loaded"
        self._load = load
        self._fast_tasks = fast_tasks
        self._log = log
        self._placed = placed
        self._serving: Serving | None = None

    @property
    def loaded(self) -> bool:
        return self._serving is not None

    @property
    def version(self) -> str | None:
        """Of the model in service; None while there is none."""
        return self._serving.router.version if self._serving else None

    @property
    def serving(self) -> Serving:
        """The model in service and its policy. Raises `ModelNotReady` while there is none."""
        if self._serving is None:
            raise ModelNotReady(f"no model is loaded: {self.reason}", headers=(("retry-after", "1"),))
        return self._serving

    def statistics(self) -> ModelStatistics:
        path = str(self.folder)
        if self._serving is None:
            return ModelStatistics(loaded=False, path=path, reason=self.reason)
        manifest = self._serving.router.manifest
        return ModelStatistics(
            loaded=True,
            path=path,
            version=self._serving.router.version,
            tasks=tuple(manifest.tasks),
            training_mix=manifest.training_mix,
        )

    def files(self) -> "FilesState":
        """Whether the loaded files still stand in the folder: `present`, `missing` or `changed`. Blocks."""
        from handler.model import files_state

        return files_state(self.folder, self._serving.router.manifest.files if self._serving else {})

    def place(self, router: "Router") -> None:
        """Take a model into service. Raises `UnknownTask` when the operator's policy is not for it."""
        self._serving = Serving(router, policy_of(router, self._fast_tasks))
        self.reason = None
        self._placed(self._serving)
        self._log.info(
            "model_loaded", path=str(self.folder), version=router.version, tasks=router.manifest.tasks
        )

    async def fill(
        self,
        first: "Future[Router] | None" = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Load the model, trying again every `RETRY_S` seconds until it is in service.

        first  a load that was begun before the event loop ran
        """
        while not self.loaded:
            try:
                loading = asyncio.wrap_future(first) if first else asyncio.to_thread(self._load)
                first = None
                self.place(await loading)
            except ModelError as exc:
                if str(exc) != self.reason:  # once per reason, not once per second
                    self._log.error("model_not_ready", error_type="ModelNotReady", message=str(exc))
                self.reason = str(exc)
                await sleep(RETRY_S)


def policy_of(router: "Router", fast_tasks: Sequence[str]) -> Policy:
    """The operator's policy where there is one, else the model's own. Raises `UnknownTask`."""
    return policy_for(router.manifest.tasks, router.manifest.policy, fast_tasks=fast_tasks)
