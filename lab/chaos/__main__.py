"""Break it on purpose: `just chaos`, or `just chaos overload --seconds 10`.

Runs scenarios against real gateways on loopback and prints what it saw against what is
promised; with --write also into docs/reliability.md. Exit code 1 when a promise does
not hold.
"""

import argparse
import sys
from collections.abc import Callable

from lab.chaos import connections, crowd, deaths, ndjson, overload, restarts, shadow, small, soak, swap
from lab.launch import open_files_max
from lab.pages import DOCS, Skipped, machine, report
from lab.rows import Row

PAGE = DOCS / "reliability.md"
SCENARIOS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "refusal": lambda _: overload.refusal(),
    "overload": lambda asked: overload.overload(asked.seconds),
    "crowd": lambda asked: crowd.crowd(asked.seconds),
    "connections": lambda _: connections.connections(),
    "restarts": lambda asked: restarts.restarts(asked.restarts),
    "deaths": lambda _: deaths.deaths(),
    "shadow": lambda _: shadow.shadow(),
    "swap": lambda asked: swap.swap(asked.swaps),
    "small": lambda _: small.small(),
    "soak": lambda asked: soak.soak(asked.soak),
    "ndjson": lambda asked: ndjson.ndjson(asked.lines),
}
LONG = ("soak", "ndjson")  # run where they are asked for by name


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenario", nargs="*", help=f"of {', '.join(SCENARIOS)} (default: all but {' and '.join(LONG)})"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a flood (default 60)")
    parser.add_argument("--restarts", type=int, default=20, help="SIGTERMs under load (default 20)")
    parser.add_argument("--swaps", type=int, default=10, help="models swapped under load (default 10)")
    parser.add_argument(
        "--soak", type=float, default=600.0, help="seconds of mixed load in soak (default 600)"
    )
    parser.add_argument(
        "--lines", type=int, default=1_000_000, help="lines of one request in ndjson (default 1000000)"
    )
    parser.add_argument("--write", action="store_true", help="write the figures into docs/reliability.md")
    asked = parser.parse_args()
    names = asked.scenario or [name for name in SCENARIOS if name not in LONG]
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    open_files_max()
    broken = 0
    for name in names:
        on = machine()
        try:
            rows = SCENARIOS[name](asked)
        except Skipped as why:
            rows = [Row("not shown on this machine", str(why))]
        report(name, rows, on=on, page=PAGE if asked.write else None)
        broken += sum(row.fails() for row in rows)
    print(f"\n{broken} promises do not hold" if broken else "\nevery promise holds")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
