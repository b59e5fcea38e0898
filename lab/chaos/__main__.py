"""Break it on purpose: `just chaos`, or `just chaos overload --seconds 10`.

Runs scenarios against real gateways on loopback, prints what it saw against what
is promised, and writes both into docs/reliability.md. Exit code 1 when a promise
does not hold.
"""

import argparse
import sys
import time
from collections.abc import Callable

from lab.chaos import connections, deaths, findings, overload, restarts, small, soak
from lab.chaos.findings import Finding, Skipped
from lab.launch import open_files_max

Scenario = Callable[[argparse.Namespace], list[Finding]]
SCENARIOS: dict[str, Scenario] = {
    "refusal": lambda _: overload.refusal(),
    "overload": lambda asked: overload.overload(asked.seconds),
    "connections": lambda _: connections.connections(),
    "restarts": lambda asked: restarts.restarts(asked.restarts),
    "deaths": lambda _: deaths.deaths(),
    "small": lambda _: small.small(),
    "soak": lambda asked: soak.soak(asked.soak),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)} (default: all but soak)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a flood (default 60)")
    parser.add_argument("--restarts", type=int, default=20, help="SIGTERMs under load (default 20)")
    parser.add_argument(
        "--soak", type=float, default=600.0, help="seconds of mixed load in soak (default 600)"
    )
    parser.add_argument("--no-write", action="store_true", help="leave docs/reliability.md as it is")
    asked = parser.parse_args()
    names = asked.scenario or [name for name in SCENARIOS if name != "soak"]
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    command = " ".join(["just chaos", *sys.argv[1:]])
    open_files_max()
    broken = 0
    for name in names:
        on, began = findings.machine(), time.monotonic()
        try:
            found = SCENARIOS[name](asked)
        except Skipped as why:
            found = [Finding("not shown on this machine", str(why))]
        print(f"\n== {name} ({time.monotonic() - began:.0f} s)", flush=True)
        for finding in found:
            print(f"{finding.what}: {finding.seen}  [{finding.wanted}] {finding.verdict}", flush=True)
        broken += sum(finding.holds is False for finding in found)
        if not asked.no_write:
            findings.write(name, command, on, found)
    print(f"\n{broken} promises do not hold" if broken else "\nevery promise holds")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
