"""What a query, a start and an end cost, measured on the shipped model: what the sums are fed with.

CPU is the process's own user and system time. It is measured twice: with open arrivals that keep
three gateways about a third busy, as independent callers come, and in a closed loop, where one waking of
the event loop serves many queries. `just fleet simulate --measure` measures; `FILE` keeps what came of it.
"""

import itertools
import statistics
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from handler.model import cut_tokens
from handler.offline import LocalRouter
from handler.query import normalise
from lab.chaos.crowd import asks
from lab.drive import Driver, Outcome, poisson, request
from lab.fleet.fleet import Fleet
from lab.launch import MODEL, Served, Server
from lab.pages import machine
from lab.redis_server import RedisServer
from lab.texts import Texts

FILE = Path(__file__).parent / "measured.json"
WORDS = (12, 40, 80, 160)
KNOWN = 200
STARTS = 5
# Of what callers who wait get: how often independent callers ask, as in `check`.
CALM = 0.25
# However busy the machine is, what is asked here is answered, so that its cost is known.
PATIENT = {"QUEUE_MIN": "1024", "REQUEST_TIMEOUT_MS": "20000"}


class Work(msgspec.Struct, frozen=True):
    """CPU microseconds of one query.

    hit_us     answered by L1
    shared_us  answered by Redis, which is asked after L1
    misses_us  answered by the model beside as many hits, Redis asked before and told after: (tokens, CPU) by length
    proxy_us   of HAProxy, in front of a hit
    driver_us  of what asks
    """

    hit_us: float
    shared_us: float
    misses_us: list[tuple[int, float]]
    proxy_us: float
    driver_us: float

    def miss_us(self, tokens: float) -> float:
        """CPU of a miss of so many tokens: straight lines between what was measured."""
        lengths = [length for length, _ in self.misses_us]
        place = min(max(bisect(lengths, tokens), 1), len(lengths) - 1)
        (x, y), (x2, y2) = self.misses_us[place - 1 : place + 1]
        return y + (y2 - y) * (tokens - x) / (x2 - x)


class RedisWork(msgspec.Struct, frozen=True):
    """What one gateway asks of Redis.

    hit_us, miss_us        CPU of Redis: a look-up that finds; one that does not, and the entry stored after it
    hit_bytes, miss_bytes  the same on the wire, both directions
    entry_bytes            memory of one entry, key and all
    connections            of one gateway
    """

    hit_us: float
    miss_us: float
    hit_bytes: float
    miss_bytes: float
    entry_bytes: float
    connections: int


class Costs(msgspec.Struct, frozen=True):
    """
    cold_s      from the start of a process to 200 on /health/ready; cold_cpu_s: its CPU
    drain_s     from SIGTERM to the end, idle
    memory_mb   resident, after some thousand queries
    hit_ms      latency of a lone hit through HAProxy; miss_ms: of a lone miss of the first length
    """

    on: str
    date: str
    open: Work
    closed: Work
    redis: RedisWork
    cold_s: float
    cold_cpu_s: float
    drain_s: float
    memory_mb: float
    hit_ms: float
    miss_ms: float

    @property
    def floor_s(self) -> float:
        """What a lone hit takes beside its CPU."""
        return max(0.0, self.hit_ms / 1e3 - (self.open.hit_us + self.open.proxy_us) / 1e6)


def read(file: Path = FILE) -> Costs:
    """Raises `OSError` or `msgspec.ValidationError`."""
    return msgspec.json.decode(file.read_bytes(), type=Costs)


def write(costs: Costs, file: Path = FILE) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=2) + b"\n")


def measure(seconds: float = 1.5) -> Costs:
    """Some 45 s. Raises `lab.pages.Skipped` where there is no HAProxy."""
    on = machine()
    with tempfile.TemporaryDirectory(prefix="costs-") as name:
        folder = Path(name)
        redis = RedisServer(folder)
        redis.start()
        try:
            cold = [_start() for _ in range(STARTS)]
            settings = PATIENT | {"LANES": "1", "REDIS_URL": redis.url}
            clients = redis.facts("clients")["connected_clients"]
            with (
                Served(settings) as served,
                Served(settings | {"CACHE_L1_SIZE": "0"}) as bare,
                Fleet(folder, MODEL, redis_url=redis.url, settings=PATIENT) as fleet,
            ):
                open_, closed, told = _work(served, bare, fleet, redis, seconds)
                connections = (redis.facts("clients")["connected_clients"] - clients) / 5
                memory_mb = served.memory_mb
                hit_ms, miss_ms = _alone_ms(fleet.port)
        finally:
            redis.kill()
    return Costs(
        on=on,
        date=datetime.now(UTC).date().isoformat(),
        open=open_,
        closed=closed,
        redis=RedisWork(connections=max(1, round(connections)), **told),
        cold_s=round(statistics.median(start[0] for start in cold), 3),
        cold_cpu_s=round(statistics.median(start[1] for start in cold), 3),
        drain_s=round(statistics.median(start[2] for start in cold), 3),
        memory_mb=round(memory_mb, 1),
        hit_ms=round(hit_ms, 3),
        miss_ms=round(miss_ms, 3),
    )


class _Together:
    """All gateways of a fleet as one server: three models beside one another find less in the CPU's caches."""

    def __init__(self, fleet: Fleet) -> None:
        self.port = fleet.port
        self._members = [member.served for member in fleet.members]

    @property
    def cpu_s(self) -> float:
        return sum(member.cpu_s for member in self._members)


