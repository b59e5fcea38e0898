"""What other people's wires cost over the native one, and what the native one pays for them: hits, JSON, unpacked."""

import contextlib
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from lab.drive import CLASSIFY, post
from lab.launch import Served, Server, apart
from lab.measure import closed
from lab.rows import Row, at_most, spread

TEXT = "summarize what is asked again and again in one short line"
CHOICE = {"type": "choice", "choices": [{"value": "fast"}, {"value": "slow"}]}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
ASKED: dict[str, tuple[str, Any]] = {
    "systemone": (
        "/v1/systemone",
        {
            "model": "router",
            "state": TEXT,
            "questions": {"tier": {"type": "choice", "criteria": {"fast": None, "slow": None}}},
        },
    ),
    "decisions": ("/v1/decisions", {"model": "router", "input": TEXT, "questions": [CHOICE]}),
    "predict": ("/predict", {"inputs": TEXT}),
    "huggingface": ("/models/router", {"inputs": TEXT}),
    "classify": ("/classify", {"inputs": TEXT}),
    "v2": ("/v2/models/router/infer", {"inputs": [TENSOR]}),
    "route": (
        "/v1/route/v1/chat/completions",
        {"model": "auto", "messages": [{"role": "user", "content": TEXT}]},
    ),
}
NATIVE = post(CLASSIFY, {"text": TEXT})
ADDED_MAX_US = 60
NOTHING = 1.02


def measure(rounds: int, seconds: float) -> list[Row]:
    """CPU a hit on one CPU, the driver on the other; everything in turns."""
    with apart() as cpus:
        one_cpu = cpus.gateway[:1]
        return [*_adapters(rounds, seconds, one_cpu), *_native(4 * rounds, seconds, one_cpu)]


def _adapters(rounds: int, seconds: float, one_cpu: Sequence[int]) -> list[Row]:
    sent = {"native": NATIVE} | {name: post(path, body) for name, (path, body) in ASKED.items()}
    cost: dict[str, list[float]] = {name: [] for name in sent}
    with Served(cpus=one_cpu) as server:
        for body in sent.values():
            _us(server, body, 0.2)  # warm
        for _ in range(rounds):
            for name, body in sent.items():
                cost[name].append(_us(server, body, seconds))
    rows = [Row("CPU of a hit on the native path", f"{spread(cost['native'])} µs")]
    for name in ASKED:
        added = [there - native for there, native in zip(cost[name], cost["native"], strict=True)]
        rows.append(
            at_most(
                f"CPU that `{name}` adds to it",
                f"{spread(added)} µs",
                statistics.median(added),
                ADDED_MAX_US,
                f"{ADDED_MAX_US} µs",
            )
        )
    return rows


def _native(rounds: int, seconds: float, one_cpu: Sequence[int]) -> list[Row]:
    """With all wires on and with none, in pairs whose order changes."""
    ratios: list[float] = []
    with contextlib.ExitStack() as stack:
        servers = {
            wires: stack.enter_context(Served({"WIRES": wires}, cpus=one_cpu)) for wires in ("all", "none")
        }
        for server in servers.values():
            _us(server, NATIVE, 0.5)  # warm
        for turn in range(rounds):
            order = ("all", "none") if turn % 2 else ("none", "all")
            us = {wires: _us(servers[wires], NATIVE, seconds) for wires in order}
            ratios.append(us["all"] / us["none"])
    return [
        at_most(
            "CPU of a native hit with all wires on, against none",
            spread(ratios, "{:.3f}"),
            statistics.median(ratios),
            NOTHING,
            f"{NOTHING:g}",
            ratio=True,
        )
    ]


def _us(server: Server, body: bytes, seconds: float) -> float:
    return closed(server, itertools.repeat(body), seconds=seconds).cpu_us
