"""What is measured of a router, each measure a small function.

`Served` is the router exactly as the gateway runs it; the measures ask it and
count. Targets, files and printing are `evaluate.py`'s.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from router_training import held_out_prompts, synthesis
from router_training.calibration import expected_calibration_error, probabilities
from router_training.sources import Prompt

from handler.model import Router, load
from handler.policy import Decision, Policy, Route, Scores, decide
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
        self.policy = Policy.of_routes(manifest.tasks, manifest.policy, threshold=threshold)
        self.threshold = threshold
        # Many measures ask of one text; each is scored once.
        self._known: dict[str, Scores] = {}

    def answers(self, texts: Sequence[str], policy: Policy | None = None) -> Answers:
        """Ask it; under another policy than its own, if one is given."""
        scores = self.scores(texts)
        return Answers(scores, [decide(s, policy or self.policy, self.threshold) for s in scores])

    def scores(self, texts: Sequence[str]) -> list[Scores]:
        known = self._known
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, self._scored(new), strict=True))
        return [known[text] for text in texts]

    def _scored(self, texts: Sequence[str]) -> list[Scores]:
        queries = [normalise(text, self.router.manifest.limits) for text in texts]
        order = sorted(range(len(queries)), key=lambda i: len(queries[i].text))
        scores: list[Scores | None] = [None] * len(queries)
        for start in range(0, len(order), ROWS_PER_BATCH):
            rows = order[start : start + ROWS_PER_BATCH]
            for i, found in zip(rows, self.router.score([queries[i] for i in rows]), strict=True):
                scores[i] = found
        return [s for s in scores if s is not None]

    def policy_with(self, routes: Mapping[str, Route]) -> Policy:
        """The model's own policy with some tasks moved."""
        manifest = self.router.manifest
        return Policy.of_routes(manifest.tasks, {**manifest.policy, **routes}, threshold=self.threshold)

    def route_of(self, prompt: Prompt, policy: Policy | None = None) -> str | None:
        """The true route of a prompt; None where its tasks take several."""
        routes = {(policy or self.policy).routes[task] for task in prompt.tasks}
        return routes.pop() if len(routes) == 1 else None


@dataclass(frozen=True)
class Share:
    """How many of so many were right: by the preferred route, and after the threshold."""

    rows: int
    preferred: float
    taken: float


def right_routes(
    served: Served, prompts: Sequence[Prompt], text: Callable[[Prompt], str], policy: Policy | None = None
) -> Share:
    """Measure route accuracy on prompts shown through `text`; those of no single route are left out."""
    known = [(p, route) for p in prompts if (route := served.route_of(p, policy))]
    answers = served.answers([text(p) for p, _ in known], policy)
    truth = np.array([route for _, route in known])
    return Share(
        len(known),
        float((answers.preferred == truth).mean()),
        float((answers.taken == truth).mean()),
    )


@dataclass(frozen=True)
class ByRoute:
    """What share of the easy prompts went fast, and of the hard ones slow."""

    easy: Share
    hard: Share


def by_route(served: Served, prompts: Sequence[Prompt]) -> ByRoute:
    """Measure easy and hard prompts apart: a router that sends all slow is right on half."""
    easy = [p for p in prompts if served.route_of(p) == "fast"]
    hard = [p for p in prompts if served.route_of(p) == "slow"]
    none = Share(0, float("nan"), float("nan"))
    return ByRoute(
        right_routes(served, easy, as_given) if easy else none,
        right_routes(served, hard, as_given) if hard else none,
    )


def couples(served: Served, prompts: Sequence[Prompt]) -> Share:
    """Measure, of all couples of an easy and a hard prompt in one pair, those that both go right."""
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.pair:
            groups[prompt.pair].append(prompt)
    preferred = taken = count = 0
    for group in groups.values():
        answers = served.answers([p.text for p in group])
        truth = [served.route_of(p) for p in group]
        for easy in (i for i, route in enumerate(truth) if route == "fast"):
            for hard in (i for i, route in enumerate(truth) if route == "slow"):
                count += 1
                preferred += bool(answers.preferred[easy] == "fast" and answers.preferred[hard] == "slow")
                taken += bool(answers.taken[easy] == "fast" and answers.taken[hard] == "slow")
    return Share(count, preferred / max(1, count), taken / max(1, count))


def flips_in_frames(served: Served, prompts: Sequence[Prompt]) -> Share:
    """Measure how often one of twelve frames turns the route of an ask."""
    bare = served.answers([p.text for p in prompts])
    preferred, taken = [], []
    for frame in held_out_prompts.FRAMES:
        framed = served.answers([frame.replace("{ask}", p.text) for p in prompts])
        preferred.append((framed.preferred != bare.preferred).mean())
        taken.append((framed.taken != bare.taken).mean())
    return Share(len(prompts), float(np.mean(preferred)), float(np.mean(taken)))


def followers(served: Served, prompts: Sequence[Prompt], rows_min: int = 50) -> dict[str, Share]:
    """Measure, for each task, the share of its prompts that follow when an operator moves the task.

    Open and general questions, which are told apart by nobody, are left out; so are tasks of few rows.
    """
    found = {}
    for task, route in served.policy.routes.items():
        own = [p for p in prompts if p.tasks == (task,)]
        if len(own) <= rows_min or task in ("open_qa", "general_qa"):
            continue
        moved = served.policy_with({task: "slow" if route == "fast" else "fast"})
        found[task] = right_routes(served, own, as_given, moved)
    return found


