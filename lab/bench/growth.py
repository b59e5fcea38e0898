"""What happens to the cost of a request as there are more of them, as they are longer, as the cache fills."""

import itertools
import random
from collections.abc import Iterator, Sequence

from lab.bench.processes import yardstick
from lab.drive import request, requests
from lab.launch import Served, Server, apart, open_files_max
from lab.measure import closed, known
from lab.rows import Row, at_most
from lab.texts import texts

CONCURRENCY = (1, 4, 16, 64, 256, 1024)
WORDS = (5, 20, 80, 320, 1000, 2000)
ENTRIES = (1_000, 10_000, 100_000, 1_000_000)
KNOWN = 500  # of the L1's entries, how many are asked


def measure(seconds: float) -> list[Row]:
    open_files_max()
    with apart() as cpus:
        one_cpu = cpus.gateway[:1]
        with (
            Served({"REQUEST_TIMEOUT_MS": "20000"}, cpus=one_cpu) as server,
            yardstick("litestar", one_cpu) as litestar,
        ):
            hits = [_us(server, known(), seconds, connections=many) for many in CONCURRENCY]
            bases = [_us(litestar, known(), seconds, connections=many) for many in CONCURRENCY]
            misses = [_us(server, requests(many), seconds, connections=many) for many in CONCURRENCY]
            words = [_us(server, _of_words(many), seconds, connections=8) for many in WORDS]
        filled = []
        for entries in ENTRIES:
            size = {"CACHE_L1_SIZE": str(entries)}
            with Served(size, fault=f"filled:{entries - KNOWN}", cpus=one_cpu) as server:
                closed(server, itertools.cycle(_known()), seconds=2.0)
                filled.append(_us(server, _some_known(), seconds, connections=32))
        with Served({"LANES": "1"}, cpus=one_cpu) as server:
            one = closed(server, requests(7), connections=64, seconds=3 * seconds).per_s
    with Served() as server:
        closed(server, requests(8), connections=64, seconds=1.0)
        two = closed(server, requests(9), connections=64, seconds=3 * seconds).per_s
    shares = [hit / base for hit, base in zip(hits, bases, strict=True)]
    return [
        _flat("CPU of a hit, {} at a time", CONCURRENCY, hits),
        Row("a bare Litestar answer, the same", _series(CONCURRENCY, bases)),
        Row("a hit against the bare Litestar answer, the same", _series(CONCURRENCY, shares, "{:.2f}")),
        Row(f"CPU of a miss, {CONCURRENCY[0]} to {CONCURRENCY[-1]} at a time", _series(CONCURRENCY, misses)),
        Row("CPU of a miss by its words, 8 at a time", _series(WORDS, words)),
        _flat("CPU of a hit with {} entries in L1", ENTRIES, filled),
        Row(f"misses a second, one CPU of its own against all {len({*cpus.gateway, *cpus.driver})} with the driver",
               f"{one:.0f} and {two:.0f}"),
    ]  # fmt: skip


def _us(server: Server, asked: Iterator[bytes], seconds: float, *, connections: int) -> float:
    return closed(server, asked, connections=connections, seconds=seconds).cpu_us


def _of_words(count: int) -> Iterator[bytes]:
    words = " ".join(itertools.islice(texts(count), count // 8 + 2)).split()
    return (request(" ".join([f"{number}", *words[: count - 1]])) for number in itertools.count())


def _known() -> list[bytes]:
    return [request(text) for text in itertools.islice(texts(0), KNOWN)]


def _some_known() -> Iterator[bytes]:
    asked, dice = _known(), random.Random(1)
    return (dice.choice(asked) for _ in itertools.repeat(None))


def _series(steps: Sequence[int], values: Sequence[float], form: str = "{:.0f} µs") -> str:
    return ", ".join(f"{step:,}: {form.format(value)}" for step, value in zip(steps, values, strict=True))


def _flat(what: str, steps: Sequence[int], values: Sequence[float]) -> Row:
    """Growth from the first step to the last; what gets cheaper does not count against it."""
    grown = max(later / min(values[: i + 1]) for i, later in enumerate(values))
    named = what.format(f"{steps[0]:,} to {steps[-1]:,}")
    return at_most(
        named, f"{_series(steps, values)}; grows {grown - 1:.0%}", grown, 1.15, "15% more", ratio=True
    )
