"""Promises are judged by what the users saw, and only by that."""

import random
from pathlib import Path

import pytest

from lab.load.slo import Sample, Samples, curve, judge, percentile
from lab.metrics import Metrics
from lab.rows import Row


def seen(
    count: int,
    *,
    ms: float = 1.0,
    status: int = 200,
    cache: str = "miss",
    due_s: float = 0.0,
    late_ms: float = 0.0,
) -> Samples:
    return Samples([Sample(due_s, late_ms, ms, status, cache if status == 200 else "")] * count)


def verdicts(samples: Samples, **how: float | bool) -> dict[str, bool | None]:
    return {line.what: line.holds for line in judge(samples, **how)}  # type: ignore[arg-type]


def test_fast_hits_and_answers_without_a_fault_keep_every_promise() -> None:
    kept = verdicts(Samples(seen(500, cache="l1") + seen(500, ms=40)))

    assert kept == {
        "cache hits, P99": True,
        "all answers, P99": True,
        "availability": True,
        "errors": True,
        "refused (429)": True,
        "cache hit rate": None,
    }


def test_one_slow_hit_in_a_hundred_is_allowed() -> None:
    assert verdicts(Samples(seen(992, cache="l1") + seen(8, ms=50, cache="l1")))["cache hits, P99"]


def test_two_slow_hits_in_a_hundred_miss_the_promise() -> None:
    assert not verdicts(Samples(seen(98, cache="l1") + seen(2, ms=50, cache="l1")))["cache hits, P99"]


def test_a_slow_miss_does_not_count_against_the_hits() -> None:
    assert verdicts(Samples(seen(50, cache="l1") + seen(50, ms=99)))["cache hits, P99"]


def test_an_answer_from_redis_is_a_hit() -> None:
    assert verdicts(seen(100, ms=11, cache="l2"))["cache hits, P99"] is False


def test_a_hit_at_exactly_ten_milliseconds_misses_the_promise() -> None:
    assert verdicts(seen(100, ms=10.0, cache="l1"))["cache hits, P99"] is False


def test_without_a_hit_nothing_is_said_of_hits() -> None:
    assert verdicts(seen(100))["cache hits, P99"] is None


@pytest.mark.parametrize(("failed", "kept"), [(1, True), (2, False)])
def test_one_5xx_in_a_thousand_is_what_99_9_percent_allows(failed: int, kept: bool) -> None:
    samples = Samples(seen(1000 - failed) + seen(failed, status=503))

    assert verdicts(samples)["availability"] is kept


@pytest.mark.parametrize("status", [0, 400, 404, 429])
def test_only_a_5xx_counts_against_availability(status: int) -> None:
    assert verdicts(Samples(seen(90) + seen(10, status=status)))["availability"]


@pytest.mark.parametrize("status", [0, 400, 404, 500, 503, 504])
def test_whatever_is_neither_an_answer_nor_a_refusal_is_an_error(status: int) -> None:
    assert not verdicts(Samples(seen(99) + seen(1, status=status)))["errors"]


def test_a_refusal_is_no_error() -> None:
    assert verdicts(Samples(seen(99) + seen(1, status=429)))["errors"]


def test_refusals_over_one_percent_miss_where_the_load_was_bearable() -> None:
    assert not verdicts(Samples(seen(90) + seen(10, status=429)))["refused (429)"]


def test_refusals_are_only_told_where_the_load_was_meant_to_be_too_much() -> None:
    assert verdicts(Samples(seen(90) + seen(10, status=429)), refuses=True)["refused (429)"] is None


def test_the_latency_of_a_refusal_is_no_answers_latency() -> None:
    assert verdicts(Samples(seen(50) + seen(50, ms=500, status=429)))["all answers, P99"]


def test_double_the_limit_passes_with_a_tolerance_of_two() -> None:
    slow = seen(100, ms=19, cache="l1")

    assert verdicts(slow)["cache hits, P99"] is False
    assert verdicts(slow, tolerance=2.0)["cache hits, P99"]


