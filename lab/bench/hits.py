"""What a cached answer costs, against servers that do next to nothing."""

import contextlib
import statistics

from lab.bench.processes import yardstick
from lab.launch import Served, apart
from lab.measure import closed, known
from lab.rows import Row, at_most, spread


def measure(rounds: int, seconds: float) -> list[Row]:
    """CPU a request on one CPU, the driver on the other; the three servers in turns."""
    with apart() as cpus, contextlib.ExitStack() as stack:
        one = cpus.gateway[:1]
        servers = {
            "gateway": stack.enter_context(Served(cpus=one)),
            "litestar": stack.enter_context(yardstick("litestar", one)),
            "granian": stack.enter_context(yardstick("granian", one)),
        }
        cost: dict[str, list[float]] = {name: [] for name in servers}
        rate: dict[str, list[float]] = {name: [] for name in servers}
        for server in servers.values():
            closed(server, known(), seconds=0.5)  # warm
        for _ in range(rounds):
            for name, server in servers.items():
                found = closed(server, known(), seconds=seconds)
                cost[name].append(found.cpu_us)
                rate[name].append(found.per_s)
    ratios = [ours / theirs for ours, theirs in zip(cost["gateway"], cost["litestar"], strict=True)]
    rates = [ours / theirs for ours, theirs in zip(rate["gateway"], rate["litestar"], strict=True)]
    ratio = statistics.median(ratios)
    return [
        Row("CPU of a bare Granian ASGI answer", f"{spread(cost['granian'])} µs"),
        Row("CPU of a bare Litestar answer", f"{spread(cost['litestar'])} µs"),
        Row("CPU of a hit", f"{spread(cost['gateway'])} µs"),
        at_most(
            "CPU of a hit against the bare Litestar handler",
            spread(ratios, "{:.2f}"),
            ratio,
            1.35,
            "1.35",
            ratio=True,
        ),
        Row("hits a second on one CPU", spread(rate["gateway"])),
        Row("that rate against the bare Litestar handler's", spread(rates, "{:.2f}")),
    ]
