"""Side by side with what one would write first: FastAPI, uvicorn and ONNX Runtime, without batches or a cache.

Lone queries come every 50 ms, to each server in turns; closed loops of 32 likewise.
"""

import contextlib
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count

from lab.bench.processes import yardstick
from lab.drive import Driver, percentile, requests
from lab.launch import Served, Server
from lab.measure import known
from lab.rows import Row, at_least, at_most, spread

CONNECTIONS = 32
EVERY_S = 0.05
WARM = 20
LONE_MISS, LONE_HIT, RATE = 0.75, 1.15, 2.5  # against FastAPI, the bare Litestar handler, FastAPI


def measure(lone: int, rounds: int, seconds: float) -> list[Row]:
    with (
        Served(patient=False) as ours,
        yardstick("fastapi") as fastapi,
        yardstick("litestar") as litestar,
    ):
        return [*_lone(lone, ours, fastapi, litestar), *_loops(rounds, seconds, ours, fastapi)]


def _lone(times: int, ours: Server, fastapi: Server, litestar: Server) -> list[Row]:
    """Milliseconds from sending to the answer, as its caller sees it."""
    asks = {
        "miss": (ours, requests(1)),
        "fastapi": (fastapi, requests(2)),
        "hit": (ours, known()),
        "litestar": (litestar, known()),
    }
    took: dict[str, list[float]] = {name: [] for name in asks}
    outside: list[float] = []
    with contextlib.ExitStack() as stack:
        at = {
            server: stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for server in (ours, fastapi, litestar)
        }
        for turn in range(times + WARM):
            for name, (server, asked) in asks.items():
                time.sleep(EVERY_S)
                ms, head = _ask(at[server], asked)
                if turn >= WARM:
                    took[name].append(ms)
                    if name == "miss":
                        outside.append(_outside_ms(head))
    middle = {name: statistics.median(ms) for name, ms in took.items()}
    told = {
        name: f"{middle[name]:.2f} ms (P99 {percentile(sorted(ms), 0.99):.2f})" for name, ms in took.items()
    }
    miss, hit = middle["miss"] / middle["fastapi"], middle["hit"] / middle["litestar"]
    return [
        Row("a lone miss at its caller, median", told["miss"]),
        Row("FastAPI's lone query, the same", told["fastapi"]),
        at_most("a lone miss against FastAPI's", f"{miss:.2f}", miss, LONE_MISS, f"{LONE_MISS}", ratio=True),
        at_most(
            "a lone miss: time in the gateway outside tokenizing and inference, median",
            f"{statistics.median(outside):.2f} ms",
            statistics.median(outside),
            0.4,
            "0.4 ms",
        ),
        Row("a lone hit at its caller, median", told["hit"]),
        Row("a bare Litestar handler's lone answer, the same", told["litestar"]),
        at_most("a lone hit against that", f"{hit:.2f}", hit, LONE_HIT, f"{LONE_HIT}", ratio=True),
    ]


def _ask(connection: socket.socket, asked: Iterator[bytes]) -> tuple[float, str]:
    query = next(asked)
    sent = time.perf_counter()
    connection.sendall(query)
    answer = connection.recv(65536)
    while not answer.endswith(b"}"):  # uvicorn sends head and body apart
        answer += connection.recv(65536)
    took_ms = (time.perf_counter() - sent) * 1000
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"bench: a lone query was answered {answer[:60]!r}")
    return took_ms, answer.decode()


def _outside_ms(head: str) -> float:
    """What the gateway says of its own time, less what the model took of it."""
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", head))
    total = re.search(r"x-router-latency: ([\d.]+)", head)
    assert total, head
    return float(total[1]) - float(stages["tokenize"]) - float(stages["infer"])


def _loops(rounds: int, seconds: float, ours: Server, fastapi: Server) -> list[Row]:
    """Callers who wait for their answers, each query new; in turns, all on all CPUs."""
    seeds = count(100)
    rates: dict[str, list[float]] = {"ours": [], "fastapi": []}
    codes: dict[str, Counter[int]] = {"ours": Counter(), "fastapi": Counter()}
    for turn in range(rounds + 1):
        for name, server in (("ours", ours), ("fastapi", fastapi)):
            with Driver(server.port) as driver:
                seen = driver.closed(requests(next(seeds)), connections=CONNECTIONS, seconds=seconds)
            if turn:  # the first one warms
                rates[name].append(seen.goodput)
                codes[name] += seen.codes
    ratios = [a / b for a, b in zip(rates["ours"], rates["fastapi"], strict=True)]
    refused = codes["ours"].total() - codes["ours"][200]
    return [
        Row(f"closed loop of {CONNECTIONS}: unique queries a second", spread(rates["ours"])),
        Row("FastAPI's, the same", spread(rates["fastapi"])),
        at_least(
            "that rate against FastAPI's", spread(ratios, "{:.2f}"), statistics.median(ratios), RATE, f"{RATE}", ratio=True
        ),
        at_most(
            f"refused of {codes['ours'].total()} (FastAPI: {codes['fastapi'].total() - codes['fastapi'][200]})",
            str(refused), 1 + refused, 1, "0",
        ),
    ]  # fmt: skip
