"""What a serverless platform asks of the image, with one and two vCPU: `just cloud-run`.

It must listen on PORT on all addresses in time, answer many at once, cost nothing
between requests, and end with 0 within 10 s of SIGTERM. Also measures the processor
time of a query, which depends far less than queries a second on who else is busy
here; docs/deployment.md derives instances and costs from it. Standard library only.
"""

import os
import re
import time
import urllib.request
from collections.abc import Iterable
from itertools import islice
from urllib.parse import urlsplit

from lab.drive import Driver, Outcome, requests
from lab.ops.image_smoke import ask, container, docker, until
from lab.sizing import concurrency

CALLERS = 16
PORT = 8080


def cpu_s(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        found = re.search(r"^process_cpu_seconds_total (\S+)", answer.read().decode(), re.M)
    assert found
    return float(found[1])


def send(url: str, asked: Iterable[bytes]) -> Outcome:
    """Ask from `CALLERS` connections at once."""
    with Driver(urlsplit(url).port or 80) as driver:
        seen = driver.closed(iter(asked), connections=CALLERS)
    assert set(seen.codes) == {200}, seen.codes
    assert not seen.lost, seen.lost
    return seen


def cost(url: str, asked: Iterable[bytes]) -> tuple[float, float]:
    """Milliseconds of processor time a query, and queries a second as this machine is now."""
    before = cpu_s(url)
    seen = send(url, asked)
    return (cpu_s(url) - before) / seen.codes[200] * 1000, seen.goodput


def with_cpus(cpus: int) -> float:
    """Measure an instance of so many CPUs and print its row. Returns new queries a second."""
    # What is proven here holds however busy the machine is: no bound on waiting, and a time-out for stalls alone.
    patient = ("-e", "QUEUE_MIN=1024", "-e", "REQUEST_TIMEOUT_MS=10000")
    options = ("--cpus", str(cpus), "-e", f"PORT={PORT}", *patient)
    with container(*options, port=PORT) as (name, url):
        ready_s = until(lambda: ask(f"{url}/health/ready")[0] == 200, 30, "listening")
        send(url, islice(requests(1), 200))
        new = list(islice(requests(2), 3000))
        new_ms, per_s = cost(url, new)
        hit_ms, _ = cost(url, new)
        idle = cpu_s(url)
        time.sleep(5)
        idle_share = (cpu_s(url) - idle) / 5
        started = time.monotonic()
        docker("stop", "--time", "10", name)
        ended_s = time.monotonic() - started
        assert docker("inspect", "-f", "{{.State.ExitCode}}", name) == "0"
        assert ended_s < 9, ended_s
        assert ready_s < 10, ready_s
        assert idle_share < 0.05, idle_share
        print(
            f"| {cpus} | {ready_s:.1f} | {new_ms:.2f} | {hit_ms:.2f} | {per_s:.0f} | {idle_share:.1%} | {ended_s:.1f} |",
            flush=True,
        )
    return per_s


if __name__ == "__main__":
    print(
        "| vCPU | ready, s | CPU of a new query, ms | of a cache hit, ms | new queries a second, as busy as it was | idle CPU | SIGTERM to exit 0, s |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    rates = [with_cpus(cpus) for cpus in range(1, min(2, os.cpu_count() or 1) + 1)]
    print(
        f"\nconcurrency of an instance of 1 vCPU: 0.1 s × {rates[0]:.0f}/s, under QUEUE_MIN: {concurrency(rates[0])}"
    )