def _start() -> tuple[float, float, float]:
    """Seconds to ready, CPU of that, seconds to the end."""
    began = time.perf_counter()
    with Served({"LANES": "1"}) as served:
        ready_s, cpu_s = time.perf_counter() - began, served.cpu_s
        told = time.perf_counter()
        served.terminate()
        return ready_s, cpu_s, time.perf_counter() - told


def known(count: int = KNOWN) -> Iterator[bytes]:
    """A few queries, again and again."""
    few = Texts(7)
    return itertools.cycle([request(few.text(number)) for number in range(count)])


def _work(
    served: Served, bare: Served, fleet: Fleet, redis: RedisServer, seconds: float
) -> tuple[Work, Work, dict[str, float]]:
    router = LocalRouter.open(MODEL).router
    together = _Together(fleet)
    for port in (served.port, fleet.port):
        with Driver(port) as driver:
            driver.closed(itertools.islice(known(), 10 * KNOWN), connections=4)
    before = _of_redis(redis)
    hits = _both(together, known, seconds)
    shared = _both(bare, known, seconds)
    after = _of_redis(redis)
    found = after["lookups"] - before["lookups"]
    redis_hit = {name: (after[name] - before[name]) / found for name in ("cpu_us", "bytes")}
    misses: list[tuple[int, float, float]] = []
    before = after
    for place, words in enumerate(WORDS):
        seeds = itertools.count(1000 * (place + 1))
        texts = [_text(one) for one in itertools.islice(asks(words, 1), 50)]
        limits = router.manifest.limits
        ids = router.token_ids([normalise(text, limits) for text in texts])
        tokens = round(statistics.mean(len(cut_tokens(row, limits)) for row in ids))
        cost = _both(together, lambda words=words, seeds=seeds: _half_new(words, next(seeds)), seconds)  # type: ignore[misc]
        opened, closed_ = (2 * both[0] - hit[0] for both, hit in zip(cost, hits, strict=True))
        misses.append((tokens, opened, closed_))
    after = _of_redis(redis)
    stored = after["stored"] - before["stored"]
    miss = {name: (after[name] - before[name]) / stored for name in ("cpu_us", "bytes")}
    proxied = _both(fleet.proxy, known, seconds)
    works = [
        Work(
            hit_us=round(hits[how][0], 1),
            shared_us=round(shared[how][0], 1),
            misses_us=[(tokens, round(costs[how], 1)) for tokens, *costs in misses],
            proxy_us=round(proxied[how][0], 1),
            driver_us=round(proxied[how][1], 1),
        )
        for how in (0, 1)
    ]
    told = {
        "hit_us": round(redis_hit["cpu_us"], 2),
        "miss_us": round(miss["cpu_us"], 2),
        "hit_bytes": round(redis_hit["bytes"]),
        "miss_bytes": round(miss["bytes"]),
        "entry_bytes": round((after["memory"] - before["memory"]) / stored),
    }
    return works[0], works[1], told


def _half_new(words: int, seed: int) -> Iterator[bytes]:
    """Known queries and new ones in turns. New ones alone would share larger runs, and cost less each, than they do in practice."""
    return itertools.chain.from_iterable(zip(known(), asks(words, seed), strict=False))


def _text(asked: bytes) -> str:
    body: dict[str, Any] = msgspec.json.decode(asked.partition(b"\r\n\r\n")[2])
    text: str = body["text"]
    return text


def _both(
    server: Server | _Together, made: Callable[[], Iterator[bytes]], seconds: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """CPU microseconds a query, the server's and the driver's: with open arrivals, and in a closed loop."""
    with Driver(server.port) as driver:
        driver.closed(made(), connections=32, seconds=0.3)
        closed, seen = _cost(server, lambda: driver.closed(made(), connections=32, seconds=seconds))
        calm = max(20.0, CALM * min(seen.goodput, 2e6 / closed[0]))
        opened, _ = _cost(server, lambda: driver.open(made(), poisson(calm, seed=1), seconds=seconds))
    return opened, closed


def _cost(server: Server | _Together, drive: Callable[[], Outcome]) -> tuple[tuple[float, float], Outcome]:
    before, own = server.cpu_s, time.process_time()
    seen = drive()
    spent, own = server.cpu_s - before, time.process_time() - own
    if set(seen.codes) != {200} or seen.lost:
        raise SystemExit(f"just fleet simulate: {dict(seen.codes)} and {seen.lost} lost, instead of answers")
    count = seen.codes[200]
    return (spent / count * 1e6, own / count * 1e6), seen


def _alone_ms(port: int) -> tuple[float, float]:
    """Median latency through HAProxy of a lone hit, and of a lone miss."""
    found = []
    for made in (known(), asks(WORDS[0], 77)):
        with Driver(port) as driver:
            seen = driver.open(made, (number * 0.02 for number in itertools.count()), seconds=2.0)
            found.append(seen.answered_ms(0.5))
    return found[0], found[1]


def _of_redis(redis: RedisServer) -> dict[str, float]:
    facts = redis.facts("all")
    return {
        "lookups": float(facts["keyspace_hits"] + facts["keyspace_misses"]),
        "stored": float(facts.get("cmdstat_set", {}).get("calls", 0)),
        "cpu_us": 1e6 * (facts["used_cpu_user"] + facts["used_cpu_sys"]),
        "bytes": float(facts["total_net_input_bytes"] + facts["total_net_output_bytes"]),
        "memory": float(facts["used_memory"]),
    }
