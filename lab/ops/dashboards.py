"""Prove the dashboards without Grafana, and draw what they would show.

    python -m lab.ops.dashboards                                    every expression parses
    python -m lab.ops.dashboards --prometheus URL [--draw FOLDER]   and returns data there

Needs promql-parser; matplotlib to draw.
"""

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import promql_parser

from lab.launch import ROOT

FOLDER = ROOT / "monitoring/grafana/dashboards"
MAY_BE_EMPTY = {
    "Failures a second, by type": "nothing failed",
}


def panels(name: str) -> list[dict[str, Any]]:
    board = json.loads((FOLDER / f"{name}.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expression(target: dict[str, Any]) -> str:
    """A query as Grafana sends it."""
    return str(target["expr"]).replace("$__rate_interval", "1m")


def asked(prometheus: str, query: str, minutes: float) -> list[dict[str, Any]]:
    now = time.time()
    arguments = {
        "query": query,
        "start": now - minutes * 60,
        "end": now,
        "step": max(5.0, minutes * 60 / 120),
    }
    url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        found = json.loads(answer.read())["data"]["result"]
    return [s for s in found if any(value != "NaN" for _, value in s["values"])]


def legend(target: dict[str, Any], series: dict[str, Any]) -> str:
    return re.sub(r"{{(\w+)}}", lambda m: series["metric"].get(m[1], ""), target.get("legendFormat", ""))


def draw(file: Path, drawn: list[tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]]) -> None:
    """All panels of a dashboard in one picture, from the data that their queries returned."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "query-gateway"
    import matplotlib.pyplot as plt

    columns = 4
    rows = -(-len(drawn) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(16, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    for axis, (title, panel, lines) in zip(axes.flat, drawn, strict=False):
        if panel["type"] == "table":
            draw_table(axis, title, lines)
            continue
        unit = panel["fieldConfig"]["defaults"].get("unit", "")
        scale, name = {"s": (1000, "ms"), "percentunit": (100, "%"), "bytes": (1e-6, "MB")}.get(
            unit, (1, unit)
        )
        for label, series in lines:
            at = [(t - series["values"][-1][0]) / 60 for t, _ in series["values"]]
            axis.plot(at, [float(v) * scale for _, v in series["values"]], label=label or None, linewidth=1)
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
            if step.get("value") is not None:
                axis.axhline(step["value"] * scale, color="tab:red", linewidth=0.6, linestyle=":")
        axis.set_title(f"{title} [{name}]" if name != "short" else title, fontsize=8)
        axis.tick_params(labelsize=6)
        if panel["type"] == "timeseries" and "min" in panel["fieldConfig"]["defaults"]:
            axis.set_ylim(bottom=0)
        if any(label for label, _ in lines):
            axis.legend(fontsize=5, loc="best")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def draw_table(axis: Any, title: str, lines: list[tuple[str, dict[str, Any]]]) -> None:
    """A row per label value, a column per query, with the last of the values."""
    columns = list(dict.fromkeys(name for name, _ in lines))
    cells: dict[str, dict[str, str]] = {}
    for name, series in lines:
        row = next(iter(value for key, value in series["metric"].items() if key != "__name__"))
        cells.setdefault(row, {})[name] = f"{float(series['values'][-1][1]):.1%}"
    axis.axis("off")
    axis.set_title(title, fontsize=8)
    if not cells:
        axis.text(0.5, 0.5, "no data", ha="center", fontsize=7)
        return
    made = axis.table(
        cellText=[[row, *(cells[row].get(column, "") for column in columns)] for row in sorted(cells)],
        colLabels=["task", *columns],
        colWidths=[0.4, *[0.6 / len(columns)] * len(columns)],
        cellLoc="left",
        bbox=(0, 0, 1, 1),
    )
    made.auto_set_font_size(False)
    made.set_fontsize(6)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prometheus")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    empty, queries = [], 0
    for name in ("overview", "model"):
        drawn = []
        for panel in panels(name):
            lines = []
            for target in panel["targets"]:
                query = expression(target)
                try:
                    promql_parser.parse(query)
                except ValueError as wrong:
                    raise SystemExit(f"{name}: {panel['title']}: {wrong}: {query}") from None
                queries += 1
                if options.prometheus:
                    found = asked(options.prometheus, query, options.minutes)
                    lines += [(legend(target, series), series) for series in found]
                    if not found and panel["title"] not in MAY_BE_EMPTY:
                        empty.append(f"{name}: {panel['title']}: {query}")
            drawn.append((panel["title"], panel, lines))
        if options.draw:
            options.draw.mkdir(parents=True, exist_ok=True)
            draw(options.draw / f"dashboard-{name}.svg", drawn)
    print(f"{queries} expressions parse" + (f", {len(empty)} return nothing" if options.prometheus else ""))
    print("\n".join(empty))
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
