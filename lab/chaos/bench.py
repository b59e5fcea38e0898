"""What all scenarios share: a gateway on a CPU of its own, and what it costs."""

import asyncio
import contextlib
import itertools
import os
import resource
import statistics
import threading
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import psutil
import uvloop

from lab.drive import Driver, request, requests
from lab.launch import Served

T = TypeVar("T")
CONNECTIONS = 32


class Cpus(NamedTuple):
    """Who runs where. On one CPU the driver shares the gateway's, and the figures are its too."""

    gateway: Collection[int]
    driver: Collection[int]


def cpus() -> Cpus:
    usable = sorted(os.sched_getaffinity(0))
    return Cpus(usable[:1], usable[-1:]) if len(usable) > 1 else Cpus((), usable)


@contextlib.contextmanager
def gateway(
    settings: Mapping[str, str] | None = None,
    *,
    fault: str = "",
    wrapped_in: Sequence[str] = (),
    alone: bool = True,
) -> Iterator["Watched"]:
    """A gateway on a CPU of its own (unless not `alone`), with the driver on another."""
    split = cpus()
    open_files_max()
    before = os.sched_getaffinity(0)
    with Served(
        {"QUEUE_MAX_WAIT_MS": "", **(settings or {})},
        fault=fault,
        wrapped_in=wrapped_in,
        cpus=split.gateway if alone else (),
    ) as served:
        if alone:
            os.sched_setaffinity(0, split.driver)
        try:
            yield Watched(served)
        finally:
            os.sched_setaffinity(0, before)


class Used:
    """What a process uses."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process

    @property
    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def memory_mb(self) -> float:
        return float(self.process.memory_info().rss) / 1e6


class Watched(Used):
    """A gateway and what its process uses."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.port = served.port
        self.told_at = 0.0  # when it was told to end
        parent = psutil.Process(served.process.pid)
        # Behind `unshare` or the like, the gateway is the child.
        super().__init__((parent.children(recursive=True) or [parent])[-1])

    @contextlib.contextmanager
    def sampled_memory(self) -> Iterator[list[float]]:
        """Resident megabytes twice a second, for as long as the block lasts."""
        samples, over = [self.memory_mb], threading.Event()

        def sample() -> None:
            while not over.wait(0.5):
                samples.append(self.memory_mb)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield samples
        finally:
            over.set()
            sampler.join()

    @property
    def threads(self) -> int:
        return int(self.process.num_threads())

    @property
    def files(self) -> int:
        return int(self.process.num_fds())


class Rate(NamedTuple):
    """Queries a second, and CPU µs for each: the gateway's, and the driver's."""

    per_s: float
    cpu_us: float
    driver_us: float = 0.0


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def capacity(watched: Watched, *, seconds: float = 3.0, rounds: int = 3, seed: int = 0) -> Rate:
    """Unique queries a second from a closed loop: the median of a few rounds."""
    seeds = itertools.count(1000 * (seed + 1))
    with Driver(watched.port) as driver:
        _closed(watched, driver, requests(next(seeds)), code=200, seconds=1.0)  # warm
        rates = [
            _closed(watched, driver, requests(next(seeds)), code=200, seconds=seconds) for _ in range(rounds)
        ]
    return Rate(*(statistics.median(values) for values in zip(*rates, strict=True)))


def repeated(watched: Watched, text: str, *, code: int, seconds: float = 3.0) -> Rate:
    """One query again and again from a closed loop, always answered with `code`."""
    with Driver(watched.port) as driver:
        return _closed(watched, driver, itertools.repeat(request(text)), code=code, seconds=seconds)


def _closed(watched: Watched, driver: Driver, asked: Iterator[bytes], *, code: int, seconds: float) -> Rate:
    before, own = watched.cpu_s, time.process_time()
    seen = driver.closed(asked, connections=CONNECTIONS, seconds=seconds)
    own = time.process_time() - own
    if set(seen.codes) != {code} or seen.lost:
        raise SystemExit(f"chaos: expected {code} alone, got {dict(seen.codes)} and {seen.lost} lost")
    count = seen.codes[code]
    return Rate(count / seconds, (watched.cpu_s - before) / count * 1e6, own / count * 1e6)


def open_files_max() -> int:
    """As many open files as we are allowed; a gateway that we start inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
