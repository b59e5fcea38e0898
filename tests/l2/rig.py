"""An `L2` that runs, and what is put into it."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from handler.entries import key
from handler.l2 import L2, OneServer, Servers
from handler.log import Log
from handler.policy import Scores
from handler.shard import Link
from handler.statistics import L2Statistics

BUDGET_S = 0.02
SCORES = Scores.of([0.25, 0.75])


def name(i: int) -> bytes:
    return key("0123456789ab", i.to_bytes(16, "big"))


def scores(i: int) -> Scores:
    return Scores.of([i / 1024, 1 - i / 1024])


def alone(link: Link) -> OneServer:
    return OneServer(link, "redis://test")


class Rig:
    """An `L2` that runs, what it has logged, and how many round trips were answered."""

    def __init__(self, servers: Servers, *, timeout_s: float = BUDGET_S, ttl_s: float = 3600.0) -> None:
        self.log = io.StringIO()
        self.round_trips: Counter[str] = Counter()
        self.l2 = L2(
            servers,
            address="redis://test",
            timeout_s=timeout_s,
            ttl_s=ttl_s,
            log=Log(self.log),
            operation=lambda operation, took_s: self.round_trips.update([operation]),
        )

    @property
    def counts(self) -> L2Statistics:
        return self.l2.statistics()

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


@asynccontextmanager
async def running(servers: Servers, **settings: float) -> AsyncIterator[Rig]:
    rig = Rig(servers, **settings)
    task = asyncio.create_task(rig.l2.run())
    try:
        await before_long(lambda: rig.l2.healthy)
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def before_long(true: Callable[[], bool]) -> None:
    """Poll, bounded, in whatever time the loop keeps."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


async def written(rig: Rig, entry: bytes) -> None:
    """Wait until this can be looked up, and with it all that was put before."""
    for _ in range(10_000):
        if await rig.l2.get(entry, 2) is not None:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it was never written")
