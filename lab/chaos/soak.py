"""A long time of everything at once; what is used must stay what it was."""

import contextlib
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from lab.drive import Driver, meanwhile, poisson, request
from lab.launch import Served
from lab.rows import Row, holds
from lab.texts import texts

PER_S = 300.0
WARM_S = 120.0  # until the in-process cache is full: 10,000 entries at some 100 new ones a second
EVERY_S = 5.0
HANG_UP = 0.03  # of the requests: callers who do not wait for the answer


class Sample(NamedTuple):
    at_s: float
    memory_mb: float
    files: int
    threads: int


def soak(seconds: float) -> list[Row]:
    """Hits, new queries, long ones, bad ones, callers who hang up, and somebody who scrapes."""
    warm_s = min(WARM_S, seconds / 2)
    with Served(patient=False) as served:
        codes, samples = _mixed(served, seconds)
        errors = [line for line in served.lines() if line.get("error_type") == "InternalError"]
    steady = [sample for sample in samples if sample.at_s >= warm_s] or samples
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]
    grown = _mean([s.memory_mb for s in last]) / _mean([s.memory_mb for s in first]) - 1
    files = [max(s.files for s in part) for part in (first, last)]
    threads = [max(s.threads for s in part) for part in (first, last)]
    answered = ", ".join(f"{number} × {code}" for code, number in sorted(codes.items()))
    return [
        holds(
            f"{seconds:g} s of mixed load, {PER_S:g} requests/s",
            answered,
            "no 5xx",
            not any(c[0] == "5" for c in codes),
        ),
        holds(
            f"memory after the first {warm_s:g} s",
            f"{_mean([s.memory_mb for s in first]):.1f} → {_mean([s.memory_mb for s in last]):.1f} MB, {grown:+.2%}",
            "grows under 3%",
            grown < 0.03,
        ),
        holds("open files, at most", f"{files[0]} → {files[1]}", "flat", files[1] <= files[0] + 10),
        holds("threads, at most", f"{threads[0]} → {threads[1]}", "flat", threads[1] <= threads[0]),
        holds("bugs in the log", str(len(errors)), "0", not errors),
    ]


def _mixed(served: Served, seconds: float) -> tuple[Counter[str], list[Sample]]:
    samples: list[Sample] = []
    hung_up = 0
    began = time.monotonic()
    arrivals = poisson((1 - HANG_UP) * PER_S, seed=5)
    with meanwhile(Driver(served.port), lambda driver: driver.open(_asked(), arrivals)) as driver:
        while (at_s := time.monotonic() - began) < seconds:
            _hang_up(served.port, hung_up)
            hung_up += 1
            if at_s >= (len(samples) + 1) * EVERY_S:
                served.client.get("/metrics")
                process = served.usage
                samples.append(Sample(at_s, served.memory_mb, process.num_fds(), process.num_threads()))
            time.sleep(1 / (HANG_UP * PER_S))
    codes = Counter({str(code): number for code, number in driver.seen.codes.items()})
    return codes + Counter({"lost": driver.seen.lost, "hung up": hung_up}), samples


def _asked() -> Iterator[bytes]:
    """What those ask who wait for their answer: half of it known, some of it long, some of it wrong."""
    dice, new = random.Random(5), texts(5)
    known = list(itertools.islice(new, 50))
    while True:
        kind = dice.random()
        if kind < 0.52:
            yield request(dice.choice(known))
        elif kind < 0.88:
            yield request(next(new))
        elif kind < 0.93:
            yield request(f"{next(new)} {'and so on and on ' * 200}")
        elif kind < 0.96:
            yield request("x").replace(b"{", b"[", 1)
        elif kind < 0.98:
            yield request("x", path=f"/v1/{dice.random()}")
        else:
            yield request(next(new), extra=f"x-request-id: {dice.random()}\r\n")


def _hang_up(port: int, number: int) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as caller:
        caller.sendall(request(f"somebody who does not wait, number {number}"))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
