"""`just integrations`: every recipe against its real program, and a table of what came of it.

just integrations                    all of them, but those that are large
just integrations envoy nginx        those whose names begin so
just integrations ray                a large one
just integrations --list             their names
"""

import argparse
import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence

from lab.integrations import behind, bulk, clients, litellm
from lab.integrations.checks import Table, Verdict, chosen
from lab.integrations.recipes import PROXIES

# Run by name only: half a gigabyte to install, and minutes of two cores.
LARGE = (bulk.NAME,)
OURS = (sys.executable, "-m", "handler", "serve")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="just integrations", description=__doc__.split("\n\n")[0])
    made.add_argument(
        "names", nargs="*", help="how the names of the wanted checks begin (default: all but the large ones)"
    )
    made.add_argument("--measure", action="store_true", help="say what asking costs, too")
    made.add_argument("--list", action="store_true", help="print the names, and run nothing")
    made.add_argument(
        "--gateway", default=shlex.join(OURS), help="the command that starts a gateway (default: %(default)s)"
    )
    return made


def names() -> list[str]:
    """Everything that can be checked, in the order in which it is."""
    return [*PROXIES, litellm.NAME, *clients.KNOWN, *LARGE]


async def run(wanted: Sequence[str], gateway_command: Sequence[str], *, measure: bool = False) -> Table:
    """Check all that is wanted, one after the other."""
    table = Table()
    for name in wanted:
        if name in PROXIES:
            await behind.check(name, table, gateway_command, measure=measure)
        elif name == litellm.NAME:
            await litellm.check(table, gateway_command, measure=measure)
        elif name == bulk.NAME:
            await bulk.check(table)
        else:
            await clients.check(name, table, gateway_command)
    return table


def not_proven(table: Table) -> None:
    """Tell CI, where it asks, what could not be shown on this machine."""
    if name := os.environ.get("NOT_PROVEN"):
        with open(name, "a") as lines:
            lines.writelines(
                f"{row.name}: {row.seen}\n" for row in table.results if row.verdict is Verdict.SKIPPED
            )


def main() -> int:
    options = parser().parse_args()
    try:
        wanted = chosen(names(), options.names)
    except ValueError as unknown:
        print(f"just integrations: {unknown}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{name} (by name only)" if name in LARGE else name for name in wanted))
        return 0
    if not options.names:
        wanted = [name for name in wanted if name not in LARGE]
    # Whoever ends us ends what we started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    table = asyncio.run(run(wanted, shlex.split(options.gateway), measure=options.measure))
    not_proven(table)
    print(f"\nin {time.monotonic() - began:.0f} s")
    print(table.summary())
    return 1 if table.counts()[Verdict.FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
