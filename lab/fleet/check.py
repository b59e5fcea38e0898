"""Whether the sums are right where they can be looked at: the real fleet, and the same fleet reckoned."""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lab.drive import Driver, percentile, poisson
from lab.fleet.autoscalers import Fixed
from lab.fleet.costs import PATIENT, Costs
from lab.fleet.fleet import Fleet
from lab.fleet.scenes import shares
from lab.fleet.simulation import Caches, Cpus, Detailed, Mix, Service, Shares, Timing, steady
from lab.fleet.traffic import KINDS, flowing, zipf, zipf_requests
from lab.launch import MODEL, cpus
from lab.redis_server import RedisServer
from lab.rows import Row, at_most

OFF_MAX = 0.15
CALLERS = 32
QUERIES = 6000
# Of what callers who wait get out of the machine: independent callers cost more CPU each.
LOAD = 0.3
PER_S_MAX = 600.0


def compare(costs: Costs, seconds: float) -> list[Row]:
    """Three gateways on this machine, seen and reckoned, from what one gateway was measured to cost."""
    with tempfile.TemporaryDirectory(prefix="check-") as name:
        folder = Path(name)
        with (
            _redis(folder) as shared,
            Fleet(folder, MODEL, redis_url=shared.url, settings=PATIENT) as fleet,
        ):
            members = [member.served for member in fleet.members]
            began_s, began = time.perf_counter(), _spent(fleet, shared)
            with Driver(fleet.port) as driver:
                some = itertools.islice(zipf_requests(1, crowd=2), QUERIES)
                waiting = driver.closed(some, connections=CALLERS)
            took_s = time.perf_counter() - began_s
            of_gateways, of_others = (b - a for a, b in zip(began, _spent(fleet, shared), strict=True))
            per_s = min(PER_S_MAX, round(LOAD * waiting.goodput, -1))
            before, spent = fleet.counted(), sum(member.cpu_s for member in members)
            with flowing(fleet.port, per_s, seed=2) as seen:
                time.sleep(seconds)
            spent = sum(member.cpu_s for member in members) - spent
            l1, l2, model = shares(fleet.counted().since(before))
    asked = seen.outcome.offered
    came = itertools.islice(poisson(per_s, 2), asked)
    reckoned = _world(costs, seconds, asked=came).run(ready=3)
    count = len({*cpus().gateway, *cpus().driver})
    ours = min(1.0, (of_gateways + of_others) / took_s / count)
    world = _world(costs, 3600.0, callers=CALLERS, ours=ours)
    closed = world.run(ready=3)
    answered = waiting.codes[200]
    got = {level: len(reckoned.of(level)) for level in ("l1", "l2", "model")}
    every = sum(got.values())
    hits, misses = (sorted(took) for took in (seen.outcome.hits_s, seen.outcome.misses_s))
    return [
        Row("asked", f"{per_s:.0f}/s for {seconds:g} s, open arrivals, nothing cached; {KINDS:,} queries, the r-th as often as 1/r"),
        _beside("answered by L1", l1 / asked, got["l1"] / every, "{:.1%}"),
        _beside("answered by Redis", l2 / asked, got["l2"] / every, "{:.1%}"),
        _beside("answered by the model", model / asked, got["model"] / every, "{:.1%}"),
        _beside("CPU of the gateways a query", spent / asked * 1e3, reckoned.cpu_s / every * 1e3, "{:.3f} ms"),
        _beside(f"CPU of the gateways a query, {CALLERS} callers who wait", of_gateways / answered * 1e3, closed.cpu_s / closed.offered * 1e3, "{:.3f} ms"),
        Row("CPUs that the fleet, its driver and Redis had then", f"{ours * count:.2f} of {count}"),
        _beside(f"queries a second, {CALLERS} callers who wait", waiting.goodput, closed.offered / world.ended_s, "{:.0f}"),
        _beside("P50 of hits, L1's and Redis's", 1e3 * percentile(hits, 0.5), 1e3 * percentile(reckoned.of("l1", "l2"), 0.5), "{:.2f} ms", judged=False),
        _beside("P50 of misses", 1e3 * percentile(misses, 0.5), 1e3 * percentile(reckoned.of("model"), 0.5), "{:.2f} ms", judged=False),
        _beside("P50 of all", seen.ms(0.5), reckoned.ms(0.5), "{:.2f} ms", judged=False),
        _beside("P99 of all", seen.ms(0.99), reckoned.ms(0.99), "{:.1f} ms", judged=False),
    ]  # fmt: skip


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[RedisServer]:
    """One Redis, as the costs were measured with."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _spent(fleet: Fleet, shared: RedisServer) -> tuple[float, float]:
    """CPU seconds of the gateways, and of all the rest: HAProxy, Redis and this process."""
    gateways = sum(member.served.cpu_s for member in fleet.members)
    facts = shared.facts("cpu")
    of_redis = float(facts["used_cpu_user"] + facts["used_cpu_sys"])
    return gateways, fleet.proxy.cpu_s + of_redis + time.process_time()


def _world(
    costs: Costs,
    seconds: float,
    *,
    asked: "itertools.islice[float] | None" = None,
    callers: int = 0,
    ours: float = 1.0,
) -> Detailed:
    work = costs.closed if callers else costs.open
    service = Service(work, Mix([(work.misses_us[0][0], 1.0)]), Shares(0.0, 0.0, 1.0), costs.floor_s)
    beside_us = work.proxy_us + work.driver_us + costs.redis.hit_us
    return Detailed(
        service,
        Fixed(3),
        Timing(costs.cold_s, costs.drain_s),
        steady(0.0),
        seconds,
        caches=Caches(zipf(1 if callers else 2)),
        machine=Cpus(len({*cpus().gateway, *cpus().driver}), ours),
        beside_s=beside_us / 1e6,
        arrivals=asked,
        callers=callers,
        queries=QUERIES,
    )


def _beside(what: str, seen: float, reckoned: float, form: str, *, judged: bool = True) -> Row:
    off = abs(reckoned / seen - 1) if seen else float("inf")
    told = (
        f"{form.format(seen)}; reckoned {form.format(reckoned)}, {reckoned / seen - 1:+.0%}" if seen else "0"
    )
    if not judged:
        return Row(what, told)
    return at_most(what, told, off, OFF_MAX, "15% apart", ratio=True)
