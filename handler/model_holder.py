"""What holds the model and its policy: nothing yet and the reason why, or what is in service.

`ModelHolder.fill` tries to load from one folder until it succeeds; `swap` puts another
model in its place. A query takes `serving` once and uses it to its end, so that no
answer mixes two models or policies.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from handler.errors import ModelError, ModelNotReady
from handler.follow import Fingerprint, fingerprint
from handler.log import Log
from handler.policy import HALF, THRESHOLD, Policy, UnknownTask, kept_slow
from handler.policy_file import PolicyError, PolicyFile, policy_for
from handler.statistics import ModelStatistics, PolicyStatistics

if TYPE_CHECKING:  # the runtime is imported on a thread of its own, while the start goes on
    from handler.model import FilesState, Router

RETRY_S = 1.0
KEPT_SLOW = (
    "ROUTE_FAST_TASKS names tasks of the first edition alone, so these easy ones go to slow; "
    "add them to it, or take it away to follow the model's own policy"
)


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
        threshold: float = THRESHOLD,
        policy_file: PolicyFile | None = None,
        placed: Callable[[Serving], None] = lambda serving: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        load         blocks and raises `ModelError`; it is called on a thread
        fast_tasks   instead of the model's own policy, if any
        threshold    of the first of two tiers
        policy_file  an operator's own policy, if any
        placed       told of every model and policy that go into service
        now          seconds since 1970
        """
        self.folder = folder
        self.reason: str | None = "the model is still being loaded"
        self._load = load
        self._fast_tasks = fast_tasks
        self._threshold = threshold
        self._policy_file = policy_file
        self._log = log
        self._placed = placed
        self._now = now
        self._since = 0.0
        self._serving: Serving | None = None
        self._files: tuple[tuple[Fingerprint, Serving | None], FilesState] | None = None

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
            name=manifest.name,
            version=self._serving.router.version,
            since=self._since,
            tasks=tuple(manifest.tasks),
            training_mix=manifest.training_mix,
            curve=tuple(msgspec.structs.asdict(point) for point in manifest.curve),
        )

    def files(self) -> "FilesState":
        """Whether the loaded files still stand in the folder: `present`, `missing` or `changed`. Blocks.

        They are read again only when they look otherwise than at the last time.
        """
        from handler.model import files_state

        seen = (fingerprint(self.folder), self._serving)
        if self._files is None or self._files[0] != seen:
            self._files = (
                seen,
                files_state(self.folder, self._serving.router.manifest if self._serving else None),
            )
        return self._files[1]

    def policy_statistics(self, trouble: str | None = None) -> PolicyStatistics | None:
        """What is in force; None while there is no model.

        trouble  why the file as it stands now is not
        """
        if self._serving is None:
            return None
        return policy_statistics(self._serving.policy, self._policy_file, trouble)

    def policy_for(self, router: "Router") -> Policy:
        """The policy that a model would have in service. Raises as `place` does."""
        return policy_of(router, self._fast_tasks, threshold=self._threshold, file=self._policy_file)

    def place(self, router: "Router") -> None:
        """Take a model into service.

        Raises `UnknownTask` or `PolicyError` when the operator's policy is not for it.
        """
        self._put(router, self._policy_file)
        self._log.info(
            "model_loaded", path=str(self.folder), version=router.version, tasks=router.manifest.tasks
        )
        if slow := kept_slow(router.manifest.policy, self._fast_tasks):
            self._log.warning("new_tasks_kept_slow", tasks=slow, message=KEPT_SLOW)

    def swap(self, router: "Router") -> dict[str, Any]:
        """Take a new model into service between two batches. Returns facts for the log.

        A query that has begun ends with the model it began with; the old one is freed with
        the last of them. Raises as `place` does; then the old one stays.
        """
        old = self._serving
        if old is None or router.manifest != old.router.manifest:
            self._put(router, self._policy_file)
        facts = {"path": str(self.folder), "version": router.version, "tasks": router.manifest.tasks}
        return facts | ({"replaces": old.router.version} if old else {})

    def place_policy(self, file: PolicyFile) -> dict[str, Any]:
        """Follow another policy file from now on; the caches stay as they are. Returns facts for the log.

        Raises `PolicyError` when it does not fit the model in service; then the old one stays.
        """
        if self._serving is not None:
            self._put(self._serving.router, file)
        self._policy_file = file
        return {"version": file.version, "source": file.source, "tiers": [tier.name for tier in file.tiers]}

    def _put(self, router: "Router", file: PolicyFile | None) -> None:
        policy = policy_of(router, self._fast_tasks, threshold=self._threshold, file=file)
        self._policy_file = file
        if self._serving is None or router is not self._serving.router:
            self._since = self._now()
            self._files = None  # what was seen of the old one's files must not keep it
        self._serving = Serving(router, policy)
        self.reason = None
        self._placed(self._serving)

    async def fill(
        self,
        first: "Future[Router] | None" = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Load the model, trying again every `RETRY_S` seconds until it is in service.

        first  a load that was begun before the event loop ran

        Raises what `place` does, and what a bug does, for a model that is there at the start: then the settings
        are wrong. One that comes later is refused and told like a broken one, since a process that runs goes on.
        """
        starting = True
        while not self.loaded:
            try:
                loading = asyncio.wrap_future(first) if first else asyncio.to_thread(self._load)
                first = None
                self.place(await loading)
            except Exception as exc:
                if starting and not isinstance(exc, ModelError):
                    raise
                starting = False
                why, bug = self._why(exc)
                if why != self.reason:  # once per reason, not once per second
                    self._log.error("model_not_ready", error_type="ModelNotReady", error=bug, message=why)
                self.reason = why
                await sleep(RETRY_S)

    def _why(self, exc: Exception) -> tuple[str, Exception | None]:
        """Why a model was refused, for people; with the exception where it is a bug."""
        if isinstance(exc, ModelError):
            return str(exc), None
        if isinstance(exc, UnknownTask):
            return f"the model in {self.folder} does not fit ROUTE_FAST_TASKS: {exc}", None
        if isinstance(exc, PolicyError):
            return f"the model in {self.folder} does not fit POLICY_FILE: {exc}", None
        return f"{type(exc).__name__} while the model in {self.folder} was loaded", exc


def policy_of(
    router: "Router",
    fast_tasks: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    file: PolicyFile | None = None,
) -> Policy:
    """The operator's policy where there is one, else the model's own.

    Raises `UnknownTask` for ROUTE_FAST_TASKS, `PolicyError` for POLICY_FILE.
    """
    return policy_for(
        router.manifest.tasks,
        router.manifest.policy,
        fast_tasks=fast_tasks,
        threshold=threshold,
        file=file,
        learnt=router.learns,
    )


def policy_statistics(
    policy: Policy, file: PolicyFile | None, trouble: str | None = None
) -> PolicyStatistics:
    """A policy as it is told to people."""
    bounds = [0.5 if bound == HALF else bound for bound in policy.boundaries()]
    return PolicyStatistics(
        source=policy.source,
        file=file.path if file else None,
        version=file.version if file else None,
        threshold=policy.threshold,
        tiers=dict(zip(policy.names, (round(bound, 6) for bound in bounds), strict=True)),
        needs=dict(zip(policy.tasks, policy.needs, strict=True)),
        options=policy.options,
        predicates=tuple(policy.predicates),
        trouble=trouble,
    )
