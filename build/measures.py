"""What is measured of a router, each measure a small function.

`Served` is the router exactly as the gateway runs it; the measures ask it and
count. Targets, files and printing are `evaluate.py`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import compose
import numpy as np
from calibration import expected_calibration_error, probabilities
from data import Prompt
from numpy.typing import NDArray

from handler.model import Router, load
from handler.policy import Decision, Policy, Scores, decide
from handler.query import normalise

ROWS_PER_BATCH = 16


def as_given(prompt: Prompt) -> str:
    """Show a prompt with all it came with."""
    return prompt.text


def ask_alone(prompt: Prompt) -> str:
    """Show a prompt without the passage it came with."""
    return prompt.ask


@dataclass(frozen=True)
class Answers:
    """What the router said of some texts, in their order.

    scores     of each text
    decisions  of each text, at the threshold that is served
    """

    scores: list[Scores]
    decisions: list[Decision]

    @property
    def preferred(self) -> NDArray[np.str_]:
        """The route that the model preferred, (row,)."""
        return np.array(["fast" if d.low_confidence else d.route for d in self.decisions])

    @property
    def taken(self) -> NDArray[np.str_]:
        """The route after the threshold, (row,)."""
        return np.array([d.route for d in self.decisions])

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the preferred route, (row,)."""
        return np.array([d.confidence for d in self.decisions], dtype=np.float64)


class Served:
    """A model folder behind the gateway's own loading, normalising, cutting and deciding."""

    def __init__(self, folder: Path, threshold: float) -> None:
        self.router: Router = load(folder)
        manifest = self.router.manifest
        self.policy = Policy.of_routes(manifest.tasks, manifest.policy)
        self.threshold = threshold

    def answers(self, texts: Sequence[str]) -> Answers:
        queries = [normalise(text, self.router.manifest.limits) for text in texts]
        order = sorted(range(len(queries)), key=lambda i: len(queries[i].text))
        scores: list[Scores | None] = [None] * len(queries)
        for start in range(0, len(order), ROWS_PER_BATCH):
            rows = order[start : start + ROWS_PER_BATCH]
            for i, found in zip(rows, self.router.score([queries[i] for i in rows]), strict=True):
                scores[i] = found
        done = [s for s in scores if s is not None]
        return Answers(done, [decide(s, self.policy, self.threshold) for s in done])

    def route_of(self, prompt: Prompt) -> str:
        """The true route of a prompt whose tasks all take the same one."""
        (route,) = {self.policy.routes[task] for task in prompt.tasks}
        return route


@dataclass(frozen=True)
class Share:
    """How many of so many were right: by the preferred route, and after the threshold."""

    rows: int
    preferred: float
    taken: float


def right_routes(served: Served, prompts: Sequence[Prompt], text: Callable[[Prompt], str]) -> Share:
    """Measure route accuracy on prompts shown through `text`."""
    answers = served.answers([text(p) for p in prompts])
    truth = np.array([served.route_of(p) for p in prompts])
    return Share(
        len(prompts),
        float((answers.preferred == truth).mean()),
        float((answers.taken == truth).mean()),
    )


def recall_by_task(
    served: Served, prompts: Sequence[Prompt], text: Callable[[Prompt], str]
) -> dict[str, Share]:
    """Measure, for each task, the share of its prompts that takes the task's route."""
    by_task = {task: [p for p in prompts if p.tasks == (task,)] for task in served.policy.tasks}
    return {task: right_routes(served, own, text) for task, own in by_task.items() if own}


def confusion(served: Served, prompts: Sequence[Prompt]) -> NDArray[np.int64]:
    """Count (true task, likeliest task) over prompts as given: (task, task) int64."""
    tasks = served.policy.tasks
    counts = np.zeros((len(tasks), len(tasks)), dtype=np.int64)
    for prompt, scores in zip(prompts, served.answers([p.text for p in prompts]).scores, strict=True):
        counts[tasks.index(prompt.tasks[0]), int(np.argmax(scores.probabilities))] += 1
    return counts


