"""A long time of everything at once; what is used must stay what it was."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from typing import NamedTuple

from lab.chaos.findings import Finding
from lab.drive import request
from lab.flood import Callers, texts
from lab.launch import Served

PER_S = 300.0
WARM_S = 120.0  # until the in-process cache is full: 10,000 entries at some 100 new ones a second
EVERY_S = 5.0


class Sample(NamedTuple):
    at_s: float
    memory_mb: float
    files: int
    threads: int


def soak(seconds: float) -> list[Finding]:
    """Hits, new queries, long ones, bad ones, callers who hang up, and somebody who scrapes."""
    warm_s = min(WARM_S, seconds / 2)
    with Served(patient=False) as served:
        codes, samples = asyncio.run(_mixed(served, seconds))
        errors = [line for line in served.lines() if line.get("error_type") == "InternalError"]
    steady = [sample for sample in samples if sample.at_s >= warm_s]
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]
    grown = _mean([s.memory_mb for s in last]) / _mean([s.memory_mb for s in first]) - 1
    files = [max(s.files for s in part) for part in (first, last)]
    threads = [max(s.threads for s in part) for part in (first, last)]
    answered = ", ".join(f"{number} × {code}" for code, number in sorted(codes.items()))
    return [
        Finding(
            f"{seconds:g} s of mixed load, {PER_S:g} requests/s",
            answered,
            "no 5xx",
            not any(c[0] == "5" for c in codes),
        ),
        Finding(
            f"memory after the first {warm_s:g} s",
            f"{_mean([s.memory_mb for s in first]):.1f} → {_mean([s.memory_mb for s in last]):.1f} MB, {grown:+.2%}",
            "grows under 3%",
            grown < 0.03,
        ),
        Finding("open files, at most", f"{files[0]} → {files[1]}", "flat", files[1] <= files[0] + 10),
        Finding("threads, at most", f"{threads[0]} → {threads[1]}", "flat", threads[1] <= threads[0]),
        Finding("bugs in the log", str(len(errors)), "0", not errors),
    ]


async def _mixed(served: Served, seconds: float) -> tuple[Counter[str], list[Sample]]:
    loop = asyncio.get_running_loop()
    dice, pool, new = random.Random(5), Callers(served.port), texts("soak")
    codes: Counter[str] = Counter()
    samples: list[Sample] = []
    known = [new() for _ in range(50)]

    async def ask(asked: bytes) -> None:
        try:
            head = await pool.ask(asked)
        except (OSError, TimeoutError) as exc:
            codes[f"lost ({type(exc).__name__})"] += 1
        else:
            codes[head[9:12].decode()] += 1

    async def hang_up() -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request(new()))
            await writer.drain()
            writer.close()
        codes["hung up"] += 1

    def one() -> asyncio.Task[None]:
        kind = dice.random()
        if kind < 0.5:
            return loop.create_task(ask(request(dice.choice(known))))
        if kind < 0.85:
            return loop.create_task(ask(request(new())))
        if kind < 0.9:
            return loop.create_task(ask(request(f"{new()} {'and so on and on ' * 200}")))
        if kind < 0.93:
            return loop.create_task(ask(request("x").replace(b"{", b"[", 1)))
        if kind < 0.95:
            return loop.create_task(ask(request("x", path=f"/v1/{dice.random()}")))
        if kind < 0.97:
            return loop.create_task(ask(request(new(), extra=f"x-request-id: {dice.random()}\r\n")))
        return loop.create_task(hang_up())

    async def watch() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(served.client.get, "/metrics")
            samples.append(
                Sample(
                    time.monotonic() - began,
                    served.memory_mb,
                    served.usage.num_fds(),
                    served.usage.num_threads(),
                )
            )

    began = time.monotonic()
    watching = loop.create_task(watch())
    tasks: set[asyncio.Task[None]] = set()
    due = loop.time()
    while time.monotonic() - began < seconds:
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = one()
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += dice.expovariate(PER_S)
    while tasks:
        await asyncio.wait(set(tasks))
    watching.cancel()
    pool.close()
    return codes, samples


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
