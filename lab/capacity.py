"""Measure how many unique queries a second a gateway answers on this machine.

Starts a gateway of its own on loopback, with the settings of the environment, or asks
the one at --url, from a closed loop of connections in this process, and prints the
median of a few rounds. Every query is new, so no cache answers one. Gateway and driver
share the cores: the figure is what this machine does as a whole, and it drifts with its
neighbours, so compare it only within one run.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
from urllib.parse import urlsplit

from lab.drive import Driver, requests
from lab.launch import INSTALLED, NotStarted, Served


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running gateway, instead of one of our own")
    parser.add_argument("--connections", type=int, default=128, help="requests in flight (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        if arguments.url:
            parts = urlsplit(arguments.url)
            host, port = parts.hostname or "127.0.0.1", parts.port or 80
        else:
            try:
                host, port = "127.0.0.1", stack.enter_context(Served(command=INSTALLED, inherits=True)).port
            except NotStarted as why:
                raise SystemExit(f"capacity: no gateway could be started ({why})") from None
        driver = stack.enter_context(Driver(port, host))
        driver.closed(requests(os.getpid()), connections=arguments.connections, seconds=1.0)  # warm
        rounds = [
            driver.closed(
                requests(os.getpid() + turn), connections=arguments.connections, seconds=arguments.seconds
            )
            for turn in range(1, arguments.rounds + 1)
        ]
    rates = [seen.goodput for seen in rounds]
    result = {
        "queries_per_s": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
        "refused": sum(seen.offered - seen.codes[200] for seen in rounds),
        "connections": arguments.connections,
        "cpus": len(os.sched_getaffinity(0)),
    }
    told = (
        "{queries_per_s} unique queries/s on {cpus} CPUs, driver included "
        "(median of {rounds} rounds; {lowest} to {highest}; {refused} refused)"
    )
    print(json.dumps(result) if arguments.json else told.format(**result, rounds=arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
