"""What a closed loop gets out of a server, and what that costs both sides."""

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

from lab.drive import Driver, Outcome, request, requests
from lab.launch import Server

CONNECTIONS = 32


class Rate(NamedTuple):
    """Answers a second, and CPU µs for each: the server's, and the driver's."""

    per_s: float
    cpu_us: float
    driver_us: float
    seen: Outcome


def closed(
    server: Server, asked: Iterator[bytes], *, seconds: float, connections: int = CONNECTIONS, code: int = 200
) -> Rate:
    """A closed loop in which every answer must have this status; another one, or none, is `SystemExit`."""
    with Driver(server.port) as driver:
        before, own = server.cpu_s, time.process_time()
        seen = driver.closed(asked, connections=connections, seconds=seconds)
        own, spent = time.process_time() - own, server.cpu_s - before
    if set(seen.codes) != {code} or seen.lost:
        raise SystemExit(f"expected {code} alone, got {dict(seen.codes)} and {seen.lost} lost")
    count = seen.codes[code]
    return Rate(count / seconds, spent / count * 1e6, own / count * 1e6, seen)


def capacity(server: Server, *, seconds: float = 3.0, rounds: int = 3, seed: int = 0) -> Rate:
    """Unique queries a second: the median round, by CPU a query."""
    seeds = itertools.count(1000 * (seed + 1))
    closed(server, requests(next(seeds)), seconds=1.0)  # warm
    return median([closed(server, requests(next(seeds)), seconds=seconds) for _ in range(rounds)])


def median(rates: list[Rate]) -> Rate:
    """The one in the middle, by what it costs the server."""
    return sorted(rates, key=lambda rate: rate.cpu_us)[len(rates) // 2]


def known(text: str = "summarize what is asked again and again in one short line") -> Iterator[bytes]:
    """One query again and again."""
    return itertools.repeat(request(text))
