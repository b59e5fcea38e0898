"""From the start of a process to its first correct answer, against what no such process can do without."""

import contextlib
import socket
import statistics
import sys
import time
from collections.abc import Sequence

from lab.bench.processes import measured
from lab.drive import request
from lab.launch import INSTALLED, ROOT, Served
from lab.rows import Row, at_most, spread

SERVING = ROOT / ".venv" / "bin"
ASKED = request("summarize the minutes of the old harbour meeting for the new team")


def measure(rounds: int) -> list[Row]:
    starts: dict[str, Sequence[str]] = {"query-gateway serve": [sys.executable, "-m", "handler", "serve"]}
    if (SERVING / "query-gateway").is_file():
        starts["query-gateway serve"] = INSTALLED
    if (SERVING / "just").is_file():
        starts["a second just serve"] = [str(SERVING / "just"), "serve"]
    times: dict[str, list[float]] = {name: [] for name in [*starts, "floor"]}
    for _ in range(rounds + 1):
        for name, command in starts.items():
            times[name].append(_first_answer_s(command))
        times["floor"].append(_floor_s())
    times = {name: taken[1:] for name, taken in times.items()}  # the first of each filled the disk's cache
    figures = [Row("floor: the same imports one after the other, and the same model", _ms(times["floor"]))]
    for name in starts:
        ratios = [ours / floor for ours, floor in zip(times[name], times["floor"], strict=True)]
        slowest = statistics.median(times[name])
        figures.append(
            at_most(f"{name}: process start to first answer", _ms(times[name]), slowest, 1.0, "1 s")
        )
        ratio = statistics.median(ratios)
        figures.append(
            at_most(f"{name}: against the floor", spread(ratios, "{:.2f}"), ratio, 1.25, "1.25", ratio=True)
        )
    return figures


def _ms(seconds: Sequence[float]) -> str:
    return f"{spread([s * 1000 for s in seconds])} ms"


def _first_answer_s(command: Sequence[str]) -> float:
    started = time.perf_counter()
    with Served({"DRAIN_LINGER_MS": "0"}, command=command, wait_for=None, patient=False) as served:
        while time.perf_counter() - started < 30:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", served.port)) as connection,
            ):
                connection.sendall(ASKED)
                answer = connection.recv(65536)
                # 503 while the model is not there: what a platform's probe would wait through.
                if answer.startswith(b"HTTP/1.1 200") and b'"label"' in answer:
                    return time.perf_counter() - started
            time.sleep(0.002)
        raise SystemExit(f"bench: {' '.join(command)} did not answer within 30 s")


def _floor_s() -> float:
    """From the start of the yardstick to its answer, which it gives before it ends."""
    started = time.perf_counter()
    return float(measured("floor")) - started
