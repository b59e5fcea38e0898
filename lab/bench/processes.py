"""Starting what is measured, where it runs, and what it uses."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from lab.chaos.bench import Used, cpus
from lab.drive import Driver, Outcome, request
from lab.launch import MODEL, ROOT, Served, eventually, free_port


class Process(Used):
    """A server that is measured: its port, its CPU time and its memory."""

    def __init__(self, port: int, process: int, served: Served | None = None) -> None:
        super().__init__(psutil.Process(process))
        self.port = port
        self.served = served

    def metric(self, line: str) -> float:
        assert self.served is not None
        return self.served.metric(line)


@contextlib.contextmanager
def pinned_apart() -> Iterator[Collection[int]]:
    """Keep this process to the driver's CPU for as long as the block lasts. Yields the server's."""
    split, before = cpus(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, split.driver)
    try:
        yield split.gateway
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def gateway(
    on: Collection[int] = (), *, model: Path = MODEL, fault: str = "", **settings: str
) -> Iterator[Process]:
    """A gateway on some CPUs (none given: all), without the bound that sheds what is late."""
    with Served({"MODEL_PATH": str(model), **settings}, cpus=on, fault=fault) as served:
        yield Process(served.port, served.process.pid, served)


def yardstick(*arguments: str, model: Path = MODEL) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "lab.bench.yardsticks", *arguments],
        cwd=ROOT,
        env={**os.environ, "MODEL_PATH": str(model)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


@contextlib.contextmanager
def bare(kind: str, on: Collection[int] = (), *, model: Path = MODEL) -> Iterator[Process]:
    """A yardstick's server."""
    port = free_port()
    process = yardstick(kind, str(port), model=model)
    try:
        if on:
            os.sched_setaffinity(process.pid, on)
        eventually(lambda: _listens(port), f"the {kind} yardstick listens")
        yield Process(port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alone(seconds: float, *, model: Path = MODEL) -> dict[str, float]:
    """Tokenizers and ONNX Runtime in a loop, on all CPUs."""
    out, _ = yardstick("alone", str(seconds), model=model).communicate(timeout=seconds + 60)
    found: dict[str, float] = json.loads(out)
    return found


def closed(
    server: Process, asked: Iterator[bytes], *, connections: int, seconds: float
) -> tuple[float, float, Outcome]:
    """A closed loop: answers a second, the server's CPU µs for each, and what was seen."""
    with Driver(server.port) as driver:
        before = server.cpu_s
        seen = driver.closed(asked, connections=connections, seconds=seconds)
        spent = server.cpu_s - before
    if set(seen.codes) != {200} or seen.lost:
        raise SystemExit(f"bench: expected answers alone, got {dict(seen.codes)} and {seen.lost} lost")
    return seen.goodput, spent / seen.codes[200] * 1e6, seen


def known(text: str = "summarize what is asked again and again in one short line") -> Iterator[bytes]:
    return itertools.repeat(request(text))


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
