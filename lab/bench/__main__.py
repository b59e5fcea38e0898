"""Measure the gateway against its limits: `just bench`, or `just bench hits cold`.

Starts everything itself, drives it from this process, and writes what it saw
into docs/performance.md and docs/performance.json with pictures beside them.
Exit code 1 when a figure misses its limit; with --short only when a ratio misses
it by more than double, since machines are noisy.
"""

import argparse
import sys
import time
from collections.abc import Callable

from lab.bench import arrivals, cold, growth, hits, memory, misses, pages
from lab.bench.figures import Measured
from lab.chaos import findings


class Bench:
    """The measures in their order, and what later ones need of earlier ones."""

    def __init__(self, short: bool) -> None:
        self.short = short
        self._litestar_us: float | None = None

    @property
    def measures(self) -> dict[str, Callable[[], Measured]]:
        return {
            "hits": self.hits,
            "misses": self.misses,
            "arrivals": self.arrivals,
            "cold": lambda: cold.measure(3 if self.short else 9),
            "memory": lambda: memory.measure(2.0 if self.short else 10.0),
            "growth": lambda: growth.measure(0.3 if self.short else 1.5),
        }

    def hits(self) -> Measured:
        measured = hits.measure(*((3, 0.5) if self.short else (9, 1.5)))
        costs = sorted(measured.numbers["cpu_us"]["litestar"])
        self._litestar_us = costs[len(costs) // 2]
        return measured

    def misses(self) -> Measured:
        if self._litestar_us is None:
            self.hits()
        assert self._litestar_us is not None
        return misses.measure(*((2, 1.0) if self.short else (7, 2.0)), self._litestar_us)

    def arrivals(self) -> Measured:
        return arrivals.measure(*((1.5, (0.5, 0.7)) if self.short else (6.0, arrivals.LEVELS)))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = tuple(Bench(short=True).measures)
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--short", action="store_true", help="a minute, for CI; writes nothing")
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    asked = parser.parse_args()
    if unknown := set(asked.measure) - set(names):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")

    bench, seen = Bench(asked.short), {}
    began = time.monotonic()
    for name in asked.measure or names:
        print(f"{name} … ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
        on = findings.machine()
        measured = seen[name] = bench.measures[name]()
        print(f"\n== {name}: {on}")
        for figure in measured.figures:
            print(f"{figure.what}: {figure.seen}  [{figure.wanted}] {figure.verdict}", flush=True)
        if not (asked.short or asked.no_write):
            pages.write(name, " ".join(["just bench", *sys.argv[1:]]), on, measured)

    missed = [f.what for measured in seen.values() for f in measured.figures if f.fails(short=asked.short)]
    by = " by more than double" if asked.short else ""
    print("\nmissed" + by + ":\n  " + "\n  ".join(missed) if missed else f"\nnothing is missed{by}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
