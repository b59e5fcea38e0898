"""Crowds: callers who wait for their answers, who ask again at once, and floods that do neither.

The law that is held against them is the queue's (docs/decisions/0011).
"""

import contextlib
import itertools
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence

from lab.drive import Driver, Outcome, percentile, poisson, request, requests
from lab.launch import Served, apart
from lab.rows import Row, at_least, at_most, holds, spread
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
# What is held against a capacity stands beside it, round by round: a machine's own speed drifts.
ROUNDS = 5


def crowd(seconds: float) -> list[Row]:
    """
    seconds  of each flood, in `ROUNDS` parts; a level of waiting callers lasts `LEVEL_S` at most
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
            for times, least in ((1.5, 0.9), (3.0, 0.7)):
                _flooded(served, best, times, least, seconds / ROUNDS, found)
            _long_flood(served, seconds, found)
    both = sorted(os.sched_getaffinity(0))
    with Served(cpus=both, patient=False) as served:
        best = _waiting(f"{len(both)} CPUs", served, LEVELS, level_s, found)
        _storms(f"{len(both)} CPUs", served, best, level_s, found)
    return found


def asks(words: int, seed: int) -> Iterator[bytes]:
    """Endless requests, each of another text of about so many words."""
    lines = texts(seed)
    for line in lines:
        count = words // len(line.split())
        yield request(" ".join([line, *itertools.islice(lines, max(0, count - 1))]))


def _waiting(
    where: str, served: Served, levels: Mapping[int, Sequence[int]], seconds: float, found: list[Row]
) -> int:
    """Closed loops of callers. Returns how many callers of the shortest texts got the most answers."""
    best = 0
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
            best = counts[rates.index(max(rates))]
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


def _rate(served: Served, callers: int, seed: int, seconds: float) -> float:
    """Answers a second that so many callers get who wait for them."""
    with Driver(served.port) as driver:
        driver.closed(requests(seed), connections=callers, seconds=0.3)  # warm
        return driver.closed(requests(seed + 1), connections=callers, seconds=seconds).goodput


def _storms(where: str, served: Served, best: int, seconds: float, found: list[Row]) -> None:
    """Callers who ask again at once, against the number of callers that got the most answers."""
    seeds = itertools.count(10_000, 2)
    shares: dict[int, list[float]] = {callers: [] for callers in STORM}
    refused: dict[int, list[float]] = {callers: [] for callers in STORM}
    told: dict[int, list[float]] = {callers: [] for callers in STORM}
    for _ in range(ROUNDS):
        most = _rate(served, best, next(seeds), seconds)
        for callers in STORM:
            with Driver(served.port) as driver:
                driver.closed(requests(next(seeds)), connections=callers, seconds=1.5)  # warm
                seen = driver.closed(requests(next(seeds)), connections=callers, seconds=seconds)
            shares[callers].append(seen.goodput / most)
            refused[callers].append(seen.codes[429] / seconds)
            told[callers] += seen.refusals_s
    for callers in STORM:
        share = statistics.median(shares[callers])
        found.append(
            at_least(
                f"{where}, {callers} callers who ask again at once",
                f"{spread(shares[callers], '{:.0%}')} of what {best} get; {statistics.median(refused[callers]):.0f} "
                f"refused a second, told after {percentile(sorted(told[callers]), 0.5) * 1000:.0f} ms (median)",
                share,
                0.9,
                "90%",
                ratio=True,
            )
        )


def _flooded(
    served: Served, callers: int, times: float, least: float, seconds: float, found: list[Row]
) -> None:
    """Open arrivals, over what `callers` who wait get before and after."""
    seeds = itertools.count(20_000 + int(times * 1000), 2)
    goodput, p99, p99_ms, hits_ms = [], [], [], []
    whole = Outcome()
    per_s = _rate(served, callers, next(seeds), min(seconds, LEVEL_S))
    for _ in range(ROUNDS):
        with Driver(served.port) as driver:
            driver.closed(itertools.repeat(request("a known query")), connections=1, seconds=0.1)
            driver.open(requests(next(seeds)), poisson(per_s / 3, seed=1), seconds=1.0)  # warm
            arrivals = poisson(times * per_s, seed=next(seeds))
            seen = driver.open(_with_hits(next(seeds)), arrivals, seconds=seconds)
        after = _rate(served, callers, next(seeds), min(seconds, LEVEL_S))
        capacity, per_s = (per_s + after) / 2, after
        goodput.append(seen.goodput / capacity)
        p99_ms.append(percentile(sorted(seen.misses_s), 0.99) * 1000)
        p99.append(p99_ms[-1] / 1000 * capacity / QUEUE_MIN)
        hits_ms.append(percentile(sorted(seen.hits_s), 0.99) * 1000)
        whole.add(seen)
    name = f"one CPU, {times:g} × capacity, 12 words"
    found += [
        at_least(
            f"{name}: answers",
            f"{spread(goodput, '{:.0%}')} of capacity",
            statistics.median(goodput),
            least,
            f"{least:.0%}",
            ratio=True,
        ),
        at_most(
            f"{name}: P99 of the accepted",
            f"{spread(p99, '{:.2f}')} × {QUEUE_MIN} ÷ capacity; {spread(p99_ms)} ms",
            statistics.median(p99),
            1.5,
            f"1.5 × {QUEUE_MIN} ÷ capacity",
            ratio=True,
        ),
        at_most(
            f"{name}: P99 of hits", f"{spread(hits_ms, '{:.1f}')} ms", statistics.median(hits_ms), 10, "10 ms"
        )
        if times < 2
        else Row(f"{name}: P99 of hits", f"{spread(hits_ms, '{:.1f}')} ms"),
        _clean(f"{name}: all others", whole),
    ]


def _long_flood(served: Served, seconds: float, found: list[Row]) -> None:
    with Driver(served.port) as driver:
        per_s = driver.closed(asks(2000, 5), connections=16, seconds=min(seconds, LEVEL_S)).goodput
        seen = driver.open(asks(2000, 6), poisson(1.5 * per_s, seed=6), seconds=seconds)
    slowest = percentile(sorted(seen.misses_s), 1.0) * 1000
    found.append(
        holds(
            "one CPU, 1.5 × capacity, 2000 words: the accepted",
            f"{seen.goodput:.0f}/s, {seen.goodput / per_s:.0%} of capacity; slowest {slowest:.0f} ms; "
            f"{seen.codes[504]} past the deadline",
            "nobody accepted past the deadline",
            not seen.codes[504] and slowest <= TIMEOUT_S * 1000,
        )
    )
    found.append(_clean("one CPU, 1.5 × capacity, 2000 words: all others", seen))


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
