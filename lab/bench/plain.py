"""Side by side with what one would write first: FastAPI, uvicorn and ONNX Runtime, without batches or a cache.

Lone queries come every 50 ms, to each server in turns; closed loops of 32 likewise. *Plain* opens its
model with ONNX Runtime's own choice of threads, which spin; *tuned* as the gateway does.
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
        yardstick("fastapi") as plain,
        yardstick("tuned") as tuned,
        yardstick("litestar") as litestar,
    ):
        return [
            *_lone(lone, ours, plain, tuned, litestar),
            *_loops(rounds, seconds, {"ours": ours, "fastapi": plain, "tuned": tuned}),
        ]


def _lone(times: int, ours: Server, plain: Server, tuned: Server, litestar: Server) -> list[Row]:
    """Milliseconds from sending to the answer, as its caller sees it."""
    asks = {
        "miss": (ours, requests(1)),
        "fastapi": (plain, requests(2)),
        "tuned": (tuned, requests(3)),
        "hit": (ours, known()),
        "litestar": (litestar, known()),
    }
    took: dict[str, list[float]] = {name: [] for name in asks}
    outside: list[float] = []
    with contextlib.ExitStack() as stack:
        at = {
            server: stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for server in (ours, plain, tuned, litestar)
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
        Row("FastAPI's lone query, plain and tuned", f"{told['fastapi']} and {told['tuned']}"),
        at_most(
            "a lone miss against the plain FastAPI's",
            f"{miss:.2f}",
            miss,
            LONE_MISS,
            f"{LONE_MISS}",
            ratio=True,
        ),
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


def _loops(rounds: int, seconds: float, servers: dict[str, Server]) -> list[Row]:
    """Callers who wait for their answers, each query new; in turns, all on all CPUs."""
    seeds = count(100)
    rates: dict[str, list[float]] = {name: [] for name in servers}
    cpu_us: dict[str, list[float]] = {name: [] for name in servers}
    codes: dict[str, Counter[int]] = {name: Counter() for name in servers}
    for turn in range(rounds + 1):
        for name, server in servers.items():
            with Driver(server.port) as driver:
                before = server.cpu_s
                seen = driver.closed(requests(next(seeds)), connections=CONNECTIONS, seconds=seconds)
                spent_s = server.cpu_s - before
            if turn:  # the first one warms
                rates[name].append(seen.goodput)
                cpu_us[name].append(spent_s / max(1, seen.codes[200]) * 1e6)
                codes[name] += seen.codes
    refused = codes["ours"].total() - codes["ours"][200]
    theirs = codes["fastapi"].total() - codes["fastapi"][200]
    return [
        Row(f"closed loop of {CONNECTIONS}: unique queries a second, and CPU of each", _loop(rates["ours"], cpu_us["ours"])),
        Row("FastAPI's, plain", _loop(rates["fastapi"], cpu_us["fastapi"])),
        Row("FastAPI's, tuned", _loop(rates["tuned"], cpu_us["tuned"])),
        at_least("that rate against the plain FastAPI's", *_against(rates, "fastapi"), RATE, f"{RATE}", ratio=True),
        Row("that rate against the tuned FastAPI's", _against(rates, "tuned")[0]),
        at_most(
            f"refused of {codes['ours'].total()} (FastAPI: {theirs})",
            str(refused), 1 + refused, 1, "0",
        ),
    ]  # fmt: skip


def _loop(rates: list[float], cpu_us: list[float]) -> str:
    return f"{spread(rates)}, {statistics.median(cpu_us):.0f} µs"


def _against(rates: dict[str, list[float]], other: str) -> tuple[str, float]:
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[other], strict=True)]
    return spread(ratios, "{:.2f}"), statistics.median(ratios)
