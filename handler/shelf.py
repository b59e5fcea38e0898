"""Where the gateway's model stands: not yet there, or loaded for good.

`Shelf` keeps trying to load from one folder until it succeeds; after that, files
may come and go without changing an answer. A new model means a new process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from handler.errors import ModelError, ModelNotReady
from handler.policy import Policy
from handler.policy_file import policy_for
from handler.query import Normalised
from handler.telemetry import Log

if TYPE_CHECKING:  # the runtime is imported on a thread of its own, while the start goes on
    from handler.model import FilesState, Router, Run

RETRY_S = 1.0


class Shelf:
    """Holds the router, or the reason why there is none."""

    def __init__(
        self, folder: Path, load: "Callable[[], Router]", log: Log, *, fast_tasks: Sequence[str] = ()
    ) -> None:
        """
        load        blocks and raises `ModelError`; it is called on a thread
        fast_tasks  instead of the model's own policy, if any
        """
        self.folder = folder
        self.reason: str | None = "the model is still being loaded"
        self._load = load
        self._fast_tasks = fast_tasks
        self._log = log
        self._router: Router | None = None
        self._policy: Policy | None = None

    @property
    def loaded(self) -> bool:
        return self._router is not None

    @property
    def router(self) -> "Router":
        """The model. Raises `ModelNotReady` while there is none."""
        if self._router is None:
            raise ModelNotReady(f"no model is loaded: {self.reason}", headers=(("retry-after", "1"),))
        return self._router

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            raise ModelNotReady(f"no model is loaded: {self.reason}")
        return self._policy

    @property
    def training_mix(self) -> Mapping[str, float]:
        """Share of each task in what the model was trained on; empty without a model, or where it does not say."""
        return self._router.manifest.training_mix if self._router else {}

    def score(self, queries: list[Normalised]) -> "Run":
        """Blocking model run, for the lanes."""
        return self.router.run(queries)

    def files(self) -> "FilesState":
        """Whether the loaded files still stand in the folder: `present`, `missing` or `changed`."""
        from handler.model import files_state

        sums: Mapping[str, str] = self._router.manifest.files if self._router else {}
        return files_state(self.folder, sums)

    def place(self, router: "Router") -> None:
        """Take a model into service. Raises `UnknownTask` when the operator's policy is not for it."""
        self._policy = policy_of(router, self._fast_tasks)
        self._router, self.reason = router, None
        self._log.info(
            "model_loaded", path=str(self.folder), version=router.version, tasks=router.manifest.tasks
        )

    async def fill(
        self,
        first: "Future[Router] | None" = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Load the model, trying again every `RETRY_S` seconds until it stands.

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