def places_of_asks(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """Sort long prompts by where their ask stands: at the start, in the middle, at the end.

    Told by what a prompt does not share with another of its pair, line by line.
    """
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.pair:
            groups[prompt.pair].append(prompt)
    found: dict[str, list[Prompt]] = {"start": [], "middle": [], "end": []}
    for group in groups.values():
        for prompt in group:
            words = len(prompt.text.split())
            if not 180 <= words <= 650:
                continue
            place = _place(prompt.text, [other.text for other in group if other is not prompt])
            if place is not None:
                found["start" if place < 0.2 else "end" if place > 0.8 else "middle"].append(prompt)
    return found


def _place(text: str, others: Sequence[str]) -> float | None:
    """Return where the lines stand that no other text has, 0 to 1; None where they are too much to be an ask."""
    best: tuple[int, float] | None = None
    for other in others:
        shared = set(other.split("\n"))
        position, own = 0, []
        for line in text.split("\n"):
            if line.strip() and line not in shared:
                own.append((position, len(line)))
            position += len(line) + 1
        size = sum(length for _, length in own)
        if 8 < size <= 420 and (best is None or size < best[0]):
            best = size, (own[0][0] + own[-1][0] + own[-1][1]) / 2 / len(text)
    return best[1] if best else None


def recall_by_task(
    served: Served, prompts: Sequence[Prompt], text: Callable[[Prompt], str]
) -> dict[str, Share]:
    """Measure, for each task, the share of its prompts that takes the task's route."""
    by_task = {
        task: [p for p in prompts if p.tasks[0] == task and served.route_of(p)]
        for task in served.policy.tasks
    }
    return {task: right_routes(served, own, text) for task, own in by_task.items() if own}


def confusion(served: Served, prompts: Sequence[Prompt]) -> NDArray[np.int64]:
    """Count (true task, likeliest task) over prompts of one task, as given: (task, task) int64."""
    tasks = served.policy.tasks
    counts = np.zeros((len(tasks), len(tasks)), dtype=np.int64)
    known = [p for p in prompts if len(p.tasks) == 1]
    for prompt, scores in zip(known, served.scores([p.text for p in known]), strict=True):
        counts[tasks.index(prompt.tasks[0]), int(np.argmax(scores.probabilities))] += 1
    return counts


def task_calibration(served: Served, prompts: Sequence[Prompt]) -> dict[str, tuple[int, float, float]]:
    """Measure, by likeliest task: rows, mean probability that was said, share that was right."""
    known = [p for p in prompts if len(p.tasks) == 1]
    odds = np.array([s.probabilities for s in served.scores([p.text for p in known])])
    said = odds.argmax(axis=1)
    right = np.array([served.policy.tasks[i] == p.tasks[0] for i, p in zip(said, known, strict=True)])
    return {
        task: (int(rows.sum()), float(odds.max(axis=1)[rows].mean()), float(right[rows].mean()))
        for i, task in enumerate(served.policy.tasks)
        if (rows := said == i).any()
    }


def calibration_error(served: Served, prompts: Sequence[Prompt]) -> float:
    """Measure how far the preferred route's probability is from the share that is right."""
    confidence, right = believed(served, prompts)
    return expected_calibration_error(confidence, right)


def believed(served: Served, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each prompt's confidence and whether its preferred route is right, both (row,)."""
    known = [(p, route) for p in prompts if (route := served.route_of(p))]
    answers = served.answers([p.text for p, _ in known])
    truth = np.array([route for _, route in known])
    return answers.confidence, answers.preferred == truth


@dataclass(frozen=True)
class ThresholdRow:
    """What one threshold would do: shares of all queries, of the hard ones, of the easy ones, of all."""

    threshold: float
    sent_fast: float
    false_fast: float
    easy_fast: float
    right: float


def threshold_table(
    served: Served, prompts: Sequence[Prompt], thresholds: Sequence[float]
) -> list[ThresholdRow]:
    """Decide the same scores at each threshold, for an operator to choose by cost."""
    known = [(p, route) for p in prompts if (route := served.route_of(p))]
    scores = served.scores([p.text for p, _ in known])
    is_slow = np.array([route == "slow" for _, route in known])
    table = []
    for threshold in thresholds:
        sent_fast = np.array([decide(s, served.policy, threshold).route == "fast" for s in scores])
        table.append(
            ThresholdRow(
                threshold,
                float(sent_fast.mean()),
                float(sent_fast[is_slow].mean()),
                float(sent_fast[~is_slow].mean()),
                float((sent_fast != is_slow).mean()),
            )
        )
    return table


def same_route_as_float(served: Served, prompts: Sequence[Prompt], checkpoint: Path) -> float | None:
    """Measure the share of prompts whose preferred route is that of the float32 checkpoint.

    None where torch and transformers are not installed.
    """
    try:
        from router_training import encoder, fitting
    except ImportError:
        return None
    manifest = served.router.manifest
    texts = [p.text for p in prompts]
    rows = encoder.token_ids(
        encoder.read_tokenizer(checkpoint),
        [normalise(text, manifest.limits).text for text in texts],
        manifest.limits,
    )
    logits = fitting.logits(encoder.load(checkpoint, manifest.tasks), rows, "float32")
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
        "one typo": lambda ask: synthesis.mistyped(ask, rng),
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
