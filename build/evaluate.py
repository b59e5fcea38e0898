"""Score what is shipped, as it is served, and say so everywhere it is quoted.

Run as a file: `python build/evaluate.py --help`. Prints a table of measures with
their targets, recall by task, what the threshold does and what it gets wrong; writes
the same into the manifest, docs/model-card.md and docs/pictures/. A miss that
docs/decisions/0003 does not own ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import data
import measures
import numpy as np
import own_data
import probes
from data import DataError, Prompt
from measures import Served, as_given, ask_alone
from pictures import draw
from speed import time_ratio
from tqdm import tqdm

from handler.errors import ModelError
from handler.model import MANIFEST

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models/quantized"
CARD = ROOT / "docs/model-card.md"
PICTURES = ROOT / "docs/pictures"
DECISION = ROOT / "docs/decisions/0003-the-router-model.md"

# What stands between these in the card is written by this script.
BEGIN = "<!-- scores: written by build/evaluate.py -->"
END = "<!-- end of scores -->"

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))

SUMMARIES = ("classification", "summarization")
TALK = ("creative_writing", "general_qa")


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured, what it came to, what was aimed at.

    value   None where the data or the tools for it are missing
    label   the same figure after the threshold, where that makes sense
    gated   whether a miss is a failure: a time depends on who else is on the machine
    """

    name: str
    what: str
    value: float | None
    target: float | None
    at_most: bool = False
    label: float | None = None
    gated: bool = True

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.target is None:
            return "published"
        met = self.value <= self.target if self.at_most else self.value >= self.target
        return "pass" if met else "miss"


def main() -> None:
    arguments = _parse_arguments()
    try:
        served = Served(arguments.model, arguments.threshold)
        if arguments.data:
            sys.exit(_evaluate_own(served, arguments.data))
        sys.exit(_evaluate(served, arguments))
    except (DataError, ModelError) as error:
        sys.exit(f"evaluate: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHIPPED, help="[models/quantized]")
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "models/router", help="its float32 self [models/router]"
    )
    parser.add_argument("--threshold", type=float, default=0.7, help="as CONFIDENCE_THRESHOLD [%(default)s]")
    parser.add_argument("--threshold-table", action="store_true", help="show what every threshold would do")
    parser.add_argument("--data", type=Path, help="your own JSON lines: score a model trained on them")
    parser.add_argument("--no-write", action="store_true", help="print only; change no file")
    return parser.parse_args()


def _evaluate_own(served: Served, path: Path) -> int:
    """Print how a user's own model does on the test side of the user's own rows."""
    prompts = [p for p in own_data.read(path) if p.side == "test"]
    if not prompts:
        raise DataError(f"{path} has no row on the test side; a fifth of the rows lands there")
    if unknown := {p.tasks[0] for p in prompts} - set(served.policy.tasks):
        raise DataError(f"the model does not know {', '.join(sorted(unknown))}; train on this file first")
    all_rows = measures.right_routes(served, prompts, as_given)
    print(f"route accuracy {all_rows.preferred:.3f} on {all_rows.rows} rows; label {all_rows.taken:.3f}")
    print(_recall_text(served, prompts))
    return 0


def _evaluate(served: Served, arguments: argparse.Namespace) -> int:
    prompts = _test_prompts()
    table = _table(served, prompts, arguments)
    ten_tasks = _ten_tasks(prompts)
    report = _report(served, table, ten_tasks)
    print(report)
    if arguments.threshold_table and ten_tasks:
        print(_threshold_text(served, ten_tasks, THRESHOLDS))
    # Half a report must not replace a whole one, nor another model's the shipped one's.
    if ten_tasks and not arguments.no_write:
        _write_scores(arguments.model / MANIFEST, table)
        if arguments.model.resolve() == SHIPPED:
            draw(served, ten_tasks, THRESHOLDS, PICTURES)
            _write_card(report)
    return _exit_code(table)


def _test_prompts() -> list[Prompt]:
    """Read the test side of every set that is here; of none where DATA_DIR is not set."""
    if "DATA_DIR" not in os.environ:
        print("DATA_DIR is not set: what needs the data sets is not measured", file=sys.stderr)
        return []
    return [p for p in data.prompts() if p.side == "test"]


