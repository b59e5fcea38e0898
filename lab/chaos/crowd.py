"""Crowds: callers who wait for their answers, who ask again at once, and floods that do neither.

The law that is held against them is the queue's (docs/decisions/0011).
"""

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence

from lab.drive import Driver, Outcome, percentile, poisson, request, requests
from lab.launch import Served, apart
from lab.rows import Row, at_least, at_most, holds
from lab.texts import texts

QUEUE_MIN = 64  # the default of the setting
TIMEOUT_S = 1.0  # the default of REQUEST_TIMEOUT_MS
LEVELS = {
    12: (1, 4, 8, 16, 40, 64),
    150: (1, 4, 16, 40, 60),
    2000: (1, 16, 40, 60),
}  # callers, by words a text
# 60 is what an instance of one vCPU is given at most (`lab.sizing`).
NEIGHBOURS = {12: (4, 16), 150: (16,)}
STORM = (256, 1024)
LEVEL_S = 3.0


def crowd(seconds: float) -> list[Row]:
    """
    seconds  of each flood; a level of waiting callers lasts `LEVEL_S` at most
    """
    found: list[Row] = []
    level_s = min(seconds, LEVEL_S)
    with apart() as split:
        one = split.gateway[:1]
        with Served(cpus=one, patient=False) as served:
            best = _waiting("one CPU", served, LEVELS, level_s, found)
            with _neighbours(one, 2):
                _waiting("a third of one CPU", served, NEIGHBOURS, level_s, found)
            _storms("one CPU", served, best, level_s, found)
    both = sorted(os.sched_getaffinity(0))
    with Served(cpus=both, patient=False) as served:
        best = _waiting(f"{len(both)} CPUs", served, LEVELS, level_s, found)
        _storms(f"{len(both)} CPUs", served, best, level_s, found)
        for times, least in ((1.5, 0.9), (3.0, 0.7)):
            _flooded(served, best, times, least, seconds, found)
        _long_flood(served, seconds, found)
    return found


def asks(words: int, seed: int) -> Iterator[bytes]:
    """Endless requests, each of another text of about so many words."""
    lines = texts(seed)
    for line in lines:
        count = words // len(line.split())
        yield request(" ".join([line, *itertools.islice(lines, max(0, count - 1))]))


def _waiting(
    where: str, served: Served, levels: Mapping[int, Sequence[int]], seconds: float, found: list[Row]
) -> float:
    """Closed loops of callers. Returns the best rate of the shortest texts."""
    best = 0.0
    for words, counts in levels.items():
        rates, refused, others, slowest = [], 0, 0, 0.0
        for callers in counts:
            with Driver(served.port) as driver:
                driver.closed(asks(words, 7 * callers), connections=callers, seconds=0.3)  # warm
                seen = driver.closed(asks(words, callers), connections=callers, seconds=seconds)
            rates.append(seen.goodput)
            refused += seen.codes[429]
            others += seen.offered - seen.codes[200] - seen.codes[429]
            slowest = max(slowest, seen.answered_ms(1.0))
        if words == min(levels):
            best = max(rates)
        found.append(
            holds(
                f"{where}, {words} words, {', '.join(map(str, counts))} callers who wait",
                f"{', '.join(f'{rate:.0f}' for rate in rates)}/s; {refused} refused, {others} failed; "
                f"slowest {slowest:.0f} ms",
                f"0 refused, nobody past {TIMEOUT_S:g} s",
                not refused and not others and slowest < TIMEOUT_S * 1000,
            )
        )
    return best


def _storms(where: str, served: Served, best: float, seconds: float, found: list[Row]) -> None:
    for callers in STORM:
        with Driver(served.port) as driver:
            driver.closed(requests(callers), connections=callers, seconds=1.5)  # warm
            seen = driver.closed(requests(2 * callers), connections=callers, seconds=seconds)
        told = sorted(seen.refusals_s)
        found.append(
            at_least(
                f"{where}, {callers} callers who ask again at once",
                f"{seen.goodput:.0f}/s, {seen.goodput / best:.0%} of the best; {seen.codes[429] / seconds:.0f} "
                f"refused a second, told after {percentile(told, 0.5) * 1000:.0f} ms (median)",
                seen.goodput,
                0.9 * best,
                "90%",
                ratio=True,
            )
        )


