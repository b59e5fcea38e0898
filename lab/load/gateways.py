"""Gateways of our own for as long as a load lasts, and what they count.

Start at `own`. With two CPUs or more, the driver gets one to itself: otherwise each figure
would tell how long the driver waited for the gateway to leave it a processor.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lab.load.slo import Metrics

ROOT = Path(__file__).parent.parent.parent
SERVE = (str(ROOT / ".venv" / "bin" / "query-gateway"), "serve")
READY_WITHIN_S = 20.0
STOP_WITHIN_S = 12.0  # a drain takes 8 s at most


class Cpus(NamedTuple):
    """Who runs where. On one CPU they share it, and the figures are of both."""

    gateway: Collection[int]
    driver: Collection[int]


@contextlib.contextmanager
def apart() -> Iterator[Cpus]:
    """This process, and the drivers that it starts, on the driver's CPU for as long as the block lasts."""
    before = os.sched_getaffinity(0)
    usable = sorted(before)
    split = Cpus(usable[:-1], usable[-1:]) if len(usable) > 1 else Cpus(usable, usable)
    os.sched_setaffinity(0, split.driver)
    try:
        yield split
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def own(
    settings: Mapping[str, str] | None = None,
    *,
    instances: int = 1,
    command: Sequence[str] = SERVE,
    on: Collection[int] = (),
) -> Iterator[list[str]]:
    """URLs of fresh gateways on free ports of 127.0.0.1, all of which are ended with the block.

    settings  on top of the environment
    on        the CPUs that they may use; none: all
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        urls = []
        for _ in range(instances):
            port = free_port()
            environ = {**os.environ, "HOST": "127.0.0.1", "DRAIN_LINGER_MS": "0", **(settings or {})}
            running.append(_started(command, {**environ, "PORT": str(port)}, on))
            urls.append(f"http://127.0.0.1:{port}")
        for url, process in zip(urls, running, strict=True):
            _wait_ready(url, process)
        yield urls
    finally:
        stop(running)


def stop(running: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End them all: as an orchestrator would, and the hard way where that does not help."""
    for process in running:
        process.terminate()
    end = time.monotonic() + STOP_WITHIN_S
    try:
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
    finally:  # a second Ctrl-C too leaves nothing behind
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scrape(urls: Sequence[str], key: str = "") -> Metrics | None:
    """What the gateways count, in sum; None where one does not tell."""
    try:
        return Metrics.read(_get(f"{url}/metrics", key) for url in urls)
    except (OSError, ValueError):
        return None


def answers(url: str) -> bool:
    """Whether a GET of this URL is answered with 2xx."""
    try:
        _get(url)
    except OSError:
        return False
    return True


def _get(url: str, key: str = "") -> str:
    request = urllib.request.Request(url, headers={"x-api-key": key} if key else {})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
        content: bytes = answer.read()
    return content.decode()


def _started(
    command: Sequence[str], environ: Mapping[str, str], on: Collection[int]
) -> "subprocess.Popen[bytes]":
    before = os.sched_getaffinity(0)
    if on:
        os.sched_setaffinity(0, on)  # what it inherits, from its first moment
    try:
        # A session of its own: a Ctrl-C at the terminal is for the driver, which then ends it.
        return subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError:
        raise SystemExit(f"load: there is no {command[0]}; scripts/install.sh serve makes it") from None
    finally:
        os.sched_setaffinity(0, before)


def _wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        if answers(f"{url}/health/ready"):
            return
        time.sleep(0.05)
    raise SystemExit("load: the gateway did not become ready; try `query-gateway check`")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal all end the block, by way of its `finally`s."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