def _ten_tasks(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Pick the sets that together hold all ten tasks: measure C's."""
    names = ("databricks-dolly-15k", "mbpp", "gsm8k-train")
    return [p for p in prompts if p.source in names]


def _table(served: Served, prompts: Sequence[Prompt], arguments: argparse.Namespace) -> list[Line]:
    """Measure A to J in order; a line whose data are missing stays empty."""
    dolly = [p for p in prompts if p.source == "databricks-dolly-15k"]
    of_a = [p for p in dolly if p.tasks[0] in SUMMARIES + TALK]
    of_b = [p for p in dolly if p.tasks[0] in (*SUMMARIES, *TALK, "open_qa")]
    ten = _ten_tasks(prompts)
    hard = [p for p in prompts if p.source == "arena-hard-v0.1"]
    roles = [p for p in prompts if p.source == "awesome-chatgpt-prompts"]
    p3_fast = [p for p in prompts if p.source == "p3-sample" and served.route_of(p) == "fast"]

    stages: list[Callable[[], list[Line]]] = [
        lambda: [
            _accuracy(served, "A", "classification, summarization against creative writing, general QA; ask alone",
                      of_a, 0.905, ask_alone),
            _accuracy(served, "B", "the same and open QA; context as given", of_b, 0.970),
            _accuracy(served, "C", "default policy over all ten tasks; as given", ten, 0.955),
        ],
        lambda: [
            _accuracy(served, "D", "real hard prompts sent slow", hard, 0.95),
            _accuracy(served, "D role", "role prompts sent slow", roles, 0.95),
            _accuracy(served, "D′", "fast asks with a passage sent fast", p3_fast, 0.95),
        ],
        lambda: _own_sentences(served),
        lambda: [
            Line("F", "expected calibration error of the route, on C",
                 measures.calibration_error(served, ten) if ten else None, 0.02, at_most=True),
        ],
        lambda: [
            Line("G", "INT8 takes the route of its own float32, on C",
                 measures.same_route_as_float(served, ten, arguments.checkpoint) if ten else None, 0.995),
        ],
        lambda: [_batch_proof(served, ten)],
        lambda: _steadiness(served, ten),
        lambda: _speed(arguments.model),
        lambda: [Line("J", "megabytes in the served folder", _megabytes(arguments.model), 20.0, at_most=True)],
    ]  # fmt: skip
    return [line for stage in tqdm(stages, desc="measuring", unit="stage") for line in stage()]


def _accuracy(
    served: Served,
    name: str,
    what: str,
    rows: Sequence[Prompt],
    target: float,
    shown: Callable[[Prompt], str] = as_given,
) -> Line:
    if not rows:
        return Line(name, what, None, target)
    share = measures.right_routes(served, rows, shown)
    return Line(name, f"{what} ({share.rows} rows)", share.preferred, target, label=share.taken)


def _own_sentences(served: Served) -> list[Line]:
    """Measure what needs no data set: sentences of our own that no training saw."""
    lines = []
    for what, texts in (
        ("own short asks, factual and extractive", probes.SHORT),
        ("own pasted texts under asks of both routes", probes.SAME_ASK),
    ):
        answers = served.answers([text for text, _ in texts])
        truth = np.array([route for _, route in texts])
        lines.append(
            Line("E", what, float((answers.preferred == truth).mean()), None,
                 label=float((answers.taken == truth).mean()))
        )  # fmt: skip
    unsure = served.answers(probes.OUT_OF_DEPTH).taken == "slow"
    lines.append(
        Line("depth", "own texts with nothing to route by, not sent fast", float(unsure.mean()), 0.95)
    )
    return lines


def _batch_proof(served: Served, rows: Sequence[Prompt]) -> Line:
    # All of C would be run twice and say no more.
    texts = [p.text for p in rows[::5]] or [text for text, _ in probes.SHORT + probes.SAME_ASK]
    same, moved = measures.batch_proof(served, texts)
    return Line("G batch", f"alone as in any batch (confidence moves by {moved:.0e} at most)", same, 1.0)


def _steadiness(served: Served, rows: Sequence[Prompt]) -> list[Line]:
    if not rows:
        return [Line("H", "same route after what does not change the ask", None, 0.98)]
    return [
        Line(f"H {change}", f"same route after: {change}", share, 0.96 if change == "one typo" else 0.98)
        for change, share in measures.steadiness(served, rows).items()
    ]


def _speed(model: Path) -> list[Line]:
    timed = time_ratio(model)
    what = "time of one 16-token query against six-layer INT8"
    if timed is None:
        return [Line("I", what, None, 0.30, at_most=True, gated=False)]
    milliseconds, ratio = timed
    return [Line("I", f"{what} ({milliseconds:.2f} ms)", ratio, 0.30, at_most=True, gated=False)]


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def _report(served: Served, table: Sequence[Line], ten: Sequence[Prompt]) -> str:
    """Write the whole finding as Markdown: for the terminal and for the card alike."""
    parts = [_table_text(table)]
    if ten:
        parts.append(_recall_text(served, ten))
        parts.append(_threshold_text(served, ten, (0.5, 0.6, served.threshold, 0.8, 0.9)))
    parts.append(_wrong_text(served))
    return "\n\n".join(parts)


def _table_text(table: Sequence[Line]) -> str:
    rows = ["| | measure | preferred route | label | to reach | |", "|---|---|---|---|---|---|"]
    for line in table:
        value, label = (("–" if v is None else f"{v:.3f}") for v in (line.value, line.label))
        sign = "≤" if line.at_most else "≥"
        target = "published" if line.target is None else f"{sign} {line.target:g}"
        rows.append(f"| {line.name} | {line.what} | {value} | {label} | {target} | {line.verdict} |")
    return "\n".join(rows)


def _recall_text(served: Served, rows: Sequence[Prompt]) -> str:
    """Tabulate each task's recall by route, with its passage and without."""
    given = measures.recall_by_task(served, rows, as_given)
    alone = measures.recall_by_task(served, [p for p in rows if p.passage], ask_alone)
    lines = [
        "Share of each task's prompts that takes the task's route (label after the threshold in brackets):",
        "",
        "| task | rows | as given | ask alone, its passage left out |",
        "|---|---|---|---|",
    ]
    for task, share in given.items():
        bare = f"{alone[task].preferred:.3f} ({alone[task].taken:.3f})" if task in alone else "–"
        lines.append(f"| {task} | {share.rows} | {share.preferred:.3f} ({share.taken:.3f}) | {bare} |")
    return "\n".join(lines)


def _threshold_text(served: Served, rows: Sequence[Prompt], thresholds: Sequence[float]) -> str:
    lines = ["| threshold | sent fast | slow queries sent fast | right label |", "|---|---|---|---|"]
    lines += [
        f"| {row.threshold:.2f} | {row.sent_fast:.3f} | {row.false_fast:.3f} | {row.right:.3f} |"
        for row in measures.threshold_table(served, rows, thresholds)
    ]
    return "\n".join(lines)


def _wrong_text(served: Served) -> str:
    """List the own sentences that it gets wrong: no data set's text may stand in the card."""
    lines = ["Of our own sentences it gets these wrong:", ""]
    for text, route in probes.SHORT + probes.SAME_ASK:
        (answer,) = served.answers([text]).decisions
        preferred = "fast" if answer.low_confidence else answer.route
        if preferred != route:
            shown = " ".join(text.split())
            lines.append(f"- {shown[:100]}{'…' * (len(shown) > 100)} → {preferred}, {answer.confidence:.2f}")
    return "\n".join(lines)


def _write_scores(manifest: Path, table: Sequence[Line]) -> None:
    """Put the figures into the manifest; the model's digest does not cover them."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    # The speed is this machine's and this minute's; it would change the file on every run.
    content["scores"] = {
        f"{line.name}: {line.what}": round(line.value, 4)
        for line in table
        if line.value is not None and line.gated
    }
    half_written = manifest.with_suffix(".tmp")
    half_written.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(half_written, manifest)


def _write_card(report: str) -> None:
    """Replace what stands between the card's markers."""
    text = CARD.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    CARD.write_text(f"{before}{BEGIN}\n{report}\n{END}{after}", encoding="utf-8")


def _exit_code(table: Sequence[Line]) -> int:
    """Return 1 when a gated line misses its target and the decision record does not own it."""
    owned = _owned_misses()
    unowned = [line for line in table if line.gated and line.verdict == "miss" and line.name not in owned]
    for line in unowned:
        print(f"missed, and not owned by {DECISION.name}: {line.name} ({line.what})", file=sys.stderr)
    return 1 if unowned else 0


def _owned_misses() -> set[str]:
    """Read the record's line `Owned misses: A, D` (or `none`)."""
    found = re.search(r"^Owned misses: (.+)$", DECISION.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.strip() for name in found[1].rstrip(".").split(",")} if found else set()


if __name__ == "__main__":
    main()
