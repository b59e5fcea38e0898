"""Measure how many unique queries a second a gateway answers on this machine.

Starts a gateway of its own on loopback, or asks the one at --url, from a closed
loop of connections in this process, and prints the median of a few rounds.
Every query is new, so no cache answers one. Gateway and driver share the cores:
the figure is what this machine does as a whole, and it drifts with its
neighbours, so compare it only within one run.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from lab.drive import Driver, requests

ROOT = Path(__file__).parent.parent

GATEWAY = ROOT / ".venv" / "bin" / "query-gateway"


@contextlib.contextmanager
def own_gateway() -> Iterator[tuple[str, int]]:
    """A gateway on a free port for as long as the block lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "DRAIN_LINGER_MS": "0"}
    environ["QUEUE_MAX_WAIT_MS"] = "0"  # what can be answered at all, however late
    process = subprocess.Popen([GATEWAY, "serve"], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    try:
        wait_ready(port, process)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(timeout=15)


def wait_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 15
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            probe.sendall(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if b" 200 " in probe.recv(64):
                return
        time.sleep(0.05)
    raise SystemExit("capacity: the gateway did not become ready; try `query-gateway check`")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
            host, port = stack.enter_context(own_gateway())
        driver = stack.enter_context(Driver(port, host))
        driver.closed(requests(os.getpid()), connections=arguments.connections, seconds=1.0)  # warm
        rates, refused = [], 0
        for turn in range(1, arguments.rounds + 1):
            seen = driver.closed(
                requests(os.getpid() + turn), connections=arguments.connections, seconds=arguments.seconds
            )
            rates.append(seen.goodput)
            refused += seen.offered - seen.codes[200]
    median = statistics.median(rates)
    result = {
        "queries_per_s": round(median),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
        "refused": refused,
        "connections": arguments.connections,
        "cpus": len(os.sched_getaffinity(0)),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['queries_per_s']} unique queries/s on {result['cpus']} CPUs, driver included "
            f"(median of {arguments.rounds} rounds; {result['lowest']} to {result['highest']}; {refused} refused)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