def _flooded(
    served: Served, per_s: float, times: float, least: float, seconds: float, found: list[Row]
) -> None:
    with Driver(served.port) as driver:
        driver.closed(itertools.repeat(request("a known query")), connections=1, seconds=0.1)
        driver.open(requests(1), poisson(per_s / 3, seed=1), seconds=1.0)  # warm
        seen = driver.open(_with_hits(2), poisson(times * per_s, seed=2), seconds=seconds)
    misses = sorted(seen.misses_s)
    hits_ms = percentile(sorted(seen.hits_s), 0.99) * 1000
    p99_ms, bound_ms = percentile(misses, 0.99) * 1000, 1.5 * QUEUE_MIN / per_s * 1000
    goodput = seen.goodput / per_s
    found += [
        at_least(
            f"{times:g} × capacity, 12 words: answers",
            f"{seen.goodput:.0f}/s, {goodput:.0%} of {per_s:.0f}/s",
            goodput,
            least,
            f"{least:.0%}",
            ratio=True,
        ),
        at_most(
            f"{times:g} × capacity, 12 words: P99 of the accepted",
            f"{p99_ms:.0f} ms",
            p99_ms,
            bound_ms,
            f"1.5 × {QUEUE_MIN} ÷ capacity = {bound_ms:.0f} ms",
        ),
        at_most(f"{times:g} × capacity: P99 of hits", f"{hits_ms:.1f} ms", hits_ms, 10, "10 ms")
        if times < 2
        else Row(f"{times:g} × capacity: P99 of hits", f"{hits_ms:.1f} ms"),
        _clean(f"{times:g} × capacity, 12 words: all others", seen),
    ]


def _long_flood(served: Served, seconds: float, found: list[Row]) -> None:
    with Driver(served.port) as driver:
        per_s = driver.closed(asks(2000, 5), connections=16, seconds=min(seconds, LEVEL_S)).goodput
        seen = driver.open(asks(2000, 6), poisson(1.5 * per_s, seed=6), seconds=seconds)
    slowest = percentile(sorted(seen.misses_s), 1.0) * 1000
    found.append(
        holds(
            "1.5 × capacity, 2000 words: the accepted",
            f"{seen.goodput:.0f}/s, {seen.goodput / per_s:.0%} of capacity; slowest {slowest:.0f} ms; "
            f"{seen.codes[504]} past the deadline",
            "nobody accepted past the deadline",
            not seen.codes[504] and slowest <= TIMEOUT_S * 1000,
        )
    )
    found.append(_clean("1.5 × capacity, 2000 words: all others", seen))


def _clean(what: str, seen: Outcome) -> Row:
    clean = seen.codes.keys() <= {200, 429} and not seen.lost and not seen.without_retry_after
    refused = f"{seen.codes[429]} refused, {seen.others or 'nothing else'}"
    return holds(what, refused, "a 429 with Retry-After", clean)


def _with_hits(seed: int) -> Iterator[bytes]:
    """New queries, and one known query among twenty."""
    known = request("a known query")
    for number, asked in enumerate(requests(seed)):
        yield known if number % 20 == 0 else asked


@contextlib.contextmanager
def _neighbours(cpus: Sequence[int], count: int) -> Iterator[None]:
    """So many processes that never rest, on these CPUs."""
    spinners = [multiprocessing.Process(target=_spin, args=(cpus,), daemon=True) for _ in range(count)]
    for spinner in spinners:
        spinner.start()
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.join()


def _spin(cpus: Sequence[int]) -> None:
    os.sched_setaffinity(0, cpus)
    while True:
        pass
