"""The report on a router: which measures, on which prompts, against which targets.

`evaluate` is the story: read the test side, measure in order, print, write. How a measure
is taken is `metrics.py`'s; the sides are `sources.py`'s.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from router_training import held_out_prompts, labelled_file, metrics, sources
from router_training.baselines import LengthAlone
from router_training.metrics import Served, Share, as_given, ask_alone
from router_training.pictures import draw, draw_right_against_time
from router_training.sources import OWN, WIDE, DataError, Prompt
from router_training.speed import time_ratio
from tqdm import tqdm

from handler.model import MANIFEST
from lab.pages import put

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = ROOT / "models/quantized"
CARD = ROOT / "docs/model-card.md"
PICTURES = ROOT / "docs/pictures"
DECISION = ROOT / "docs/decisions/0003-the-router-model.md"

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))

# Dolly's categories: the public relatives tell the first two from the next two, without open questions.
SUMMARIES = ("classification", "summarization")
TALK = ("creative_writing", "general_qa")
DOLLY = "databricks-dolly-15k"
# Tasks that the relatives' policy has no name for; their prompts count as slow there.
UNKNOWN_TO_RELATIVES = ("simple_fact", "simple_math", "simple_code", "chitchat")
FRAMED_ASKS = 150
FRAMED_CHARS_MAX = 300


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    data  the user's own rows, or None for the test side of the sets that the shipped router learns from
    """

    model: Path = SHIPPED
    checkpoint: Path = ROOT / "models/router"
    threshold: float = 0.7
    threshold_table: bool = False
    data: Path | None = None
    write: bool = True


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured, what it came to, what was aimed at.

    value   by the preferred route; None where the data or the tools for it are missing
    label   the same after the threshold, as it is served; what is aimed at where there is one
    length  what length alone reaches
    gated   whether a miss is a failure: a time depends on who else is on the machine
    """

    name: str
    what: str
    value: float | None
    target: float | None
    at_most: bool = False
    label: float | None = None
    length: float | None = None
    gated: bool = True

    @property
    def served(self) -> float | None:
        return self.value if self.label is None else self.label

    @property
    def verdict(self) -> str:
        if self.served is None:
            return "not measured"
        if self.target is None:
            return "published"
        met = self.served <= self.target if self.at_most else self.served >= self.target
        return "pass" if met else "miss"


def evaluate(request: Request) -> int:
    """Measure, print and write. Returns the exit code. Raises DataError or ModelError."""
    served = Served(request.model, request.threshold)
    if request.data:
        return _evaluate_own(served, request.data, request.threshold_table)
    prompts = [p for p in _prompts() if set(p.tasks) <= set(served.policy.tasks)]
    test = [p for p in prompts if p.side == "test" and p.tasks]
    lines = _Measures(served, test, [p for p in prompts if p.side == "train"], request).lines()
    report = _report(served, lines, test)
    print(report)
    mix = typical(test)
    if request.threshold_table and mix:
        print(_threshold_text(served, mix, THRESHOLDS))
    # Half a report must not replace a whole one, nor another model's the shipped one's.
    if mix and request.write:
        _write_scores(request.model / MANIFEST, served, lines, prompts)
        if request.model.resolve() == SHIPPED:
            draw(served, mix, THRESHOLDS, PICTURES)
            draw_right_against_time(_sizes_tried(), PICTURES / "right-against-time.svg")
            put("scores", report, CARD)
    return _exit_code(lines)


def _evaluate_own(served: Served, path: Path, table: bool) -> int:
    """Print how a user's own model does on the test side of the user's own rows."""
    prompts = [p for p in labelled_file.read(path) if p.side == "test"]
    if not prompts:
        raise DataError(f"{path} has no row on the test side; a fifth of the rows lands there")
    if unknown := {p.tasks[0] for p in prompts} - set(served.policy.tasks):
        raise DataError(f"the model does not know {', '.join(sorted(unknown))}; train on this file first")
    all_rows = metrics.right_routes(served, prompts, as_given)
    print(f"route accuracy {all_rows.preferred:.3f} on {all_rows.rows} rows; label {all_rows.taken:.3f}")
    print(_recall_text(served, prompts))
    if table:
        print(_threshold_text(served, prompts, THRESHOLDS))
    return 0


def _prompts() -> list[Prompt]:
    """Read every set that is here; our own prompts alone where DATA_DIR is not set."""
    if "DATA_DIR" not in os.environ:
        print("DATA_DIR is not set: what needs the data sets is not measured", file=sys.stderr)
        return sources.own_prompts()
    return sources.prompts()


def typical(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Pick the mix that confidences are judged on: Dolly, the wide sets and our own prompts.

    Of each kind the same number of rows, the first by digest, so that no kind decides alone.
    """
    kinds = [
        [p for p in prompts if p.source == DOLLY],
        [p for p in prompts if p.source in WIDE and p.source != "short-questions"],
        [p for p in prompts if p.source.startswith(OWN)],
    ]
    rows_max = min(map(len, kinds))
    return [p for kind in kinds for p in sorted(kind, key=lambda p: sources.prompt_digest(p.text))[:rows_max]]


