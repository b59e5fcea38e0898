"""More queries than can be answered: who gets what, and what is left afterwards."""

import statistics
import time

from lab.drive import Driver, poisson, requests
from lab.full import full_gateway
from lab.launch import Served, apart
from lab.measure import Rate, capacity, closed, known, median
from lab.rows import Row, at_most, holds

SLO_MS = 100.0  # of a query that is answered in ordinary service


def refusal() -> list[Row]:
    """What a refusal costs the gateway, against a hit and an answer from the model."""
    hit, refused = _costs()
    with apart() as cpus, Served(cpus=cpus.gateway[:1]) as served:
        answered = capacity(served)
    return [
        Row("CPU of a query that the model answers", f"{answered.cpu_us:.0f} µs"),
        Row("CPU of a hit in the in-process cache", f"{hit.cpu_us:.0f} µs"),
        at_most(
            "CPU of a refusal (429)",
            f"{refused.cpu_us:.0f} µs",
            refused.cpu_us,
            hit.cpu_us,
            "a hit",
            ratio=True,
        ),
        Row("refusals a second, nothing else going on", f"{refused.per_s:.0f}"),
    ]


def overload(seconds: float) -> list[Row]:
    """Floods of unique queries at open arrivals: that they leave nothing behind. `crowd` says what they get."""
    return _flooded(1.5, seconds) + _flooded(3.0, seconds)


def _flooded(times: float, seconds: float) -> list[Row]:
    # Both CPUs for both, as `just capacity` has it.
    with Served() as unhurried:
        per_s = times * capacity(unhurried, seed=1).per_s
    with Served(patient=False) as served:
        with Driver(served.port) as driver:
            driver.open(requests(1), poisson(per_s / 3, seed=1), seconds=2.0)  # warm
            with served.sampled_memory() as memory_mb:
                seen = driver.open(requests(2), poisson(per_s, seed=2), seconds=seconds)
        recovered_s = _ordinary_again_s(served)
    third = max(1, len(memory_mb) // 3)  # the first one fills the in-process cache
    grown = statistics.mean(memory_mb[-third:]) / statistics.mean(memory_mb[third : 2 * third]) - 1
    name = f"{times:g} × capacity"
    clean = seen.lost == 0 and seen.without_retry_after == 0 and seen.codes.keys() <= {200, 429}
    return [
        holds(
            f"{name}: {seen.offered} queries in {seconds:g} s",
            f"{seen.codes[200]} answered, {seen.codes[429]} refused, {seen.others or 'nothing else'}",
            "an answer, or a 429 with Retry-After",
            clean,
        ),
        holds(f"{name}: memory, second third to last", f"{grown:+.1%}", "flat: under 5%", grown < 0.05),
        holds(
            f"{name}: ordinary service again, after the last answer",
            f"{recovered_s:.2f} s",
            "within 1 s",
            recovered_s < 1.0,
        ),
    ]


def _ordinary_again_s(served: Served) -> float:
    """How long until ten new queries in a row are answered within the objective."""
    began = time.monotonic()
    in_a_row, count = 0, 0
    while in_a_row < 10:
        asked = time.monotonic()
        count += 1
        answer = served.ask(f"is service ordinary again, {count}?")
        fine = answer.status_code == 200 and time.monotonic() - asked < SLO_MS / 1000
        in_a_row = in_a_row + 1 if fine else 0
        if not fine:
            first_fine = time.monotonic()
        elif in_a_row == 1:
            first_fine = asked
    return first_fine - began


def _costs() -> tuple[Rate, Rate]:
    """A hit and a refusal, in turns from one gateway: what it costs, not what its neighbours do."""
    with apart() as cpus, full_gateway(queue_max=1, cpus=cpus.gateway[:1]) as (served, _):
        rounds = [
            (
                closed(served, known("known"), seconds=1.5),
                closed(served, known("one too many"), code=429, seconds=1.5),
            )
            for _ in range(5)
        ]
    hits, refusals = (list(rates) for rates in zip(*rounds, strict=True))
    return median(hits), median(refusals)
