"""What a query costs that the model must answer, against the model alone."""

import json
import statistics
import tempfile
from itertools import count
from pathlib import Path

from lab.bench import reference
from lab.bench.processes import measured, yardstick
from lab.drive import requests
from lab.launch import MODEL, Served, apart
from lab.measure import closed, known
from lab.rows import Row, at_least, at_most, spread

CONNECTIONS = 128
# The best of five public servers of this kind, on a three-layer INT8 model and two CPUs like these
# (the sum is in docs/performance.md): unique queries a second.
PUBLIC_PER_S = 710


def measure(rounds: int, seconds: float) -> list[Row]:
    """The gateway and the model alone in turns, on all CPUs, the driver among them."""
    with apart() as cpus, yardstick("litestar", cpus.gateway[:1]) as bare:
        closed(bare, known(), seconds=0.5)  # warm
        litestar_us = closed(bare, known(), seconds=seconds).cpu_us
    with tempfile.TemporaryDirectory() as folder:
        own = reference.write(Path(folder) / "reference")
        return [
            *_on("shipped", MODEL, rounds, seconds, litestar_us, 3 * PUBLIC_PER_S),
            *_on("reference", own, rounds, seconds, litestar_us, 2 * PUBLIC_PER_S),
        ]


def _on(
    name: str, model: Path, rounds: int, seconds: float, litestar_us: float, wanted_per_s: float
) -> list[Row]:
    seeds = count(1)
    cost, rate, model_us, model_per_s = ([] for _ in range(4))
    with Served({"MODEL_PATH": str(model)}) as ours:
        closed(ours, requests(next(seeds)), connections=CONNECTIONS, seconds=1.0)  # warm
        for _ in range(rounds):
            found = closed(ours, requests(next(seeds)), connections=CONNECTIONS, seconds=seconds)
            cost.append(found.cpu_us)
            rate.append(found.per_s)
            alone = json.loads(measured("alone", str(seconds), model=model))
            model_us.append(alone["cpu_us"])
            model_per_s.append(alone["per_s"])
    limits = [alone_us + 1.6 * litestar_us for alone_us in model_us]
    ratios = [ours_us / limit for ours_us, limit in zip(cost, limits, strict=True)]
    label = f"{name} model"
    return [
        Row(f"{label}: CPU a query, tokenizers and ONNX Runtime alone", f"{spread(model_us)} µs"),
        Row(f"{label}: CPU a unique query", f"{spread(cost)} µs"),
        at_most(
            f"{label}: that, against alone + 1.6 × the bare Litestar handler",
            spread(ratios, "{:.2f}"), statistics.median(ratios), 1.0, "1", ratio=True,
        ),
        at_least(
            f"{label}: unique queries a second, both CPUs, driver among them",
            spread(rate), statistics.median(rate), wanted_per_s, f"{wanted_per_s:.0f}",
        ),
        Row(f"{label}: against the model alone, which serves nobody ({spread(model_per_s)}/s)",
            spread([a / b for a, b in zip(rate, model_per_s, strict=True)], "{:.2f}")),
    ]  # fmt: skip
