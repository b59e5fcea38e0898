"""Where measures are written: docs/performance.md between markers, its JSON, and the pictures."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from lab.bench.figures import Measured
from lab.chaos import findings
from lab.launch import ROOT

PAGE = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance.json"
PICTURES = ROOT / "docs" / "pictures"
# Without these every run writes other ids and a date.
STEADY: dict[Any, Any] = {"svg.hashsalt": "query-gateway", "svg.fonttype": "none", "font.size": 9}


def write(name: str, command: str, on: str, measured: Measured) -> None:
    rows = ["| what | seen | wanted | |", "|---|---|---|---|"]
    rows += [f"| {f.what} | {f.seen} | {f.wanted} | {f.verdict} |" for f in measured.figures]
    today = datetime.now(UTC).date().isoformat()
    findings.put(name, "\n".join([*rows, "", f"Written by `{command}` on {today}: {on}."]), PAGE)
    known = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    known[name] = {"command": command, "on": today, "machine": on, **_rounded(measured.numbers)}
    NUMBERS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    if draw := DRAWN.get(name):
        with rc_context(STEADY):
            draw(measured.numbers).savefig(
                PICTURES / f"performance-{name}.svg", metadata={"Date": None}, bbox_inches="tight"
            )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _hits(numbers: dict[str, Any]) -> Picture:
    picture = Picture(figsize=(5, 1.8))
    axes = picture.subplots()
    names = {"granian": "bare Granian", "gateway": "a hit in the gateway", "litestar": "bare Litestar"}
    _bars(axes, {label: numbers["cpu_us"][name] for name, label in names.items()})
    axes.set(xlabel="CPU µs a request", title="A hit, against servers that do next to nothing")
    return picture


def _misses(numbers: dict[str, Any]) -> Picture:
    picture = Picture(figsize=(9, 1.9))
    for axes, name in zip(picture.subplots(1, 2), ("shipped", "reference"), strict=True):
        found = numbers[name]
        _bars(axes, {"alone, no server": found["alone_per_s"], "the gateway": found["per_s"],
                     "a run per request": found["plain_per_s"]})  # fmt: skip
        axes.set(xlabel="unique queries a second", title=f"{name} model, both CPUs")
    picture.tight_layout()
    return picture


def _arrivals(numbers: dict[str, Any]) -> Picture:
    picture = Picture(figsize=(9, 3))
    mixes = ("hits", "30% hits", "misses", "Zipf")
    for axes, mix in zip(picture.subplots(1, len(mixes), sharey=True), mixes, strict=True):
        levels = [point["level"] * 100 for point in numbers[mix]]
        for key, label in (("p50_ms", "P50"), ("p99_ms", "P99"), ("p999_ms", "P99.9")):
            axes.plot(levels, [point[key] for point in numbers[mix]], "o-", markersize=3, label=label)
        axes.set(xlabel="% of capacity", title=mix, yscale="log")
        axes.axhline(10 if mix == "hits" else 100, color="0.6", linewidth=0.8, linestyle=":")
        if mix == mixes[0]:
            axes.set(ylabel="ms from due to answered")
            axes.legend(loc="upper left")
    picture.tight_layout()
    return picture


def _cold(numbers: dict[str, Any]) -> Picture:
    picture = Picture(figsize=(5, 1.8))
    axes = picture.subplots()
    _bars(axes, {name: [s * 1000 for s in taken] for name, taken in numbers["seconds"].items()})
    axes.set(xlabel="ms from process start to first answer", title="Cold start")
    return picture


def _growth(numbers: dict[str, Any]) -> Picture:
    picture = Picture(figsize=(9, 2.8))
    concurrency, words, entries = picture.subplots(1, 3)
    for key, label in (("miss_us", "miss"), ("litestar_us", "bare Litestar"), ("hit_us", "hit")):
        concurrency.plot(numbers["concurrency"], numbers[key], "o-", markersize=3, label=label)
    concurrency.set(xlabel="at a time", ylabel="CPU µs a request", xscale="log", yscale="log")
    concurrency.legend()
    words.plot(numbers["words"], numbers["words_us"], "o-", markersize=3)
    words.set(xlabel="words of a miss", xscale="log", ylim=(0, None))
    entries.plot(numbers["entries"], numbers["entries_us"], "o-", markersize=3)
    entries.set(xlabel="entries in L1 (hits)", xscale="log", ylim=(0, None))
    picture.tight_layout()
    return picture


def _bars(axes: Axes, values: dict[str, list[float]]) -> None:
    """One bar a name: its median, with the least and the greatest as whiskers."""
    medians = [median(v) for v in values.values()]
    ends = [
        [m - min(v) for m, v in zip(medians, values.values(), strict=True)],
        [max(v) - m for m, v in zip(medians, values.values(), strict=True)],
    ]
    axes.barh(list(values), medians, xerr=ends, height=0.6, color="#4c78a8", error_kw={"linewidth": 0.8})
    axes.invert_yaxis()


DRAWN: dict[str, Callable[[dict[str, Any]], Picture]] = {
    "hits": _hits,
    "misses": _misses,
    "arrivals": _arrivals,
    "cold": _cold,
    "growth": _growth,
}
