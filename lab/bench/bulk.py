"""Many queries in one request: what they cost against the model alone, and what they leave to single ones."""

import itertools
import json
import statistics
import threading
import time
from collections.abc import Iterator

from lab.bench.processes import measured
from lab.drive import CLASSIFY, Driver, percentile, poisson, post, requests
from lab.launch import Served, apart
from lab.measure import closed
from lab.rows import Row, at_least, at_most, spread
from lab.stream import Stream, lines
from lab.texts import texts

TEXTS = 256  # in a request: REQUEST_QUERIES_MAX
COST = 1.15
LATER = 2.0
SHARE = 0.85
CONNECTIONS = 64
WARM_S = 0.5


def measure(rounds: int, seconds: float) -> list[Row]:
    """The gateway on one CPU, the driver on the other; everything in turns."""
    # A neighbour's second must not end the measurement.
    patient = {"REQUEST_TIMEOUT_MS": "10000"}
    with apart() as cpus, Served(patient, cpus=cpus.gateway[:1]) as server:
        return [*_cost(server, rounds, seconds), *_shares(server, rounds, 2 * seconds)]


def _cost(server: Served, rounds: int, seconds: float) -> list[Row]:
    """CPU a query of 256 `texts`, and of the model alone with as many queries a run."""
    seeds = itertools.count(1)
    ours, alone, sizes = ([] for _ in range(3))
    for turn in range(rounds + 1):
        before = _runs(server)
        found = closed(server, _many(next(seeds)), connections=1, seconds=seconds)
        runs, queries = (now - then for now, then in zip(_runs(server), before, strict=True))
        if not turn:
            continue  # warm
        together = max(1, round(queries / runs))
        sizes.append(queries / runs)
        ours.append(found.cpu_us / TEXTS)
        alone.append(json.loads(measured("alone", str(seconds), str(together)))["cpu_us"])
    ratios = [own / theirs for own, theirs in zip(ours, alone, strict=True)]
    return [
        Row("queries in a run of 256 texts", spread(sizes, "{:.1f}")),
        Row("CPU a query, tokenizers and ONNX Runtime alone in such runs", f"{spread(alone)} µs"),
        Row("CPU a query of 256 texts", f"{spread(ours)} µs"),
        at_most(
            "that against alone",
            spread(ratios, "{:.2f}"),
            statistics.median(ratios),
            COST,
            f"{COST:g}",
            ratio=True,
        ),
    ]


def _many(seed: int) -> Iterator[bytes]:
    """Endless requests, each of so many queries of its own."""
    source = texts(seed)
    return (post(CLASSIFY, {"texts": list(itertools.islice(source, TEXTS))}) for _ in itertools.repeat(None))


def _runs(server: Served) -> tuple[float, float]:
    """Model runs so far, and the queries in them."""
    name = "query_gateway_inference_batch_size"
    return server.metric(f"{name}_count"), server.metric(f"{name}_sum")


def _shares(server: Served, rounds: int, seconds: float) -> list[Row]:
    """Single queries at half of capacity without a stream and with one that never ends."""
    seeds = itertools.count(1000)
    capacity = statistics.median(
        closed(server, requests(next(seeds)), connections=CONNECTIONS, seconds=seconds).per_s
        for _ in range(3)
    )
    per_s = capacity / 2
    without, beside, later, alone, left, shares = ([] for _ in range(6))
    for _ in range(rounds):
        quiet_ms, _, busy = _single(server, next(seeds), per_s, seconds, stream=False)
        busy_ms, streamed, _ = _single(server, next(seeds), per_s, seconds, stream=True)
        alone.append(_alone(server, next(seeds), seconds))
        without.append(quiet_ms)
        beside.append(busy_ms)
        later.append(busy_ms / quiet_ms)
        # Of the one CPU. In open arrivals a query runs in smaller company than at capacity, and costs more.
        left.append(max(0.01, 1 - busy))
        shares.append(streamed / (alone[-1] * left[-1]))
    return [
        Row("single queries a second, at most", f"{capacity:.0f}"),
        Row("lines of a stream a second that has the gateway for itself", spread(alone)),
        Row("P99 of single queries at half of capacity", f"{spread(without, '{:.1f}')} ms"),
        Row("their P99 beside a stream without end", f"{spread(beside, '{:.1f}')} ms"),
        at_most(
            "that against without", spread(later, "{:.2f}"), statistics.median(later), LATER, f"{LATER:g}",
            ratio=True,
        ),
        Row("share of the CPU that they leave when alone", spread(left, "{:.2f}")),
        at_least(
            "what the stream gets beside them, against that share of what it gets alone",
            spread(shares, "{:.2f}"), statistics.median(shares), SHARE, f"{SHARE:g}", ratio=True,
        ),
    ]  # fmt: skip


def _single(
    server: Served, seed: int, per_s: float, seconds: float, *, stream: bool
) -> tuple[float, float, float]:
    """P99 in milliseconds of single queries at their own moments, the stream's answers a second, CPUs in use."""
    streaming = Stream(server.port, lines(seed + 100_000))
    thread = threading.Thread(target=streaming.run)
    if stream:
        thread.start()
        time.sleep(WARM_S)
    before, spent, began = streaming.answers, server.cpu_s, time.perf_counter()
    try:
        with Driver(server.port) as driver:
            seen = driver.open(requests(seed), poisson(per_s, seed), seconds=seconds)
        streamed, busy = streaming.answers - before, (server.cpu_s - spent) / (time.perf_counter() - began)
    finally:
        streaming.stop()
        if stream:
            thread.join()
    if seen.codes[200] != seen.offered or streaming.errors:
        raise SystemExit(f"{dict(seen.codes)}, {seen.lost} lost, {streaming.errors} lines with an error")
    return percentile(sorted([*seen.hits_s, *seen.misses_s]), 0.99) * 1000, streamed / seconds, busy


def _alone(server: Served, seed: int, seconds: float) -> float:
    """Answers a second of a stream that nothing stands beside."""
    streaming = Stream(server.port, lines(seed + 200_000))
    thread = threading.Thread(target=streaming.run)
    thread.start()
    time.sleep(WARM_S)
    before, began = streaming.answers, time.perf_counter()
    time.sleep(seconds)
    rate = (streaming.answers - before) / (time.perf_counter() - began)
    streaming.stop()
    thread.join()
    return rate