def test_a_tolerance_of_two_allows_two_5xx_in_a_thousand() -> None:
    assert verdicts(Samples(seen(998) + seen(2, status=500)), tolerance=2.0)["availability"]


def test_without_a_sample_nothing_is_promised_or_broken() -> None:
    assert set(verdicts(Samples()).values()) == {None}


def test_what_the_gateway_says_decides_nothing() -> None:
    slow_there = Metrics.read([exposition(hit_counts=(0, 0, 100))])

    lines = judge(seen(100, cache="l1"), slow_there)

    assert line(lines, "cache hits, P99").holds
    assert line(lines, "cache hits, P99").also == "10.0 ms"


def test_the_gateways_own_share_of_errors_leaves_out_refusals() -> None:
    metrics = Metrics.read([exposition()])

    told = {line.what: line.also for line in judge(seen(1), metrics)}

    assert told["availability"] == "99.000%"  # one 503 of a hundred
    assert told["errors"] == "2.000%"  # and one 400
    assert told["refused (429)"] == "3.00%"
    assert told["cache hit rate"] == "60.0%"


def test_the_metrics_of_several_gateways_are_added() -> None:
    metrics = Metrics.read([exposition(), exposition()])

    assert metrics.total("query_gateway_requests_total") == 200


def test_what_was_counted_before_the_load_is_left_out() -> None:
    before, after = Metrics.read([exposition()]), Metrics.read([exposition(), exposition()])

    assert after.since(before).total("query_gateway_requests_total") == 100


def test_a_quantile_lies_within_its_bucket_as_prometheus_reckons() -> None:
    metrics = Metrics.read([exposition(hit_counts=(50, 100, 100))])

    # 99 of 100: 49 of the 50 between 5 and 10 ms
    assert metrics.quantile_ms("query_gateway_cache_hit_latency_seconds", 0.99) == pytest.approx(9.9)


def test_a_histogram_without_a_count_has_no_quantile() -> None:
    metrics = Metrics.read([exposition(hit_counts=(0, 0, 0))])

    assert metrics.quantile_ms("query_gateway_cache_hit_latency_seconds", 0.99) is None


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 1000])
def test_a_percentile_is_a_value_that_was_seen(count: int) -> None:
    values = [random.Random(count).random() for _ in range(count)]

    assert percentile(values, 0.99) in values


def test_every_query_is_in_one_slice_of_the_curve() -> None:
    samples = Samples(one for n in range(60) for one in seen(1, due_s=n / 2))

    slices = curve(samples, seconds=30)

    assert [begin_s for begin_s, _ in slices] == [3.0 * n for n in range(10)]
    assert [len(part) for _, part in slices] == [6] * 10


def test_samples_come_back_as_they_were_saved(tmp_path: Path) -> None:
    samples = Samples(seen(3, cache="l2") + seen(1, status=0))

    samples.save(tmp_path / "samples.json")

    assert Samples.load(tmp_path / "samples.json") == samples


def line(lines: list[Row], what: str) -> Row:
    return next(line for line in lines if line.what == what)


def exposition(*, hit_counts: tuple[int, int, int] = (60, 60, 60)) -> str:
    """A gateway that answered 95 of a hundred; its hits' cumulative counts at 5 ms, 10 ms and all."""
    name = "query_gateway_cache_hit_latency_seconds_bucket"
    edges = zip(("0.005", "0.01", "+Inf"), hit_counts, strict=True)
    return "\n".join(
        [
            "# TYPE query_gateway_requests counter",
            'query_gateway_requests_total{code="200",error_type="",status="success"} 95.0',
            'query_gateway_requests_total{code="503",error_type="ModelNotReady",status="error"} 1.0',
            'query_gateway_requests_total{code="400",error_type="ValidationError",status="error"} 1.0',
            'query_gateway_requests_total{code="429",error_type="Overloaded",status="error"} 3.0',
            'query_gateway_cache_hits_total{level="L1"} 60.0',
            "query_gateway_cache_misses_total 40.0",
            *(f'{name}{{le="{edge}"}} {count}' for edge, count in edges),
        ]
    )
