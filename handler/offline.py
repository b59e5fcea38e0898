"""The router without a server: load it, ask it about many texts, look into one answer.

    router = LocalRouter.open("models/quantized")
    router.classify_one("Translate to French: good morning").route      # "fast"
    for answer in router.classify(texts): …                             # in order, in constant memory
    router.explain("Prove that √2 is irrational").tasks                 # {"reasoning": 0.97, …}

The answers are those that a gateway with the same settings would give. Blocking
throughout. `query-gateway classify`, `calibrate` and `replay` are written on this.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import msgspec

from handler.policy import THRESHOLD, Decision, Policy, Scores, decide
from handler.query import Normalised, key, normalise

if TYPE_CHECKING:
    from handler.model import Router

# Texts that are looked at together: enough to sort by length and keep every lane busy.
CHUNK = 512
# Of a lane's part so many are run at once.
RUN = 32
# Answers that are remembered, so that a log that asks the same again and again costs little; 300 bytes each.
REMEMBERED = 65_536


class _Text(Protocol):
    @property
    def text(self) -> str: ...


T = TypeVar("T", bound=_Text)


class Explained(msgspec.Struct, frozen=True):
    """One answer, and what it was made of.

    tasks   probability of each task; they sum to 1
    learnt  the need that was learnt from outcomes; None where the model has learnt none
    seen    exactly the text that the model read
    """

    decision: Decision
    tasks: dict[str, float]
    learnt: float | None
    seen: str


class LocalRouter:
    """A model and a policy, asked in this process. One caller at a time."""

    def __init__(self, router: "Router", policy: Policy, *, lanes: int = 1) -> None:
        self.router = router
        self.policy = policy
        self.lanes = lanes
        self._remembered: OrderedDict[bytes, Scores] = OrderedDict()

    @classmethod
    def open(
        cls,
        model: str | Path = "models/quantized",
        *,
        policy_file: str | Path | None = None,
        threshold: float = THRESHOLD,
        fast_tasks: Iterable[str] = (),
        lanes: int = 1,
    ) -> Self:
        """Load a model folder and put it together with a policy.

        policy_file  as POLICY_FILE; `threshold` then holds only if the file names no tiers
        threshold    as CONFIDENCE_THRESHOLD
        fast_tasks   as ROUTE_FAST_TASKS
        lanes        model runs at a time, each on a thread

        Raises `ModelError` when the model cannot be served, `PolicyError` or `UnknownTask`
        when the policy cannot be followed.
        """
        from handler import model as models  # the runtime is imported only by who needs it
        from handler.policy_file import policy_for, read

        file = read(policy_file) if policy_file else None
        router = models.load(Path(model))
        manifest = router.manifest
        policy = policy_for(
            manifest.tasks,
            manifest.policy,
            fast_tasks=tuple(fast_tasks),
            threshold=threshold,
            file=file,
            learnt=router.learns,
        )
        return cls(router, policy, lanes=lanes)

    def classify_one(self, text: str, *, threshold: float | None = None) -> Decision:
        """Route one text; `threshold` is for it alone."""
        (scores,) = self.router.score([normalise(text, self.router.manifest.limits)])
        return decide(scores, self.policy, threshold)

    def classify(self, texts: Iterable[str], *, threshold: float | None = None) -> Iterator[Decision]:
        """Route texts, one decision each in their order, as they are asked for.

        Reads ahead by `CHUNK` texts and remembers `REMEMBERED` answers, whatever the number of texts.
        """
        return (decide(scores, self.policy, threshold) for scores in self.scores(texts))

    def scores(self, texts: Iterable[str]) -> Iterator[Scores]:
        """What the model thinks of texts, one `Scores` each in their order; policy and threshold not applied."""
        limits, digest = self.router.manifest.limits, self.router.digest
        remaining = iter(texts)
        with ThreadPoolExecutor(max_workers=self.lanes) as lanes:
            while chunk := list(islice(remaining, CHUNK)):
                queries = [normalise(text, limits) for text in chunk]
                names = [key(query, digest) for query in queries]
                found = {name: scores for name in names if (scores := self._recall(name)) is not None}
                new = {name: query for name, query in zip(names, queries, strict=True) if name not in found}
                found |= self._run(new, lanes)
                for name in new:
                    self._remember(name, found[name])
                yield from (found[name] for name in names)

    def scored(self, rows: Iterable[T]) -> Iterator[tuple[T, Scores]]:
        """The same for anything that has a `text`: each with its scores, in their order."""
        waiting: deque[T] = deque()

        def texts() -> Iterator[str]:
            for row in rows:
                waiting.append(row)
                yield row.text

        return ((waiting.popleft(), scores) for scores in self.scores(texts()))

    def explain(self, text: str, *, threshold: float | None = None) -> Explained:
        """Route one text and show what the answer was made of."""
        query = normalise(text, self.router.manifest.limits)
        (scores,) = self.router.score([query])
        return Explained(
            decision=decide(scores, self.policy, threshold),
            tasks=dict(zip(self.policy.tasks, scores.probabilities, strict=True)),
            learnt=scores.learnt,
            seen=query.text,
        )

    def _run(self, queries: Mapping[bytes, Normalised], lanes: ThreadPoolExecutor) -> dict[bytes, Scores]:
        """Score each query once: by length, so that little is padded, and as many runs at a time as there are lanes."""
        names = sorted(queries, key=lambda name: len(queries[name].text))
        runs = [names[start : start + RUN] for start in range(0, len(names), RUN)]
        scored = lanes.map(lambda run: self.router.score([queries[name] for name in run]), runs)
        return {
            name: scores
            for run, found in zip(runs, scored, strict=True)
            for name, scores in zip(run, found, strict=True)
        }

    def _recall(self, name: bytes) -> Scores | None:
        scores = self._remembered.get(name)
        if scores is not None:
            self._remembered.move_to_end(name)
        return scores

    def _remember(self, name: bytes, scores: Scores) -> None:
        self._remembered[name] = scores
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
