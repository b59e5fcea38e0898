"""The pictures of the model card: reliability, confusion, the threshold's effect, right against time.

Small SVG files that come out the same bytes for the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from router_training import metrics
from router_training.calibration import reliability
from router_training.metrics import Served
from router_training.sources import Prompt

# Without these every run writes other ids and a date.
STEADY: dict[Any, Any] = {"svg.hashsalt": "query-router", "svg.fonttype": "none", "font.size": 9}


def draw(served: Served, prompts: Sequence[Prompt], thresholds: Sequence[float], folder: Path) -> None:
    """Write the three pictures for prompts of all tasks into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STEADY):
        _save(_reliability(served, prompts), folder / "reliability.svg")
        _save(_confusion(served, prompts), folder / "confusion.svg")
        _save(_thresholds(served, prompts, thresholds), folder / "threshold.svg")


def draw_right_against_time(routers: Sequence[tuple[str, float, float]], path: Path) -> None:
    """Write the picture of how right routers of other sizes are, against what a query costs.

    routers  (name, share of routes that are right, time of a 16-token query in that of six layers in INT8)
    """
    with rc_context(STEADY):
        figure = Figure(figsize=(5.5, 3.2))
        axes = figure.subplots()
        axes.plot([time for _, _, time in routers], [right for _, right, _ in routers], "o", markersize=4)
        for name, right, time in routers:
            axes.annotate(name, (time, right), xytext=(5, -3), textcoords="offset points", fontsize=8)
        axes.set(xlabel="time of a 16-token query, of six layers'", ylabel="routes that are right")
        axes.margins(x=0.35, y=0.12)
        axes.set_title("Right against time, validation side")
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def _reliability(served: Served, prompts: Sequence[Prompt]) -> Figure:
    figure = Figure(figsize=(4, 3.4))
    axes = figure.subplots()
    bins = reliability(*metrics.believed(served, prompts))
    axes.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1, label="perfect")
    axes.plot([b[1] for b in bins], [b[2] for b in bins], "o-", markersize=4, label="measured")
    axes.set(
        xlabel="confidence in the route", ylabel="share that is right", xlim=(0.5, 1.01), ylim=(0.4, 1.01)
    )
    axes.set_title("Reliability, 15 bins of equal mass")
    axes.legend(loc="lower right")
    return figure


def _confusion(served: Served, prompts: Sequence[Prompt]) -> Figure:
    counts = metrics.confusion(served, prompts)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    names = [task.replace("_", " ") for task in served.policy.tasks]
    figure = Figure(figsize=(9, 8))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="said", ylabel="true")
    axes.set_title("Tasks, share of each true task in %, from 3 on")
    for row, column in zip(*shares.nonzero(), strict=True):
        if shares[row, column] >= 0.03:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{shares[row, column]:.0%}"[:-1], ha="center", va="center", color=colour)
    return figure


def _thresholds(served: Served, prompts: Sequence[Prompt], thresholds: Sequence[float]) -> Figure:
    table = metrics.threshold_table(served, prompts, thresholds)
    figure = Figure(figsize=(4, 3.4))
    axes = figure.subplots()
    axes.plot([row.threshold for row in table], [row.sent_fast for row in table], "o-", label="sent fast")
    axes.plot(
        [row.threshold for row in table], [row.easy_fast for row in table], "^-", label="easy ones sent fast"
    )
    axes.set(xlabel="confidence threshold", ylabel="share sent fast", ylim=(0, 1))
    axes.legend(loc="lower left")
    right = axes.twinx()
    right.plot([row.threshold for row in table], [row.false_fast for row in table], "s--", color="C3")
    right.set_ylabel("share of slow queries sent fast", color="C3")
    right.set_ylim(bottom=0)
    axes.set_title("What the threshold buys")
    return figure
