"""The laws of the simulation: what must hold of any fleet, and what theory says of simple ones."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from lab.drive import poisson
from lab.fleet import hits
from lab.fleet.autoscalers import Autoscaler, CloudRun, Fixed, Hpa, Knative, Load
from lab.fleet.costs import Costs, RedisWork, Work
from lab.fleet.hits import Caching, Crowd
from lab.fleet.simulation import (
    QUEUE_MIN,
    Caches,
    Detailed,
    Fluid,
    Mix,
    Result,
    Service,
    Shares,
    Timing,
    burst,
    day,
    steady,
)
from lab.fleet.sums import LENGTHS, PLATFORM_S, Sums, ends, of_redis
from lab.fleet.traffic import zipf

WORK = Work(
    hit_us=100, shared_us=200, misses_us=[(16, 1000), (40, 2000), (80, 4000), (140, 8000)], proxy_us=40, driver_us=40
)  # fmt: skip
TIMING = Timing(start_s=2.0, drain_s=1.0)
ALL_NEW = Service(WORK, Mix([(16, 1.0)]), Shares(0.0, 0.0, 1.0))
MIXED = Service(WORK, Mix([(16, 0.7), (80, 0.3)]), Shares(0.3, 0.2, 0.5))
REDIS = RedisWork(hit_us=10, miss_us=30, hit_bytes=400, miss_bytes=500, entry_bytes=500, connections=2)
COSTS = Costs("a machine", "2000-01-01", WORK, WORK, REDIS, 0.5, 0.5, 1.0, 160.0, 0.5, 1.5)
SCALERS: dict[str, Callable[[], Autoscaler]] = {
    "knative": lambda: Knative(2, 40, target=1.0),
    "cloud-run": lambda: CloudRun(2, 40),
    "hpa": lambda: Hpa(2, 40),
    "fixed": lambda: Fixed(2),
}


def ended(result: Result) -> float:
    return result.in_time + result.late + result.shed + result.lost


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("retries", [True, False])
def test_every_query_ends_once(scaler: str, retries: bool) -> None:
    world = Detailed(MIXED, SCALERS[scaler](), TIMING, burst(150, at_s=5.0), 20.0, retries=retries)

    result = world.run(ready=2, lose=[(12.0, 0.5)])

    assert result.offered > 10_000
    assert ended(result) == result.offered


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("retries", [True, False])
def test_every_amount_ends_once(scaler: str, retries: bool) -> None:
    world = Fluid(MIXED, SCALERS[scaler](), TIMING, burst(150, at_s=5.0), 20.0, retries=retries)

    result = world.run(ready=2, lose=[(12.0, 0.5)])

    assert ended(result) == pytest.approx(result.offered)


def test_one_seed_is_one_run() -> None:
    def run(seed: int) -> Result:
        return Detailed(MIXED, Knative(1, 20, target=1.0), TIMING, steady(300), 10.0, seed=seed).run(ready=1)

    assert run(1) == run(1)
    assert run(1).took_s != run(2).took_s


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_one_instance_waits_like_an_m_d_1_queue(busy: float) -> None:
    result = Detailed(ALL_NEW, Fixed(1), TIMING, steady(busy * 1000), 120.0, seed=3).run(ready=1)

    waited_s = sum(result.took_s) / len(result.took_s) - 0.001
    assert waited_s == pytest.approx(0.001 * busy / (2 * (1 - busy)), rel=0.1)


def test_the_cpu_of_a_run_is_that_of_its_queries() -> None:
    result = Detailed(MIXED, Fixed(4), TIMING, steady(500), 60.0, seed=1).run(ready=4)

    assert result.cpu_s / result.offered == pytest.approx(MIXED.mean_s, rel=0.03)


def test_callers_who_wait_get_what_the_lanes_do() -> None:
    result = Detailed(ALL_NEW, Fixed(3), TIMING, steady(0), 5.0, callers=32).run(ready=3)

    assert result.offered / 5.0 == pytest.approx(3000, rel=0.02)


def test_a_gateway_refuses_past_its_queue_when_nobody_holds_queries_back() -> None:
    flooded = Detailed(ALL_NEW, Fixed(1), TIMING, steady(3000), 5.0).run(ready=1)

    # A refusal takes a tenth of what an answer takes: a · 1 + (3 - a) · 0.1 = 1, of three.
    assert flooded.shed / flooded.offered == pytest.approx(1 - 0.7 / 0.9 / 3, abs=0.02)
    assert flooded.ms(1.0) < 1000 * 0.001 * (QUEUE_MIN + 20) + 1000


def test_a_platform_that_holds_queries_back_lets_no_gateway_refuse() -> None:
    held = Detailed(ALL_NEW, Knative(1, 1, concurrency=40), TIMING, steady(1500), 5.0).run(ready=1)

    assert held.shed == 0


def test_a_lost_instance_costs_only_what_it_was_doing() -> None:
    world = Detailed(ALL_NEW, Fixed(4), TIMING, steady(3900), 6.0, retries=False)

    result = world.run(ready=4, lose=[(3.0, 0.25)])

    assert 0 < result.lost <= QUEUE_MIN + 1


def test_what_a_lost_instance_was_doing_is_asked_again() -> None:
    world = Detailed(ALL_NEW, Fixed(4), TIMING, steady(3900), 6.0)

    result = world.run(ready=4, lose=[(3.0, 0.25)])

    assert result.lost == 0
    assert result.retried > 0


@pytest.mark.parametrize("name", ["knative", "cloud-run", "hpa"])
def test_a_burst_starts_instances_until_it_is_answered(name: str) -> None:
    result = Fluid(MIXED, SCALERS[name](), TIMING, burst(300, at_s=30.0), 240.0).run(ready=2)

    assert result.samples[-1].ready >= 3000 * MIXED.mean_s
    assert result.samples[-1].in_time > 0.99


def test_instances_are_paid_for_from_their_start_to_their_end() -> None:
    result = Fluid(MIXED, Fixed(3), TIMING, steady(100), 50.0).run(ready=3)

    assert result.instance_s == pytest.approx(150)


def test_a_day_has_its_peak_once() -> None:
    rate = day(1000)

    assert max(rate(60.0 * minute) for minute in range(1440)) == pytest.approx(1000)
    assert rate(4 * 3600.0) == pytest.approx(190)


# Autoscalers


def fed(
    scaler: Autoscaler, seconds: int, *, concurrency: float = 0.0, cpu: float = 0.0, since: int = 0
) -> None:
    for second in range(since + 1, since + seconds + 1):
        scaler.observe(Load(float(second), concurrency, cpu))


def test_knative_aims_at_its_share_of_the_target() -> None:
    scaler = Knative(target=10.0, utilization=0.7)
    fed(scaler, 60, concurrency=35.0)

    assert scaler.desired(60.0, 5, 0) == 5


def test_knative_panics_on_six_seconds_of_twice_the_target() -> None:
    scaler = Knative(target=10.0, utilization=0.7)
    fed(scaler, 54, concurrency=7.0)
    fed(scaler, 6, concurrency=140.0, since=54)

    assert scaler.desired(60.0, 1, 0) == 20


def test_knative_never_scales_down_while_it_panics() -> None:
    scaler = Knative(target=10.0, utilization=0.7)
    fed(scaler, 6, concurrency=140.0)
    scaler.desired(6.0, 1, 0)
    fed(scaler, 30, concurrency=0.7, since=6)

    assert scaler.desired(36.0, 20, 0) == 20


def test_knative_goes_to_zero_after_a_window_and_its_grace_without_queries() -> None:
    scaler = Knative()
    fed(scaler, 60)

    assert scaler.desired(60.0, 1, 0) == 1
    assert scaler.desired(91.0, 1, 0) == 0


def test_cloud_run_takes_the_greater_of_cpu_and_concurrency_over_a_minute() -> None:
    scaler = CloudRun(concurrency=40)
    fed(scaler, 60, cpu=3.0, concurrency=240.0)

    assert scaler.desired(60.0, 5, 0) == 10  # 240 / (40 × 0.6), more than 3 / 0.6


def test_cloud_run_starts_at_once_for_queries_that_wait_up_to_its_maximum() -> None:
    scaler = CloudRun(0, 5, concurrency=40)

    assert scaler.on_demand(100, 1, 1) == 2
    assert scaler.on_demand(1000, 1, 1) == 3


def test_the_hpa_leaves_a_tenth_alone() -> None:
    scaler = Hpa(cpu_target=0.6)
    fed(scaler, 30, cpu=10 * 0.6 * 1.09)

    assert scaler.desired(30.0, 10, 0) == 10


def test_the_hpa_at_most_doubles() -> None:
    scaler = Hpa(cpu_target=0.6)
    fed(scaler, 30, cpu=10.0)

    assert scaler.desired(30.0, 5, 0) == 10


def test_the_hpa_waits_five_minutes_before_it_takes_any_away() -> None:
    scaler = Hpa(2, 40, cpu_target=0.6)
    fed(scaler, 15, cpu=6.0)
    assert scaler.desired(15.0, 10, 0) == 10
    fed(scaler, 15, cpu=0.6, since=15)

    assert scaler.desired(30.0, 10, 0) == 10
    fed(scaler, 315, cpu=0.6, since=30)
    assert scaler.desired(345.0, 10, 0) == 2


# Caches


def test_the_shares_sum_to_one() -> None:
    assert sum(hits.shares(Crowd(), Caching(), 1000.0, 3)) == pytest.approx(1)


def test_without_redis_it_answers_nothing() -> None:
    assert hits.shares(Crowd(), Caching(shared=False), 1000.0, 3).l2 == pytest.approx(0)


@pytest.mark.parametrize("size", [300, 10_000])
def test_what_caches_answer_is_what_caches_that_are_asked_answer(size: int) -> None:
    per_s, seconds, kinds = 100.0, 400.0, 2000
    caches = Caches(zipf(5, kinds), size=size, ttl_s=60.0, shared_ttl_s=200.0)
    arrivals = itertools.takewhile(lambda at_s: at_s < seconds, poisson(per_s, 5))
    world = Detailed(ALL_NEW, Fixed(2), TIMING, steady(0), seconds, caches=caches, arrivals=arrivals)

    seen = Counter({level: len(took_s) for level, took_s in world.run(ready=2).by_level.items()})

    reckoned = hits.shares(Crowd(kinds, 1.0), Caching(size, 60.0, 200.0), per_s, 2)
    every = sum(seen.values())
    # It begins with nothing cached: 400 s of which the first are colder.
    assert seen["l1"] / every == pytest.approx(reckoned.l1, abs=0.04)
    assert seen["model"] / every == pytest.approx(reckoned.model, abs=0.04)


def test_more_instances_know_less_each() -> None:
    few, many = (hits.shares(Crowd(), Caching(), 10_000.0, count) for count in (2, 200))

    assert few.l1 > many.l1
    assert few.model == pytest.approx(many.model, abs=0.05)


# Sums


def test_a_misses_cost_lies_on_lines_between_what_was_measured() -> None:
    assert [WORK.miss_us(tokens) for tokens in (16, 28, 40, 140)] == [1000, 1500, 2000, 8000]


def test_the_lengths_that_are_assumed_are_all_queries() -> None:
    assert sum(LENGTHS) == pytest.approx(1)
    dice = random.Random(1)
    drawn = Counter(Sums(COSTS).mix.tokens(dice) for _ in range(20_000))
    assert drawn[16] / 20_000 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("platform", PLATFORM_S)
def test_a_million_queries_cost_more_where_fewer_are_answered_by_caches(platform: str) -> None:
    def cost(repeated: float) -> float:
        sums = Sums(COSTS, crowd=Crowd(repeated=repeated))
        count = sums.needed(1000.0)
        result = Fluid(sums.service(1000.0), Fixed(count), TIMING, steady(1000), 600.0).run(ready=count)
        return sums.cost(platform, result)

    assert cost(0.1) > cost(0.9) > 0


def test_redis_needs_ten_times_the_cpu_for_ten_times_the_queries() -> None:
    cpus = [float(line[4]) for line in of_redis(Sums(COSTS))]

    assert all(8 < more / less < 12 for less, more in itertools.pairwise(cpus))


def test_the_share_of_finds_under_which_redis_costs_more_than_it_saves_is_told() -> None:
    assert hits.pays_above(100, 1000) == pytest.approx(0.1)
    assert hits.pays_above(100, 0) == math.inf
    assert any(row.what.startswith("the share of look-ups") for row in ends(Sums(COSTS)))