class _Measures:
    """Takes the measures one after the other; a line whose data are missing stays empty."""

    def __init__(
        self, served: Served, test: Sequence[Prompt], train: Sequence[Prompt], request: Request
    ) -> None:
        self._served = served
        self._request = request
        self._dolly = [p for p in test if p.source == DOLLY]
        self._wide = [p for p in test if p.source in WIDE and p.source != "short-questions"]
        self._own = [p for p in test if p.source.startswith(OWN)]
        self._by_source: dict[str, list[Prompt]] = {}
        for prompt in test:
            self._by_source.setdefault(prompt.source, []).append(prompt)
        self._mix = typical(test)
        known = [(p.text, route) for p in train if p.tasks and (route := served.route_of(p))]
        self._length = (
            LengthAlone([t for t, _ in known], np.array([r == "slow" for _, r in known])) if known else None
        )

    def lines(self) -> list[Line]:
        stages: list[Callable[[], list[Line]]] = [
            self._relatives, self._hard_and_passages, self._own_sentences, self._calibration, self._integers,
            self._steadiness, self._cost, self._wide_and_own, self._frames, self._conversations,
            self._moved_tasks, self._languages, self._long_texts,
        ]  # fmt: skip
        return [line for stage in tqdm(stages, desc="measuring", unit="stage") for line in stage()]

    def _relatives(self) -> list[Line]:
        unknown = [task for task in UNKNOWN_TO_RELATIVES if task in self._served.policy.tasks]
        theirs = self._served.policy_with(dict.fromkeys(unknown, "slow"))
        of_a = [p for p in self._dolly if p.template in SUMMARIES + TALK]
        of_b = [p for p in self._dolly if p.template in (*SUMMARIES, *TALK, "open_qa")]
        of_c = [*self._dolly, *self._rows("mbpp"), *self._rows("gsm8k-train")]

        def line(
            name: str, what: str, rows: Sequence[Prompt], target: float | None, alone: bool = False
        ) -> Line:
            if not rows:
                return Line(name, what, None, target)
            share = metrics.right_routes(self._served, rows, ask_alone if alone else as_given, theirs)
            return Line(name, f"{what} ({share.rows} rows)", share.preferred, target, label=share.taken)

        default = metrics.right_routes(self._served, of_b, as_given) if of_b else None
        return [
            line("A", "Dolly, summaries and labels against creative writing and general questions, **instruction "
                 "alone**: asks to call a summary fast whose text is not shown; no goal", of_a, None, alone=True),
            line("B", "the same and open questions, context as given; relatives' policy", of_b, 0.970),
            Line("B default", "the same under the default policy, where its label is plain", *(
                (default.preferred, None, False, default.taken) if default else (None, None))),
            line("C", "all of Dolly, MBPP and GSM8K; relatives' policy", of_c, 0.978),
        ]  # fmt: skip

    def _hard_and_passages(self) -> list[Line]:
        p3 = [p for p in self._rows("p3-sample") if self._served.route_of(p) == "fast"]
        return [
            self._routes(
                "D", "real hard prompts sent slow (Arena-Hard)", self._rows("arena-hard-v0.1"), 0.95
            ),
            self._routes("D role", "role prompts sent slow", self._rows("awesome-chatgpt-prompts"), 0.93),
            self._routes("D′", "fast asks with a passage sent fast (P3)", p3, 0.97),
        ]

    def _own_sentences(self) -> list[Line]:
        """Measure what needs no data set: sentences of our own that no training saw."""
        lines = []
        for what, texts in (
            ("own short asks", held_out_prompts.SHORT),
            ("own pasted texts under asks of both routes", held_out_prompts.SAME_ASK),
        ):
            answers = self._served.answers([text for text, _ in texts])
            truth = np.array([route for _, route in texts])
            lines.append(
                Line("E", what, float((answers.preferred == truth).mean()), None,
                     label=float((answers.taken == truth).mean()))
            )  # fmt: skip
        unsure = self._served.answers(held_out_prompts.OUT_OF_DEPTH).taken == "slow"
        lines.append(
            Line("depth", "own texts with nothing to route by, sent slow", float(unsure.mean()), None)
        )
        return lines

    def _calibration(self) -> list[Line]:
        return [
            Line(name, f"expected calibration error of the route, {what}",
                 metrics.calibration_error(self._served, rows) if rows else None, target, at_most=True)
            for name, what, rows, target in (
                ("F", "whole mix", self._mix, 0.02),
                ("F wide", "wide sets", self._wide, 0.04),
                ("F own", "own prompts", self._own, 0.04),
            )
        ]  # fmt: skip

    def _integers(self) -> list[Line]:
        rows = self._mix[::2]
        # All of the mix would be run twice and say no more.
        texts = [p.text for p in self._mix[::5]] or [text for text, _ in held_out_prompts.SHORT]
        same, moved = metrics.batch_proof(self._served, texts)
        return [
            Line("G", "INT8 takes the route of its own float32",
                 metrics.same_route_as_float(self._served, rows, self._request.checkpoint) if rows else None, 0.995),
            Line("G batch", f"alone as in any batch (confidence moves by {moved:.0e} at most)", same, 1.0),
        ]  # fmt: skip

    def _steadiness(self) -> list[Line]:
        rows = [*self._dolly, *self._rows("mbpp"), *self._rows("gsm8k-train")][::2]
        if not rows:
            return [Line("H", "same route after what does not change the ask", None, 0.98)]
        return [
            Line(f"H {change}", f"same route after: {change}", share, 0.96 if change == "one typo" else 0.98)
            for change, share in metrics.steadiness(self._served, rows).items()
        ]

    def _cost(self) -> list[Line]:
        folder = self._request.model
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        what = "time of one 16-token query against six-layer INT8"
        timed = time_ratio(folder)
        milliseconds, ratio, longest = timed or (0.0, None, None)
        return [
            Line("I", f"{what} ({milliseconds:.2f} ms)", ratio, 0.55, at_most=True, gated=False),
            Line(
                "I long",
                "time of the longest text against a 16-token query",
                longest,
                10,
                at_most=True,
                gated=False,
            ),
            Line("J", "megabytes in the served folder", size, 16.0, at_most=True),
        ]

    def _wide_and_own(self) -> list[Line]:
        found = [
            *self._both("K", "wide sets", self._wide, 0.90, 0.95),
            *self._both("L", "own prompts", self._own, 0.85, 0.88),
        ]
        both = metrics.couples(self._served, self._own)
        if both.rows:
            found.append(
                Line("L couples", f"easy and hard one of a pair both right ({both.rows} couples)", both.preferred,
                     0.70, label=both.taken, length=self._couples_by_length())
            )  # fmt: skip
        return found

    def _frames(self) -> list[Line]:
        bare = [p for p in self._own if len(p.text) <= FRAMED_CHARS_MAX and not sources.is_conversation(p)]
        bare = sorted(bare, key=lambda p: sources.prompt_digest(p.text))[:FRAMED_ASKS]
        if not bare:
            return []
        flips = metrics.flips_in_frames(self._served, bare)
        return [
            Line("M", f"routes that a frame turns (own asks bare and in twelve frames, {flips.rows} asks)",
                 flips.preferred, 0.05, at_most=True, label=flips.taken)
        ]  # fmt: skip

    def _conversations(self) -> list[Line]:
        rows = [p for p in [*self._own, *self._rows("multi-turn")] if sources.is_conversation(p)]
        return [self._routes("N", "conversations: the last user turn decides", rows, 0.88)] if rows else []

    def _moved_tasks(self) -> list[Line]:
        moved = metrics.followers(self._served, [*self._own, *self._dolly])
        if not moved:
            return []
        pooled = sum(share.rows * share.taken for share in moved.values()) / sum(
            s.rows for s in moved.values()
        )
        preferred = sum(s.rows * s.preferred for s in moved.values()) / sum(s.rows for s in moved.values())
        return [
            Line("O", "a task moved by ROUTE_FAST_TASKS: its prompts that follow, all tasks", preferred, 0.85, label=pooled),
            *(Line("O task", f"{task} ({share.rows} rows)", share.preferred, None, label=share.taken)
              for task, share in moved.items()),
        ]  # fmt: skip

    def _languages(self) -> list[Line]:
        rows = [p for p in self._own if p.language]
        found = self._both("P", "other languages", rows, 0.70, 0.85)
        for language in sorted({p.language for p in rows}):
            own = [p for p in rows if p.language == language]
            found.append(self._routes("P one", language, own, None))
        return found

    def _long_texts(self) -> list[Line]:
        places = metrics.places_of_asks(self._own)
        pooled = [p for rows in places.values() for p in rows]
        if not pooled:
            return []
        return [
            self._routes("Q", "asks in 180 to 650 words", pooled, 0.82),
            *(
                self._routes("Q place", f"at the {place}", rows, None)
                for place, rows in places.items()
                if rows
            ),
        ]

    def _rows(self, source: str) -> list[Prompt]:
        return self._by_source.get(source, [])

    def _routes(self, name: str, what: str, rows: Sequence[Prompt], target: float | None) -> Line:
        if not any(self._served.route_of(p) for p in rows):
            return Line(name, what, None, target)
        share = metrics.right_routes(self._served, rows, as_given)
        return Line(
            name, f"{what} ({share.rows} rows)", share.preferred, target, label=share.taken,
            length=self._length_right(rows),
        )  # fmt: skip

    def _both(self, name: str, what: str, rows: Sequence[Prompt], easy: float, hard: float) -> list[Line]:
        if not rows:
            return []
        found = metrics.by_route(self._served, rows)

        def line(kind: str, share: Share, target: float, route: str) -> Line:
            own = [p for p in rows if self._served.route_of(p) == route]
            return Line(
                f"{name} {kind}", f"{what}: {kind} ones sent {route} ({share.rows} rows)", share.preferred, target,
                label=share.taken, length=self._length_right(own),
            )  # fmt: skip

        return [line("easy", found.easy, easy, "fast"), line("hard", found.hard, hard, "slow")]

    def _length_right(self, rows: Sequence[Prompt]) -> float | None:
        known = [(p.text, route) for p in rows if (route := self._served.route_of(p))]
        if not known or self._length is None:
            return None
        said = self._length.is_slow([text for text, _ in known])
        return float((said == np.array([route == "slow" for _, route in known])).mean())

    def _couples_by_length(self) -> float | None:
        if self._length is None:
            return None
        groups: dict[str, list[tuple[bool, bool]]] = {}
        paired = [p for p in self._own if p.pair]
        for prompt, slow in zip(paired, self._length.is_slow([p.text for p in paired]), strict=True):
            groups.setdefault(prompt.pair, []).append((self._served.route_of(prompt) == "slow", bool(slow)))
        right = [
            not easy_said and hard_said
            for group in groups.values()
            for easy, easy_said in group
            if not easy
            for hard, hard_said in group
            if hard
        ]
        return float(np.mean(right)) if right else 0.0


