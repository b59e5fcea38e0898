"""Latency under open arrivals: each query at its own moment, however late the last answer is."""

import random
from collections.abc import Callable, Iterator
from itertools import islice, repeat

from lab.drive import Driver, percentile, poisson, request, requests
from lab.launch import Served, apart
from lab.measure import closed, known
from lab.rows import Row, at_most
from lab.texts import Texts, Zipf, texts

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
HIT_SHARE = 0.3
ZIPF_TEXTS = 50_000
CONNECTIONS = 64
# What the SLOs allow the 99th percentile.
OBJECTIVE_S = {"hits": 0.010}
OBJECTIVE_OF_ALL_S = 0.100
# What was ordered, and is measured in several rounds.
WANTED_MS = {("hits", 0.5): 2.0, ("30% hits", 0.7): 20.0}
ROUNDS = 3
# The search for a mix's capacity, from the closed loop's rate downwards.
STEP = 0.9
STEPS_MAX = 16
TRIES = 2
PROBE_SHARE = 1 / 3  # of the time that a level is measured for


def measure(seconds: float, levels: tuple[float, ...] = LEVELS) -> list[Row]:
    """P50, P99 and P99.9 at shares of each mix's own capacity; the server on one CPU, the driver on the other."""
    figures: list[Row] = []
    with apart() as cpus:
        for mix, asked in MIXES.items():
            with Served({"CACHE_L1_SIZE": "100000"}, cpus=cpus.gateway[:1]) as server:
                closed_per_s, per_s = _capacity(server, mix, asked, PROBE_SHARE * seconds)
                figures.append(
                    Row(
                        f"{mix}: capacity in open arrivals",
                        f"{per_s:.0f}/s; a closed loop of {CONNECTIONS} does {closed_per_s:.0f}/s",
                    )
                )
                for level in levels:
                    rounds = ROUNDS if (mix, level) in WANTED_MS else 1
                    seen = [
                        _at(server, asked(int(level * 100) + 1000 * r), level, level * per_s, seconds)
                        for r in range(rounds)
                    ]
                    seen.sort(key=lambda point: point["p99_ms"])
                    figures.append(_figure(mix, per_s, seen))
    return figures


def _known(seed: int) -> Iterator[bytes]:
    return known()


def _some_known(seed: int) -> Iterator[bytes]:
    """A share of queries that are known, the rest new."""
    dice, new = random.Random(seed), requests(seed)
    old = [request(text) for text in islice(texts(0), 200)]
    return (dice.choice(old) if dice.random() < HIT_SHARE else next(new) for _ in repeat(None))


def _zipf(seed: int) -> Iterator[bytes]:
    """Queries as often as 1/rank: what is asked most is asked far more than the rest."""
    dice = random.Random(seed)
    source, zipf = Texts(0), Zipf(ZIPF_TEXTS)
    return (request(source.text(zipf.rank(dice))) for _ in repeat(None))


MIXES: dict[str, Callable[[int], Iterator[bytes]]] = {
    "hits": _known,
    "misses": requests,
    "30% hits": _some_known,
    "Zipf": _zipf,
}


def _capacity(
    server: Served, mix: str, asked: Callable[[int], Iterator[bytes]], probe_s: float
) -> tuple[float, float]:
    """The rate of a closed loop, and the most open arrivals a second that are answered within the objective.

    The second is what counts here, and is lower: in a closed loop one waking of the event
    loop serves many answers, which arrivals one by one do not allow. Where not even the least
    rate that is tried is answered so, it is that: the levels will show it.
    """
    warm = asked(1)
    if asked is _some_known:
        closed(server, (request(text) for text in islice(texts(0), 200)), connections=1, seconds=0.15)
    closed(server, warm, connections=CONNECTIONS, seconds=1.0)
    closed_per_s = closed(server, warm, connections=CONNECTIONS, seconds=2.0).per_s
    objective_s = OBJECTIVE_S.get(mix, OBJECTIVE_OF_ALL_S)
    per_s = closed_per_s
    for step in range(STEPS_MAX):
        per_s = closed_per_s * STEP**step
        # Twice, since a neighbour's moment is no lack of capacity.
        for again in range(TRIES):
            with Driver(server.port) as driver:
                seen = driver.open(warm, poisson(per_s, seed=TRIES * step + again), seconds=probe_s)
            answered = sorted([*seen.hits_s, *seen.misses_s])
            if seen.codes[200] == seen.offered and percentile(answered, 0.99) <= objective_s:
                return closed_per_s, per_s
    return closed_per_s, per_s


def _at(
    server: Served, asked: Iterator[bytes], level: float, per_s: float, seconds: float
) -> dict[str, float]:
    runs, run_of = (f"query_gateway_inference_batch_size_{part}" for part in ("count", "sum"))
    before = server.metric(runs), server.metric(run_of)
    with Driver(server.port) as driver:
        seen = driver.open(asked, poisson(per_s, seed=int(level * 100)), seconds=seconds)
    batches = server.metric(runs) - before[0]
    answered = sorted([*seen.hits_s, *seen.misses_s])
    return {
        "level": level,
        "per_s": per_s,
        "p50_ms": percentile(answered, 0.5) * 1000,
        "p99_ms": percentile(answered, 0.99) * 1000,
        "p999_ms": percentile(answered, 0.999) * 1000,
        "hits": len(seen.hits_s) / max(1, len(answered)),
        "batch": (server.metric(run_of) - before[1]) / batches if batches else 0.0,
        "failed": float(seen.offered - seen.codes[200]),
        "behind_ms": seen.behind_s * 1000,
    }


def _figure(mix: str, capacity: float, rounds: list[dict[str, float]]) -> Row:
    """One level's line, of rounds sorted by their P99: the middle one, and how far they lie apart."""
    point = rounds[len(rounds) // 2]
    apart = f" ({rounds[0]['p99_ms']:.2f} to {rounds[-1]['p99_ms']:.2f})" if len(rounds) > 1 else ""
    seen = (
        f"P50 {point['p50_ms']:.2f}, P99 {point['p99_ms']:.2f}{apart}, P99.9 {point['p999_ms']:.2f} ms"
        + (f"; {point['batch']:.1f} a batch" if point["batch"] else "")
        + (f"; {point['hits']:.0%} hits" if mix == "Zipf" else "")
        + (f"; {point['failed']:.0f} failed" if point["failed"] else "")
    )
    what = f"{mix}, {point['level']:.0%} of {capacity:.0f}/s"
    wanted = WANTED_MS.get((mix, point["level"]))
    if wanted is None:
        return Row(what, seen)
    return at_most(what, seen, point["p99_ms"], wanted, f"P99 {wanted:g} ms")