def calibration_error(served: Served, prompts: Sequence[Prompt]) -> float:
    """Measure how far the preferred route's probability is from the share that is right."""
    confidence, right = believed(served, prompts)
    return expected_calibration_error(confidence, right)


def believed(served: Served, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each prompt's confidence and whether its preferred route is right, both (row,)."""
    answers = served.answers([p.text for p in prompts])
    truth = np.array([served.route_of(p) for p in prompts])
    return answers.confidence, answers.preferred == truth


@dataclass(frozen=True)
class ThresholdRow:
    """What one threshold would do: shares of all queries, of the slow ones, of all."""

    threshold: float
    sent_fast: float
    false_fast: float
    right: float


def threshold_table(
    served: Served, prompts: Sequence[Prompt], thresholds: Sequence[float]
) -> list[ThresholdRow]:
    """Decide the same scores at each threshold, for an operator to choose by cost."""
    scores = served.answers([p.text for p in prompts]).scores
    is_slow = np.array([served.route_of(p) == "slow" for p in prompts])
    table = []
    for threshold in thresholds:
        sent_fast = np.array([decide(s, served.policy, threshold).route == "fast" for s in scores])
        table.append(
            ThresholdRow(
                threshold,
                float(sent_fast.mean()),
                float(sent_fast[is_slow].mean()),
                float((sent_fast != is_slow).mean()),
            )
        )
    return table


def same_route_as_float(served: Served, prompts: Sequence[Prompt], checkpoint: Path) -> float | None:
    """Measure the share of prompts whose preferred route is that of the float32 checkpoint.

    None where torch and transformers are not installed.
    """
    try:
        import encoder
        import fit
    except ImportError:
        return None
    manifest = served.router.manifest
    texts = [p.text for p in prompts]
    rows = encoder.token_ids(
        encoder.read_tokenizer(checkpoint),
        [normalise(text, manifest.limits).text for text in texts],
        manifest.limits,
    )
    logits = fit.logits(encoder.load(checkpoint, manifest.tasks), rows, "float32", exact=True)
    p_slow = probabilities(logits, manifest.temperature) @ np.array(served.policy.needs)
    return float((served.answers(texts).preferred == np.where(p_slow >= 0.5, "slow", "fast")).mean())


def batch_proof(served: Served, texts: Sequence[str], seed: int = 3) -> tuple[float, float]:
    """Compare every text alone with itself among strangers.

    returns  the share with the same label, and the largest move of any confidence
    """
    rng = random.Random(seed)
    queries = [normalise(text, served.router.manifest.limits) for text in texts]
    same, moved, start = 0, 0.0, 0
    while start < len(queries):
        batch = queries[start : start + rng.choice((2, 7, 16, 32))]
        start += len(batch)
        for query, among in zip(batch, served.router.score(batch), strict=True):
            alone = decide(served.router.score([query])[0], served.policy, served.threshold)
            together = decide(among, served.policy, served.threshold)
            same += alone.label == together.label
            moved = max(moved, abs(alone.confidence - together.confidence))
    return same / len(queries), moved


def steadiness(served: Served, prompts: Sequence[Prompt], seed: int = 5) -> dict[str, float]:
    """Measure the share of prompts whose route survives what does not change the ask."""
    rng = random.Random(seed)
    changes: dict[str, Callable[[str], str]] = {
        "upper case": str.upper,
        "title case": str.title,
        "extra blanks": lambda ask: "  " + ask.replace(" ", "   ") + " \n",
        "no final punctuation": lambda ask: ask.rstrip(" .?!"),
        "one typo": lambda ask: compose.mistyped(ask, rng),
        "polite please": lambda ask: f"please {ask[:1].lower()}{ask[1:]}",
        "polite hi": lambda ask: f"hi, could you {ask[:1].lower()}{ask[1:]}",
    }

    def shown(prompt: Prompt, change: Callable[[str], str]) -> str:
        return f"{change(prompt.ask)}\n\n{prompt.passage}" if prompt.passage else change(prompt.ask)

    before = served.answers([p.text for p in prompts]).preferred
    return {
        name: float((served.answers([shown(p, change) for p in prompts]).preferred == before).mean())
        for name, change in changes.items()
    }
