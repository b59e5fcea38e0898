"""The router without a server: load it, ask it about many texts, look into one answer.

    from handler import LocalRouter

    router = LocalRouter.open()
    router.classify_one("Translate to French: good morning").route      # "fast"
    for answer in router.classify(texts): …                             # in order, in constant memory
    columns = router.classify_many(texts)                               # arrays, for data frames
    router.explain("Prove that √2 is irrational").tasks                 # {"reasoning": 0.97, …}

The answers are those that a gateway with the same settings would give. Blocking
throughout. `query-gateway classify`, `calibrate` and `replay` are written on this, and
docs/python.md is its page.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import msgspec

from handler.errors import ValidationError
from handler.policy import THRESHOLD, Decision, Policy, Scores, decide, safe_decision
from handler.query import Normalised, key, normalise
from handler.settings import MODEL_PATH, Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from handler.model import Router

# Texts that are looked at together: enough to sort by length and keep every lane busy.
CHUNK = 512
# Of a lane's part so many are run at once.
RUN = 32
# Answers that are remembered, so that a log that asks the same again and again costs little; 300 bytes each.
REMEMBERED = 65_536
# The columns of `classify_many`, by how much room NumPy gives them.
TEXT_COLUMNS = ("label", "route", "task", "reason")
NUMBER_COLUMNS = ("confidence", "need")


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
        model: str | Path = MODEL_PATH,
        *,
        policy_file: str | Path | None = None,
        threshold: float = THRESHOLD,
        fast_tasks: Iterable[str] = (),
        lanes: int = 1,
    ) -> Self:
        """Load a model folder and put it together with a policy.

        model        as MODEL_PATH; by default, from an installed wheel, the model inside it
        policy_file  as POLICY_FILE; `threshold` then holds only if the file names no tiers
        threshold    as CONFIDENCE_THRESHOLD
        fast_tasks   as ROUTE_FAST_TASKS
        lanes        model runs at a time, each on a thread

        Raises `ModelError` when the model cannot be served, `PolicyError` or `UnknownTask`
        when the policy cannot be followed, `ValueError` when threshold or lanes are out of range.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; accepted: a number from 0 to 1")
        if lanes < 1:
            raise ValueError(f"lanes is {lanes}; accepted: 1 or more")
        from handler import model as models  # the runtime is imported only by who needs it
        from handler.policy_file import policy_for, read

        file = read(policy_file) if policy_file else None
        router = models.load(Settings(model_path=str(model)).model_folder)
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
        """Route one text; `threshold` is for it alone.

        Raises `ValidationError` where the text is no string, is empty, or cannot be written in
        UTF-8, and where the threshold is no number from 0 to 1.
        """
        _readable(text)
        _known(threshold)
        (scores,) = self.router.score([normalise(text, self.router.manifest.limits)])
        return decide(scores, self.policy, threshold)

    def classify(self, texts: Iterable[str], *, threshold: float | None = None) -> Iterator[Decision]:
        """Route texts, one decision each in their order, as they are asked for.

        Reads ahead by `CHUNK` texts and remembers `REMEMBERED` answers, whatever the number of texts.
        Raises `ValidationError` as `classify_one` does; its message says which text, counted from 0.
        """
        _many(texts)
        _known(threshold)
        return (decide(scores, self.policy, threshold) for scores in self.scores(_all_readable(texts)))

    def classify_many(
        self, texts: "Sequence[Any] | NDArray[Any]", *, threshold: float | None = None
    ) -> "dict[str, NDArray[Any]]":
        """Route the texts of one block of a data set, as columns for whatever frame they stand in.

        texts    (query,) strings, in any sequence or object array
        returns  label, route, task, reason  (query,) str; reason is empty where there is none
                 confidence, need            (query,) float64, 0 to 1

        No text raises, so that one bad row does not cost a block its answers: what is no string,
        blank, or not to be written in UTF-8 gets the last tier, the task `unknown` and the reason
        `no_text` or `unreadable`, as on `/v1/route`. Raises `ValidationError` for one string in place of
        many, and for the threshold.
        """
        import numpy as np  # only for who asks for columns: a command line does without it

        _many(texts)
        _known(threshold)
        reasons = [_unasked(text) for text in texts]
        asked = (text for text, reason in zip(texts, reasons, strict=True) if reason is None)
        scored = self.scores(asked)
        names = self.policy.names
        decisions = [
            decide(next(scored), self.policy, threshold)
            if reason is None
            else safe_decision(names[-1], len(names) - 1, reason)
            for reason in reasons
        ]
        columns: dict[str, NDArray[Any]] = {
            name: np.array([getattr(decision, name) or "" for decision in decisions], dtype=np.str_)
            for name in TEXT_COLUMNS
        }
        for name in NUMBER_COLUMNS:
            columns[name] = np.array([getattr(decision, name) for decision in decisions], dtype=np.float64)
        return columns

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
        """Route one text and show what the answer was made of. Raises as `classify_one` does."""
        _readable(text)
        _known(threshold)
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


def _unasked(text: object) -> str | None:
    """Why a text is answered without the model; None where it is not."""
    if not isinstance(text, str) or not text.strip():
        return "no_text"
    return None if _in_utf8(text) else "unreadable"


def _in_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable(text: object, named: str = "text") -> None:
    """Raise `ValidationError` unless it is a text that a gateway would take."""
    if not isinstance(text, str):
        raise ValidationError(f"{named} is {type(text).__name__}; accepted: a string that is not empty")
    if not text:
        raise ValidationError(f"{named} is empty; accepted: a string that is not empty")
    if not _in_utf8(text):
        raise ValidationError(f"{named} holds a lone surrogate; accepted: what can be written in UTF-8")


def _many(texts: object) -> None:
    """Raise `ValidationError` for one text, of which every letter would be answered."""
    if isinstance(texts, str | bytes):
        raise ValidationError("texts is one text; accepted: many of them, or classify_one for one")


def _all_readable(texts: Iterable[str]) -> Iterator[str]:
    for place, text in enumerate(texts):
        _readable(text, f"text {place}")
        yield text


def _known(threshold: float | None) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValidationError(f"threshold is {threshold}; accepted: a number from 0 to 1")
