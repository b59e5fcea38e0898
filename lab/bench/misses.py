"""What a query costs that the model must answer, against the model alone, and what a lone one waits for."""

import contextlib
import json
import re
import socket
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path

from lab.bench import reference
from lab.bench.figures import Figure, Measured, at_least, at_most, spread
from lab.bench.processes import measured, yardstick
from lab.drive import percentile, requests
from lab.launch import MODEL, Served
from lab.measure import closed

CONNECTIONS = 128
# The best of five public servers of this kind, on a three-layer INT8 model and two CPUs like these
# (the sum is in docs/performance.md): unique queries a second.
PUBLIC_PER_S = 710
LONE = 300


def measure(rounds: int, seconds: float, litestar_us: float) -> Measured:
    """Gateway, the model alone and a plain server in turns, on all CPUs, the driver among them."""
    figures: list[Figure] = []
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"shipped": MODEL, "reference": reference.write(Path(folder) / "reference")}
        for name, model in models.items():
            times = 3 if name == "shipped" else 2
            found, raw = _on(name, model, rounds, seconds, litestar_us, times * PUBLIC_PER_S)
            figures += found
            numbers[name] = raw
    lone_ms, whole_ms = _lone()
    figures += [
        at_most(
            "a lone miss: time in the gateway outside tokenizing and inference, median",
            f"{statistics.median(lone_ms):.2f} ms (P99 {percentile(lone_ms, 0.99):.2f})",
            statistics.median(lone_ms), 0.4, "0.4 ms",
        ),
        Figure("a lone miss, as its caller sees it, median", f"{statistics.median(whole_ms):.2f} ms"),
    ]  # fmt: skip
    return Measured(figures, {**numbers, "lone_overhead_ms": lone_ms})


def _on(
    name: str, model: Path, rounds: int, seconds: float, litestar_us: float, wanted_per_s: float
) -> tuple[list[Figure], dict[str, list[float]]]:
    seeds = count(1)
    cost, rate, plain_cost, plain_rate, model_us, model_per_s = ([] for _ in range(6))
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Served({"MODEL_PATH": str(model)}))
        plain = stack.enter_context(yardstick("plain", model=model))
        for server in (ours, plain):
            closed(server, requests(next(seeds)), connections=CONNECTIONS, seconds=1.0)  # warm
        for _ in range(rounds):
            found = closed(ours, requests(next(seeds)), connections=CONNECTIONS, seconds=seconds)
            cost.append(found.cpu_us)
            rate.append(found.per_s)
            bare_model = json.loads(measured("alone", str(seconds), model=model))
            model_us.append(bare_model["cpu_us"])
            model_per_s.append(bare_model["per_s"])
            found = closed(plain, requests(next(seeds)), connections=CONNECTIONS, seconds=seconds)
            plain_cost.append(found.cpu_us)
            plain_rate.append(found.per_s)
    limits = [alone_us + 1.6 * litestar_us for alone_us in model_us]
    ratios = [ours_us / limit for ours_us, limit in zip(cost, limits, strict=True)]
    label = f"{name} model"
    figures = [
        Figure(f"{label}: CPU a query, tokenizers and ONNX Runtime alone", f"{spread(model_us)} µs"),
        Figure(f"{label}: CPU a unique query", f"{spread(cost)} µs"),
        at_most(
            f"{label}: that, against alone + 1.6 × the bare Litestar handler",
            spread(ratios, "{:.2f}"), statistics.median(ratios), 1.0, "1", ratio=True,
        ),
        at_least(
            f"{label}: unique queries a second, both CPUs, driver among them",
            spread(rate), statistics.median(rate), wanted_per_s, f"{wanted_per_s:.0f}",
        ),
        Figure(f"{label}: against the model alone, which serves nobody ({spread(model_per_s)}/s)",
               spread([a / b for a, b in zip(rate, model_per_s, strict=True)], "{:.2f}")),
        Figure(f"{label}: against a plain server, a run per request ({spread(plain_rate)}/s)",
               spread([a / b for a, b in zip(rate, plain_rate, strict=True)], "{:.2f}")),
    ]  # fmt: skip
    return figures, {
        "cpu_us": cost, "per_s": rate, "alone_us": model_us, "alone_per_s": model_per_s,
        "plain_us": plain_cost, "plain_per_s": plain_rate,
    }  # fmt: skip


def _lone() -> tuple[list[float], list[float]]:
    """Queries one at a time at an idle gateway: milliseconds outside the model, and in all; sorted."""
    outside, whole = [], []
    with Served() as ours, socket.create_connection(("127.0.0.1", ours.port)) as connection:
        for asked, _ in zip(requests(99), range(LONE + 50), strict=False):
            time.sleep(0.003)
            sent = time.perf_counter()
            connection.sendall(asked)
            head = connection.recv(65536).decode()
            took = (time.perf_counter() - sent) * 1000
            stages = dict(re.findall(r"(\w+);dur=([\d.]+)", head))
            total = re.search(r"x-router-latency: ([\d.]+)", head)
            assert total, head
            outside.append(float(total[1]) - float(stages["tokenize"]) - float(stages["infer"]))
            whole.append(took)
    return sorted(outside[50:]), sorted(whole[50:])
