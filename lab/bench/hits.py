"""What a cached answer costs, against servers that do next to nothing."""

import contextlib
import statistics

from lab.bench.figures import Figure, Measured, at_most, spread
from lab.bench.processes import bare, closed, gateway, known, pinned_apart

CONNECTIONS = 32


def measure(rounds: int, seconds: float) -> Measured:
    """CPU a request on one CPU, the driver on the other; the three servers in turns."""
    with pinned_apart() as cpu, contextlib.ExitStack() as stack:
        servers = {
            "gateway": stack.enter_context(gateway(cpu)),
            "litestar": stack.enter_context(bare("litestar", cpu)),
            "granian": stack.enter_context(bare("granian", cpu)),
        }
        cost: dict[str, list[float]] = {name: [] for name in servers}
        rate: dict[str, list[float]] = {name: [] for name in servers}
        for server in servers.values():
            closed(server, known(), connections=CONNECTIONS, seconds=0.5)  # warm
        for _ in range(rounds):
            for name, server in servers.items():
                per_s, cpu_us, _ = closed(server, known(), connections=CONNECTIONS, seconds=seconds)
                cost[name].append(cpu_us)
                rate[name].append(per_s)
    ratios = [ours / theirs for ours, theirs in zip(cost["gateway"], cost["litestar"], strict=True)]
    rates = [ours / theirs for ours, theirs in zip(rate["gateway"], rate["litestar"], strict=True)]
    ratio = statistics.median(ratios)
    return Measured(
        [
            Figure("CPU of a bare Granian ASGI answer", f"{spread(cost['granian'])} µs"),
            Figure("CPU of a bare Litestar answer", f"{spread(cost['litestar'])} µs"),
            Figure("CPU of a hit", f"{spread(cost['gateway'])} µs"),
            at_most(
                "CPU of a hit against the bare Litestar handler",
                spread(ratios, "{:.2f}"),
                ratio,
                1.35,
                "1.35",
                ratio=True,
            ),
            Figure("hits a second on one CPU", spread(rate["gateway"])),
            Figure("that rate against the bare Litestar handler's", spread(rates, "{:.2f}")),
        ],
        {"cpu_us": cost, "per_s": rate, "ratio": ratios},
    )
