"""Measure the gateway against its limits: `just bench`, or `just bench hits cold`.

Starts everything itself, drives it from this process, and prints what it saw; with
--write also into docs/performance.md. Exit code 1 when a figure misses its limit; with
--short only when a ratio misses it by more than double, since machines are noisy.
"""

import argparse
import sys
import time
from collections.abc import Callable

from lab.bench import arrivals, bulk, cold, growth, hits, memory, misses, plain, wires
from lab.pages import DOCS, machine, report
from lab.rows import Row

PAGE = DOCS / "performance.md"
MEASURES: dict[str, Callable[[bool], list[Row]]] = {
    "hits": lambda short: hits.measure(*((3, 0.5) if short else (9, 1.5))),
    "misses": lambda short: misses.measure(*((2, 1.0) if short else (7, 2.0))),
    "wires": lambda short: wires.measure(*((2, 0.4) if short else (9, 1.0))),
    "bulk": lambda short: bulk.measure(*((2, 1.0) if short else (7, 2.0))),
    "plain": lambda short: plain.measure(*((40, 2, 1.0) if short else (200, 7, 2.0))),
    "arrivals": lambda short: arrivals.measure(*((1.5, (0.5, 0.7)) if short else (6.0, arrivals.LEVELS))),
    "cold": lambda short: cold.measure(3 if short else 9),
    "memory": lambda short: memory.measure(2.0 if short else 10.0),
    "growth": lambda short: growth.measure(0.3 if short else 1.5),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--short", action="store_true", help="a minute or two, for CI")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/performance.md")
    asked = parser.parse_args()
    if unknown := set(asked.measure) - MEASURES.keys():
        parser.error(f"no such measure: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    if asked.short and asked.write:
        parser.error("--short measures too little to be written down")

    missed: list[str] = []
    began = time.monotonic()
    for name in asked.measure or MEASURES:
        print(f"{name} … ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
        on = machine()
        rows = MEASURES[name](asked.short)
        report(name, rows, on=on, page=PAGE if asked.write else None)
        missed += [row.what for row in rows if row.fails(short=asked.short)]
    by = " by more than double" if asked.short else ""
    print("\nmissed" + by + ":\n  " + "\n  ".join(missed) if missed else f"\nnothing is missed{by}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