def _report(served: Served, lines: Sequence[Line], test: Sequence[Prompt]) -> str:
    """Write the whole finding as Markdown: for the terminal and for the card alike."""
    parts = [_table_text(lines, served.threshold)]
    mix = typical(test)
    if mix:
        parts.append(_recall_text(served, mix))
        parts.append(_task_calibration_text(served, mix))
        parts.append(_threshold_text(served, mix, sorted({0.5, 0.6, 0.7, 0.8, 0.9, served.threshold})))
    parts.append(_wrong_text(served))
    return "\n\n".join(parts)


def _table_text(lines: Sequence[Line], threshold: float) -> str:
    rows = [
        f"*Preferred* is the model's own choice of route; *as served* is after the threshold of {threshold:g};",
        "*length* is what a router reaches that knows a prompt's length and nothing else.",
        "",
        "| | measure | preferred | as served | length | to reach | |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        value, label, length = (
            ("–" if v is None else f"{v:.3f}") for v in (line.value, line.label, line.length)
        )
        sign = "≤" if line.at_most else "≥"
        target = "–" if line.target is None else f"{sign} {line.target:g}"
        rows.append(
            f"| {line.name} | {line.what} | {value} | {label} | {length} | {target} | {line.verdict} |"
        )
    return "\n".join(rows)


