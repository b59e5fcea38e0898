"""Three gateways behind HAProxy, with Redis behind them, and what happens to them: `just fleet`.

Starts everything itself on loopback, has callers ask all the while, and holds every answer
against what its model says of the text alone. With --write also into docs/scale.md. Exit code
1 when a promise does not hold. `just fleet simulate` reckons what one machine cannot show.
"""

import argparse
import os
import sys
import tempfile
from itertools import count
from pathlib import Path

from lab.fleet import scenes, simulate
from lab.fleet.fleet import Fleet, ended_by_sigterm
from lab.fleet.judge import Judge, renamed
from lab.fleet.shared import Shared
from lab.fleet.traffic import KINDS
from lab.launch import MODEL
from lab.pages import DOCS, Skipped, machine, report
from lab.rows import Row, holds
from lab.unproven import unproven

PAGE = DOCS / "scale.md"
# Of what the fleet does when its callers wait for their answers: one gateway alone must be able to answer it.
LOAD = 0.25
PER_S_LEAST, PER_S_MAX = 50.0, 500.0


def main() -> int:
    if sys.argv[1:2] == ["simulate"]:
        return simulate.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="just fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", nargs="*", help=f"of {', '.join(scenes.SCENES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a scene (default 12)")
    parser.add_argument("--short", action="store_true", help="scenes of 4 seconds, for checks")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/scale.md")
    asked = parser.parse_args()
    names = asked.scene or list(scenes.SCENES)
    if unknown := set(names) - set(scenes.SCENES):
        parser.error(f"no such scene: {', '.join(sorted(unknown))}; there are {', '.join(scenes.SCENES)}")
    if asked.short and asked.write:
        parser.error("--short shows too little to be written down")
    on = machine()
    try:
        with ended_by_sigterm():
            rows = run(names, 4.0 if asked.short else asked.seconds)
    except Skipped as why:
        unproven([f"the fleet: {why}"])
        return 0
    report("fleet", rows, on=on, page=PAGE if asked.write else None)
    broken = [row.what for row in rows if row.fails(short=asked.short)]
    print("\nbroken:\n  " + "\n  ".join(broken) if broken else "\nevery promise holds")
    return int(bool(broken))


def run(names: list[str], seconds: float) -> list[Row]:
    """Play these scenes on one fleet, in this order."""
    seeds = count(os.getpid())
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        new = renamed(MODEL, folder / "new")
        judge = Judge([MODEL, new])
        with Shared(folder) as shared, Fleet(folder, MODEL, redis_url=shared.url) as fleet:
            most = scenes.capacity(fleet, next(seeds), min(3.0, seconds / 2))
            per_s = min(PER_S_MAX, max(PER_S_LEAST, round(LOAD * most.goodput, -1)))
            rows = [
                Row(
                    "the fleet",
                    f"{len(fleet.members)} gateways of one lane, HAProxy, {shared.what}; it answers "
                    f"{most.goodput:.0f}/s to 32 callers who wait, driver and all on these CPUs",
                ),
                Row("callers ask", f"{per_s:.0f}/s of {KINDS:,} queries, the r-th as often as 1/r"),
            ]
            stage = scenes.Stage(fleet, shared, judge, MODEL, new, per_s, seconds, seeds)
            for scene in names:
                print(f"{scene} …", file=sys.stderr, flush=True)
                try:
                    rows += scenes.SCENES[scene](stage)
                except AssertionError as why:
                    # What waits for something that does not come says so; the fleet is not as the next one wants it.
                    rows.append(holds(f"{scene}: ends", str(why).partition("\n")[0], "it ends", False))
                    break
    return rows


if __name__ == "__main__":
    sys.exit(main())
