"""The sums past one machine: which knobs to set, what a million queries cost, and where Redis ends.

Everything follows from `measured.json`, the platforms' documented autoscalers and the assumptions
that stand here as constants; docs/scale.md shows them.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from handler.charts import Line, curve
from lab.fleet import hits
from lab.fleet.autoscalers import Autoscaler, CloudRun, Hpa, Knative
from lab.fleet.costs import Costs
from lab.fleet.hits import Caching, Crowd
from lab.fleet.simulation import (
    PROBE_S,
    Detailed,
    Fluid,
    Mix,
    Rate,
    Result,
    Service,
    Timing,
    burst,
    day,
)
from lab.launch import ROOT
from lab.rows import Row, at_most, holds

# Assumed: of queries so many are as long as the lengths that were measured, the shortest first.
LENGTHS = (0.5, 0.3, 0.15, 0.05)
# Assumed: half of all queries are asked again, of a million different ones.
CROWD = Crowd()
CACHING = Caching()
# Assumed: from wanting an instance to its process, where the image is there and there is room.
PLATFORM_S = {"Knative": 2.0, "Cloud Run": 1.0, "Kubernetes": 3.0}
# Assumed: a pod's lingering until its end is known everywhere (DRAIN_LINGER_MS of infra/kubernetes).
LINGER_S = 5.0
MEMORY_GIB = 0.5
# What the manifests give an instance at once (`just sizing` sets it).
CONCURRENCY = int(
    re.search(r"containerConcurrency: (\d+)", (ROOT / "infra/cloud-run/service.yaml").read_text())[1]  # type: ignore[index]
)
SPOT_SHARE = 0.1
ZONE_SHARE = 1 / 3
RATES = (1_000, 10_000, 100_000, 1_000_000)
DAY_S = 86_400.0
BURST_AT_S, BURST_S = 60.0, 240.0
GOOD_DAY = 0.999
# Grains are held against each other at what `Detailed` does in seconds.
GRAIN_PER_S, GRAIN_S = 200.0, 120.0


class Prices(NamedTuple):
    """US dollars, without taxes, free tiers and discounts.

    Cloud Run: https://cloud.google.com/run/pricing (tier 1). vCPU and memory by the hour: AWS Fargate, Linux on
    x86, us-east-1, https://aws.amazon.com/fargate/pricing/; its spot capacity is up to 70% cheaper.
    """

    run_vcpu_s: float = 0.000024
    run_gib_s: float = 0.0000025
    run_million: float = 0.40
    run_vcpu_s_always: float = 0.000018
    run_gib_s_always: float = 0.000002
    vcpu_h: float = 0.04048
    gib_h: float = 0.004445
    spot: float = 0.3

    def by_request(self, instance_s: float, queries: float) -> float:
        return instance_s * (self.run_vcpu_s + MEMORY_GIB * self.run_gib_s) + queries / 1e6 * self.run_million

    def by_instance(self, instance_s: float) -> float:
        return instance_s * (self.run_vcpu_s_always + MEMORY_GIB * self.run_gib_s_always)

    def by_hour(self, instance_s: float) -> float:
        return instance_s / 3600 * (self.vcpu_h + MEMORY_GIB * self.gib_h)


PRICES = Prices()


@dataclass(frozen=True)
class Sums:
    """All of it for one set of measured costs."""

    costs: Costs
    prices: Prices = PRICES
    crowd: Crowd = CROWD
    caching: Caching = CACHING

    @property
    def mix(self) -> Mix:
        tokens = [length for length, _ in self.costs.open.misses_us]
        return Mix(list(zip(tokens, LENGTHS, strict=True)))

    def service(self, per_s: float, instances: int | None = None) -> Service:
        """What a query costs where so many come; on as many instances as keep 60% busy, unless it is said."""
        count = instances or 1
        for _ in range(3):
            shares = hits.shares(self.crowd, self.caching, per_s, count)
            service = Service(self.costs.open, self.mix, shares, self.costs.floor_s)
            if instances is None:
                count = max(1, math.ceil(per_s * service.mean_s / 0.6))
        return service

    def needed(self, per_s: float, busy: float = 0.6) -> int:
        return max(1, math.ceil(per_s * self.service(per_s).mean_s / busy))

    def most(self, peak_per_s: float) -> int:
        return math.ceil(MOST * self.needed(peak_per_s))

    def timing(self, platform: str) -> Timing:
        linger_s = LINGER_S if platform == "Kubernetes" else 0.0
        return Timing(PLATFORM_S[platform] + self.costs.cold_s + PROBE_S, self.costs.drain_s + linger_s)

    def fluid(
        self,
        platform: str,
        scaler: Autoscaler,
        per_s: float,
        rate: Rate,
        seconds: float,
        *,
        step_s: float,
        lose: Sequence[tuple[float, float]] = (),
    ) -> Result:
        """`per_s` is what the caches and the beginning are reckoned for."""
        world = Fluid(self.service(per_s), scaler, self.timing(platform), rate, seconds, step_s=step_s)
        begin = max(scaler.minimum, self.needed(rate(0.0)))
        return world.run(ready=begin, lose=lose)

    def burst(self, platform: str, scaler: Autoscaler, per_s: float, **how: float) -> Result:
        """Ten times as much within ten seconds."""
        rate = burst(per_s, at_s=BURST_AT_S, **how)
        return self.fluid(platform, scaler, 3 * per_s, rate, BURST_S, step_s=0.1)

    def day(self, platform: str, scaler: Autoscaler, peak_per_s: float) -> Result:
        return self.fluid(platform, scaler, 0.65 * peak_per_s, day(peak_per_s), DAY_S, step_s=1.0)

    def cost(self, platform: str, result: Result) -> float:
        """Dollars a million queries."""
        if platform == "Cloud Run":
            total = self.prices.by_request(result.instance_s, result.offered)
        else:
            total = self.prices.by_hour(result.instance_s)
        return total / result.offered * 1e6


# What there is to turn. In each, a minimum as a share of what the peak needs stands apart.
KNOBS: dict[str, list[tuple[str, Callable[[int, int], Autoscaler]]]] = {
    "Knative": [
        (f"target {target:g} × 70% in flight", lambda minimum, maximum, target=target: Knative(minimum, maximum, CONCURRENCY, target))  # type: ignore[misc]
        for target in (0.5, 1, 2, 5, CONCURRENCY)
    ],
    "Cloud Run": [
        (f"CPU {cpu:.0%}, concurrency {most}", lambda minimum, maximum, cpu=cpu, most=most: CloudRun(minimum, maximum, concurrency=most, cpu_target=cpu))  # type: ignore[misc]
        for cpu, most in ((0.4, CONCURRENCY), (0.6, 10), (0.6, CONCURRENCY), (0.6, 2 * CONCURRENCY), (0.8, CONCURRENCY))
    ],
    "Kubernetes": [
        (f"CPU {cpu:.0%}", lambda minimum, maximum, cpu=cpu: Hpa(minimum, maximum, cpu_target=cpu))  # type: ignore[misc]
        for cpu in (0.4, 0.5, 0.6, 0.7, 0.8)
    ],
}  # fmt: skip
RECOMMENDED = {"Knative": 1, "Cloud Run": 2, "Kubernetes": 2}
MINIMA = (0.0, 0.1, 0.25, 0.5)


# A bound on what a backlog may start: so many times what the peak needs.
MOST = 2.0


def recommended(platform: str, minimum: int, maximum: int) -> Autoscaler:
    return KNOBS[platform][RECOMMENDED[platform]][1](minimum, maximum)


def grains(sums: Sums) -> list[Row]:
    """The two grains of the simulation on one burst."""
    rows = []
    for platform in PLATFORM_S:
        service = sums.service(3 * GRAIN_PER_S)
        timing = sums.timing(platform)
        rate = burst(GRAIN_PER_S, at_s=30.0)
        begin = max(2, sums.needed(GRAIN_PER_S))
        seen = [
            kind(
                service, recommended(platform, begin, sums.most(10 * GRAIN_PER_S)), timing, rate, GRAIN_S
            ).run(ready=begin)
            for kind in (Detailed, Fluid)
        ]
        one, other = (result.instance_s for result in seen)
        late = [1 - result.good for result in seen]
        rows += [
            at_most(
                f"{platform}: instance seconds of a burst, query by query and in steps",
                f"{one:.0f} and {other:.0f}",
                abs(other / one - 1),
                0.15,
                "15% apart",
                ratio=True,
            ),
            at_most(
                f"{platform}: queries that are not answered in time",
                f"{late[0]:.1%} and {late[1]:.1%}",
                abs(late[0] - late[1]),
                0.03,
                "3 points apart",
                ratio=True,
            ),
        ]
    return rows


def knobs(sums: Sums, peak_per_s: float = 10_000.0) -> dict[str, list[Row]]:
    """Each knob of each platform: what a burst does, and what a day costs."""
    found: dict[str, list[Row]] = {}
    for platform, choices in KNOBS.items():
        rows = []
        for place, (name, made) in enumerate(choices):
            fast = sums.burst(platform, made(0, sums.most(peak_per_s)), peak_per_s / 10)
            whole = sums.day(platform, made(0, sums.most(peak_per_s)), peak_per_s)
            chosen = ", **recommended**" if place == RECOMMENDED[platform] else ""
            rows.append(Row(f"{name}{chosen}", *_told(sums, platform, fast, whole)))
        name, made = choices[RECOMMENDED[platform]]
        for share in MINIMA[1:]:
            minimum = math.ceil(share * sums.needed(peak_per_s))
            fast = sums.burst(platform, made(minimum, sums.most(peak_per_s)), peak_per_s / 10)
            whole = sums.day(platform, made(minimum, sums.most(peak_per_s)), peak_per_s)
            rows.append(
                Row(
                    f"{name}, minimum {minimum} ({share:.0%} of what the peak needs)",
                    *_told(sums, platform, fast, whole),
                )
            )
        found[platform] = rows
    return found


def _told(sums: Sums, platform: str, fast: Result, whole: Result) -> tuple[str, str]:
    return (
        f"{1 - fast.good:.1%} not in time, {fast.bad_s():.0f} s under 99%, up to {fast.most} instances",
        f"{whole.good:.3%} in time, {whole.instance_s / DAY_S:.1f} instances, ${sums.cost(platform, whole):.2f}",
    )


def scales(sums: Sums) -> list[list[str]]:
    """From 1,000 to 1,000,000 queries a second at the peak of a day: a line a platform and rate."""
    lines = []
    for peak_per_s in RATES:
        for platform in PLATFORM_S:
            minimum = math.ceil(0.1 * sums.needed(peak_per_s))
            whole = sums.day(platform, recommended(platform, minimum, sums.most(peak_per_s)), peak_per_s)
            fast = sums.burst(
                platform, recommended(platform, minimum, sums.most(peak_per_s)), peak_per_s / 10
            )
            lost = [
                sums.fluid(
                    platform,
                    recommended(platform, minimum, sums.most(peak_per_s)),
                    peak_per_s,
                    lambda _, per_s=peak_per_s: per_s,  # type: ignore[misc]
                    BURST_S,
                    step_s=0.1,
                    lose=[(BURST_AT_S, share)],
                )
                for share in (SPOT_SHARE, ZONE_SHARE)
            ]
            if platform == "Cloud Run":
                by_instance = sums.prices.by_instance(whole.instance_s) / whole.offered * 1e6
                other = f" by request, {by_instance:.2f} by instance"
            else:
                other = f", {sums.prices.spot * sums.cost(platform, whole):.2f} on spot"
            lines.append(
                [
                    f"{peak_per_s:,}",
                    platform,
                    f"{whole.most:,}",
                    f"{whole.good:.3%}",
                    f"{sums.cost(platform, whole):.2f}{other}",
                    f"{whole.offered / 1e6 * sums.cost(platform, whole):,.0f}",
                    f"{1 - fast.good:.1%}, {fast.bad_s():.0f} s",
                    f"{lost[0].bad_s():.0f} s",
                    f"{lost[1].bad_s():.0f} s",
                ]
            )
    return lines


SCALE_HEAD = (
    "peak, queries/s", "platform", "instances at most", "in time, of a day", "$ a million queries", "$ a day",
    "burst ×10: not in time, seconds under 99%", "10% of spot lost: seconds under 99%", "a zone of three lost",
)  # fmt: skip


def of_redis(sums: Sums) -> list[list[str]]:
    """What Redis must do behind so many queries."""
    lines = []
    redis = sums.costs.redis
    for per_s in RATES:
        count = sums.needed(per_s)
        with_, without = (
            Service(sums.costs.open, sums.mix, hits.shares(sums.crowd, caching, per_s, count))
            for caching in (sums.caching, replace(sums.caching, shared=False))
        )
        shares = with_.shares
        looked, missed = per_s * (1 - shares.l1), per_s * shares.model
        cpus = (per_s * shares.l2 * redis.hit_us + missed * redis.miss_us) / 1e6
        bits = 8 * (per_s * shares.l2 * redis.hit_bytes + missed * redis.miss_bytes)
        kept = hits.entries(sums.crowd, sums.caching, per_s, count)
        alone_s = (1 - without.shares.l1) * (sums.costs.open.shared_us - sums.costs.open.hit_us) / 1e6
        saved = 1 - with_.mean_s / (without.mean_s - alone_s)
        lines.append(
            [
                f"{per_s:,}",
                f"{count:,}",
                f"{shares.l1:.0%} / {shares.l2:.0%} / {shares.model:.0%}",
                f"{looked:,.0f}",
                f"{cpus:.2g}",
                f"{max(1, math.ceil(cpus / REDIS_BUSY)):,}",
                f"{bits / 1e9:.2g}",
                f"{count * redis.connections:,}",
                f"{kept / 1e6:,.1f}",
                f"{kept * redis.entry_bytes / 2**30:,.1f}",
                f"{saved:+.0%}",
            ]
        )
    return lines


REDIS_BUSY = 0.6
REDIS_CONNECTIONS = 10_000  # its `maxclients` by default
REDIS_HEAD = (
    "queries/s", "instances", "L1 / Redis / model", "look-ups/s", "CPUs of Redis", "shards at 60%", "Gbit/s",
    "connections", "million entries", "GiB", "CPU of gateways that it saves",
)  # fmt: skip


def ends(sums: Sums) -> list[Row]:
    """At how many queries a second one Redis is at its end, by each of its limits."""
    redis = sums.costs.redis
    per = 100_000
    count = sums.needed(per)
    shares = hits.shares(sums.crowd, sums.caching, per, count)
    cpu_s = (shares.l2 * redis.hit_us + shares.model * redis.miss_us) / 1e6
    bits = 8 * (shares.l2 * redis.hit_bytes + shares.model * redis.miss_bytes)
    kept = hits.entries(sums.crowd, sums.caching, per, count) * redis.entry_bytes / per
    work = sums.costs.open
    pays = hits.pays_above(
        work.shared_us - work.hit_us, sum(s * work.miss_us(t) for t, s in sums.mix.lengths)
    )
    return [
        Row("its one thread, 60% busy", f"{REDIS_BUSY / cpu_s:,.0f} queries/s"),
        Row("a link of 10 Gbit/s", f"{1e10 / bits:,.0f} queries/s"),
        Row("64 GiB of memory", f"{64 * 2**30 / kept:,.0f} queries/s"),
        Row(
            f"{REDIS_CONNECTIONS:,} connections",
            f"{REDIS_CONNECTIONS / redis.connections * per / count:,.0f} queries/s "
            f"({redis.connections} connections a gateway)",
        ),
        holds(
            "the share of look-ups that must find something for Redis to save CPU",
            f"{pays:.0%}; here {shares.l2 / (1 - shares.l1):.0%} do",
            "more than must",
            shares.l2 / (1 - shares.l1) > pays,
        ),
    ]


def pictures(sums: Sums) -> dict[str, str]:
    """SVG by name: a burst, and a day."""
    peak = 10_000.0
    minimum = math.ceil(0.1 * sums.needed(peak))
    bursts = {
        name: sums.burst(name, recommended(name, minimum, sums.most(peak)), peak / 10) for name in PLATFORM_S
    }
    days = {name: sums.day(name, recommended(name, minimum, sums.most(peak)), peak) for name in PLATFORM_S}
    return {
        "scale-burst": curve(
            [_line(name, result, "in_time", 1.0, 1) for name, result in bursts.items()],
            title="1,000 queries a second become 10,000 within ten seconds: share answered in time",
            x_name="seconds",
            y_name="answered within 100 ms",
            x_percent=False,
        ),
        "scale-burst-instances": curve(
            [_line(name, result, "ready", 1.0, 1) for name, result in bursts.items()],
            title="Instances that are ready, in the same burst",
            x_name="seconds",
            y_name="instances",
            x_percent=False,
            y_percent=False,
        ),
        "scale-day": curve(
            [_line(name, result, "ready", 1 / 3600, 600) for name, result in days.items()],
            title="A day with 10,000 queries a second at its peak: instances that are ready",
            x_name="hour",
            y_name="instances",
            x_percent=False,
            y_percent=False,
        ),
    }


def _line(name: str, result: Result, what: str, scale: float, every: int) -> Line:
    samples = result.samples[::every]
    return Line(
        name,
        [sample.at_s * scale for sample in samples],
        [float(getattr(sample, what)) for sample in samples],
    )