def _recall_text(served: Served, rows: Sequence[Prompt]) -> str:
    """Tabulate each task's recall by route."""
    given = metrics.recall_by_task(served, rows, as_given)
    lines = [
        "Share of each task's prompts that takes the task's route:",
        "",
        "| task | rows | preferred | as served |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {task} | {share.rows} | {share.preferred:.3f} | {share.taken:.3f} |"
        for task, share in given.items()
    ]
    return "\n".join(lines)


def _task_calibration_text(served: Served, rows: Sequence[Prompt]) -> str:
    lines = [
        "When it calls a task the likeliest, how likely it says that is, and how often it is so:",
        "",
        "| task said | rows | probability said | right |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {task} | {n} | {said:.2f} | {right:.2f} |"
        for task, (n, said, right) in metrics.task_calibration(served, rows).items()
    ]
    return "\n".join(lines)


def _threshold_text(served: Served, rows: Sequence[Prompt], thresholds: Sequence[float]) -> str:
    lines = [
        "| threshold | sent fast | easy queries sent fast | hard queries sent fast | right label |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.threshold:.2f} | {row.sent_fast:.3f} | {row.easy_fast:.3f} | {row.false_fast:.3f} | {row.right:.3f} |"
        for row in metrics.threshold_table(served, rows, thresholds)
    ]
    return "\n".join(lines)


