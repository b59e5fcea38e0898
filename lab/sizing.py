"""Measure what an instance of one vCPU answers, and what follows from it: `just sizing`.

A gateway has one CPU of its own and the driver another (where there is one alone, they share
it). Prints the concurrency that an instance is to be given and how many instances a load
takes; with --write all of it goes into docs/deployment.md, and the concurrency into infra/.
From one run, so that no figure contradicts another.
"""

import argparse
import math
import re
import statistics
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from lab.drive import requests
from lab.launch import ROOT, Served, apart
from lab.measure import closed, known
from lab.pages import DOCS, machine, put, written_by
from lab.rows import spread

PAGE = DOCS / "deployment.md"
INFRA = ROOT / "infra"
CALLERS = 32
PROMISE_S = 0.1  # the objective of a new query, at the 99th percentile
# The default of the setting: an instance that holds fewer refuses nobody whom the platform lets through.
QUEUE_MIN = 64
STEP = 5
PER_S = 10_000
BUSY = 0.6
HIT_RATES = (0.0, 0.3, 0.6)
_CONCURRENCY = re.compile(r"(?m)^(\s*containerConcurrency: )(\d+)$")


def concurrency(per_s: float) -> int:
    """Queries in flight on one instance, so that they are answered within the promise and nobody is refused.

    per_s  new queries a second that it answers
    """
    wanted = STEP * round(PROMISE_S * per_s / STEP)
    return max(STEP, min(wanted, QUEUE_MIN // STEP * STEP))


def instance_table(rates: Sequence[float], new_ms: float, hit_ms: float) -> list[str]:
    """What one instance does, and its concurrency."""
    per_s = 1000 / new_ms
    return [
        "| an instance of one vCPU | |",
        "|---|---|",
        f"| CPU of a new query | {new_ms:.2f} ms |",
        f"| CPU of a cache hit | {hit_ms:.2f} ms |",
        f"| new queries a second of a vCPU that no neighbour takes of: 1 s by that CPU | {per_s:.0f} |",
        f"| new queries a second, seen with such neighbours as there were | {spread(rates)} |",
        f"| 0.1 s × the new queries a second | {PROMISE_S * per_s:.0f} |",
        f"| its concurrency: that, in steps of {STEP}, and under `QUEUE_MIN` ({QUEUE_MIN}) | {concurrency(per_s)} |",
    ]


def load_table(new_ms: float, hit_ms: float) -> list[str]:
    """How many instances a load takes, by hit rate."""
    lines = [
        f"    mean CPU per query = (1 − h) × {new_ms:.2f} ms + h × {hit_ms:.2f} ms",
        "",
        f"| hit rate | mean CPU, ms | busy vCPU at {PER_S:,} queries a second | instances of 1 vCPU at {BUSY:.0%} "
        "| vCPU-seconds per million queries |",
        "|---:|---:|---:|---:|---:|",
    ]
    for rate in HIT_RATES:
        mean_ms = (1 - rate) * new_ms + rate * hit_ms
        busy = mean_ms * PER_S / 1000
        lines.append(
            f"| {rate:.0%} | {mean_ms:.2f} | {busy:.1f} | {math.ceil(busy / BUSY)} | {mean_ms * 1000:,.0f} |"
        )
    return lines


def manifests() -> list[Path]:
    """The files that say how many queries a platform lets through to one instance."""
    return [path for path in sorted(INFRA.rglob("*.yaml")) if _CONCURRENCY.search(path.read_text())]


def bounds(text: str) -> list[int]:
    """The concurrency that a manifest sets."""
    return [int(found[2]) for found in _CONCURRENCY.finditer(text)]


def bounded(text: str, wanted: int) -> str:
    """A manifest with this concurrency."""
    return _CONCURRENCY.sub(rf"\g<1>{wanted}", text)


def measure(rounds: int, seconds: float) -> tuple[list[float], float, float]:
    """New queries a second by round, and CPU milliseconds of a new query and of a hit."""
    rates, new_us, hit_us = [], [], []
    seeds = count(1)
    with apart() as split, Served({"REQUEST_TIMEOUT_MS": "10000"}, cpus=split.gateway[:1]) as served:
        closed(served, requests(next(seeds)), connections=CALLERS, seconds=1.0)  # warm
        for _ in range(rounds):
            new = closed(served, requests(next(seeds)), connections=CALLERS, seconds=seconds)
            hit = closed(served, known(), connections=CALLERS, seconds=seconds / 2)
            rates.append(new.per_s)
            new_us.append(new.cpu_us)
            hit_us.append(hit.cpu_us)
    return rates, statistics.median(new_us) / 1000, statistics.median(hit_us) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just sizing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median of (default 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (default 2)")
    parser.add_argument("--write", action="store_true", help="write it into docs/deployment.md and infra/")
    asked = parser.parse_args()
    on = machine()
    rates, new_ms, hit_ms = measure(asked.rounds, asked.seconds)
    # Sums are made of what is written down, so that a reader can make them again.
    new_ms, hit_ms = round(new_ms, 2), round(hit_ms, 2)
    instance, load = instance_table(rates, new_ms, hit_ms), load_table(new_ms, hit_ms)
    print("\n".join([on, "", *instance, "", *load]))
    if asked.write:
        put("instance", "\n".join([*instance, "", written_by(on)]), PAGE)
        put("load", "\n".join(load), PAGE)
        for path in manifests():
            text = path.read_text(encoding="utf-8")
            path.write_text(bounded(text, concurrency(1000 / new_ms)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