def _wrong_text(served: Served) -> str:
    """List the own sentences that it gets wrong: no data set's text may stand in the card."""
    lines = ["Of our own sentences it gets these wrong:", ""]
    for text, route in held_out_prompts.SHORT + held_out_prompts.SAME_ASK:
        (answer,) = served.answers([text]).decisions
        preferred = "fast" if answer.low_confidence else answer.route
        if preferred != route:
            shown = " ".join(text.split())
            lines.append(f"- {shown[:100]}{'…' * (len(shown) > 100)} → {preferred}, {answer.confidence:.2f}")
    return "\n".join(lines)


def _write_scores(manifest: Path, served: Served, lines: Sequence[Line], prompts: Sequence[Prompt]) -> None:
    """Put the figures and the threshold's curve into the manifest; the model's digest does not cover them.

    The curve is measured on the validation side: who moves a threshold by it must not have chosen by the test.
    """
    content = json.loads(manifest.read_text(encoding="utf-8"))
    validation = typical([p for p in prompts if p.side == "validation" and p.tasks])
    content["curve"] = [
        {
            "threshold": row.threshold,
            "share_fast": round(row.sent_fast, 4),
            "wrong_fast": round(row.false_fast, 4),
            "easy_fast": round(row.easy_fast, 4),
        }
        for row in metrics.threshold_table(served, validation, THRESHOLDS)
    ]
    # The speed is this machine's and this minute's; it would change the file on every run.
    content["scores"] = {
        f"{line.name}: {line.what}": round(line.served, 4)
        for line in lines
        if line.served is not None and line.gated
    }
    half_written = manifest.with_suffix(".tmp")
    half_written.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(half_written, manifest)


def _exit_code(lines: Sequence[Line]) -> int:
    """Return 1 when a gated line misses its target and the decision record does not own it."""
    owned = _owned_misses()
    unowned = [line for line in lines if line.gated and line.verdict == "miss" and line.name not in owned]
    for line in unowned:
        print(f"missed, and not owned by {DECISION.name}: {line.name} ({line.what})", file=sys.stderr)
    return 1 if unowned else 0


def _sizes_tried() -> list[tuple[str, float, float]]:
    """Read the record's table of routers by size: name, share of routes that are right, time of a query."""
    rows = re.findall(
        r"^\| \**(\d × [^|*]+?)\** \| ([\d.]+) \| ([\d.]+) \| [\d.]+ MB \|$",
        DECISION.read_text("utf-8"),
        re.MULTILINE,
    )
    return [(name, float(right), float(time)) for name, right, time in rows]


def _owned_misses() -> set[str]:
    """Read the record's line `Owned misses: A, D` (or `none`)."""
    found = re.search(r"^Owned misses: (.+)$", DECISION.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.strip() for name in found[1].rstrip(".").split(",")} if found else set()
