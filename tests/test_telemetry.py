"""Metrics that the runbook's queries find."""

import io
import math
from pathlib import Path
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from handler.errors import ERRORS, CallerGone, GatewayError
from handler.log import Log
from handler.model import load
from handler.settings import WIRES, Settings, Wire
from handler.statistics import L1Statistics, L2Statistics, ShardStatistics
from handler.telemetry import STAGES, FallbackReason, Telemetry
from handler.wiring import Parts, assemble
from tests.models import make_toy

SECRET = "xyzzy-swordfish"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PREFIX = "query_gateway_"

# Section 4 of the contract: what the runbook's queries and the alerts are written with.
COUNTERS = ("requests_total", "cache_hits_total", "cache_misses_total", "classifications_total")
GAUGES = ("active_requests", "cache_size", "batch_queue_size", "model_loaded")
HISTOGRAMS = (
    "request_latency_seconds", "cache_hit_latency_seconds", "inference_batch_size",
    "inference_latency_seconds", "batch_wait_seconds", "confidence", "stage_seconds",
)  # fmt: skip


def busy_telemetry() -> Telemetry:
    """One of everything has happened."""
    telemetry = Telemetry()
    telemetry.cache_hit("L1")
    telemetry.cache_miss()
    telemetry.dropped("deadline")
    telemetry.batch(2, 0.003, [0.0, 0.001])
    telemetry.answered("0", "closed_qa", 0.9)
    telemetry.succeeded(
        0.004, [("l1", 0.0), ("queue", 0.0), ("tokenize", 0.0001), ("infer", 0.003)], hit=False
    )
    telemetry.succeeded(0.0001, [("l1", 0.00005)], hit=True)
    telemetry.failed("ValidationError", 400)
    return telemetry


def families(telemetry: Telemetry, accept: str = "") -> dict[str, Metric]:
    text, _ = telemetry.scrape(accept)
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(PREFIX + name, labels)


# Metrics


@pytest.fixture
def wired(tmp_path: Path) -> Parts:
    """A process as the server puts it together, with no model to be found."""
    return assemble(Settings(model_path=str(tmp_path / "nothing")), Log(io.StringIO()))


@pytest.mark.parametrize("name", COUNTERS)
def test_a_scrape_has_every_counter_of_the_contract(name: str, wired: Parts) -> None:
    text, _ = wired.telemetry.scrape("")

    assert f"# TYPE {PREFIX}{name} counter\n" in text.decode()


@pytest.mark.parametrize("name", GAUGES)
def test_a_scrape_has_every_gauge_of_the_contract(name: str, wired: Parts) -> None:
    text, _ = wired.telemetry.scrape("")

    assert f"# TYPE {PREFIX}{name} gauge\n" in text.decode()


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_scrape_has_every_histogram_of_the_contract(name: str, wired: Parts) -> None:
    text, _ = wired.telemetry.scrape("")

    assert f"# TYPE {PREFIX}{name} histogram\n" in text.decode()


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("requests_total", {"status": "success", "error_type": "", "code": "200"}),
        ("cache_hits_total", {"level": "L1"}),
        ("cache_misses_total", {}),
        ("cache_size", {"level": "L1"}),
        ("active_requests", {}),
        ("batch_queue_size", {}),
        ("model_loaded", {}),
        *[("stage_seconds_sum", {"stage": stage}) for stage in STAGES],
    ],
)
def test_a_series_stands_at_0_before_anything_has_happened(
    name: str, labels: dict[str, str], wired: Parts
) -> None:
    assert value(wired.telemetry, name, **labels) == 0


def test_without_redis_there_is_no_series_about_it(wired: Parts) -> None:
    text, _ = wired.telemetry.scrape("")

    assert b"l2_healthy" not in text
    assert b'level="L2"' not in text


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (0, 1), (2, 1)])
def test_the_shards_that_are_up_are_those_without_trouble(up: int, down: int) -> None:
    shards = [ShardStatistics("a:1", trouble, 0, {}) for trouble in [None] * up + ["refused"] * down]
    telemetry = Telemetry()
    telemetry.watch_l2(
        lambda: L2Statistics(
            "redis://a", None, 0, tuple(shards), {"reads": down, "writes": 0}, {}, {}, {}, {}
        )
    )

    assert value(telemetry, "l2_shards") == up + down
    assert value(telemetry, "l2_shards_up") == up
    assert value(telemetry, "l2_breaker_open", breaker="reads") == down


@pytest.mark.parametrize("mix", [{}, {"coding": 0.75, "closed_qa": 0.25}])
def test_the_training_shares_are_those_that_the_loaded_model_says(
    mix: dict[str, float], wired: Parts, tmp_path: Path
) -> None:
    wired.model.place(load(make_toy(tmp_path / "toy", training_mix=mix)))

    shares = families(wired.telemetry).get(PREFIX + "training_share")

    assert {sample.labels["task"]: sample.value for sample in shares.samples} == mix if shares else not mix


def test_without_a_model_there_are_no_training_shares(wired: Parts) -> None:
    assert PREFIX + "training_share" not in families(wired.telemetry)


def test_an_error_is_counted_by_its_type_and_code() -> None:
    telemetry = Telemetry()

    telemetry.failed("Overloaded", 429)

    assert value(telemetry, "requests_total", status="error", error_type="Overloaded", code="429") == 1


def test_an_answer_is_counted_by_its_label_and_task() -> None:
    telemetry = Telemetry()

    telemetry.answered("0", "closed_qa", 0.9)
    telemetry.answered("0", "closed_qa", 0.8)

    assert value(telemetry, "classifications_total", label="0", task="closed_qa") == 2
    assert value(telemetry, "confidence_count") == 2


def test_only_a_hit_counts_towards_the_latency_of_hits() -> None:
    telemetry = Telemetry()

    telemetry.succeeded(0.004, [], hit=False)
    telemetry.succeeded(0.001, [], hit=True)

    assert value(telemetry, "cache_hit_latency_seconds_sum") == 0.001


def test_a_batch_is_counted_by_its_size_and_every_wait_in_it() -> None:
    telemetry = Telemetry()

    telemetry.batch(3, 0.002, [0.1, 0.2, 0.3])

    assert value(telemetry, "inference_batch_size_sum") == 3
    assert value(telemetry, "inference_latency_seconds_sum") == 0.002
    assert value(telemetry, "batch_wait_seconds_count") == 3


@pytest.mark.parametrize("edge", ["0.01", "0.1"])
def test_the_objectives_times_are_edges_of_every_histogram_of_seconds(edge: str) -> None:
    histograms = [
        family
        for name, family in families(busy_telemetry()).items()
        if family.type == "histogram" and name.endswith("_seconds")
    ]

    assert len(histograms) == 5
    for family in histograms:
        edges = {sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")}
        assert edge in edges, family.name


def test_the_default_threshold_is_an_edge_of_the_confidence_histogram() -> None:
    edges = {sample.labels.get("le") for sample in families(busy_telemetry())[PREFIX + "confidence"].samples}

    assert "0.7" in edges


@st.composite
def answered_queries(draw: st.DrawFn) -> list[tuple[float, list[tuple[str, float]], bool]]:
    """Queries as (total, stages, hit), each total at least the sum of its stages."""
    queries = []
    for _ in range(draw(st.integers(1, 10))):
        hit = draw(st.booleans())
        stages = [(stage, draw(st.floats(0, 1))) for stage in (STAGES[:1] if hit else STAGES[:-1])]
        rest_s = draw(st.floats(0, 1))
        queries.append((sum(spent_s for _, spent_s in stages) + rest_s, stages, hit))
    return queries


@given(answered_queries())
def test_the_stages_sums_make_the_sum_of_the_latency(
    queries: list[tuple[float, list[tuple[str, float]], bool]],
) -> None:
    telemetry = Telemetry()

    for total_s, stages, hit in queries:
        telemetry.succeeded(total_s, stages, hit=hit)

    sums = [value(telemetry, "stage_seconds_sum", stage=stage) or 0.0 for stage in STAGES]
    latency_sum = value(telemetry, "request_latency_seconds_sum")
    assert latency_sum is not None
    assert math.isclose(math.fsum(sums), latency_sum, abs_tol=1e-9)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_scrape_has_no_series_of_creation_times(accept: str) -> None:
    text, _ = busy_telemetry().scrape(accept)

    assert b"_created" not in text


def test_a_scrape_is_prometheus_text_by_default() -> None:
    text, content_type = busy_telemetry().scrape("")

    assert content_type.startswith("text/plain; version=")
    assert not text.endswith(b"# EOF\n")


def test_a_scrape_is_openmetrics_when_asked_for() -> None:
    text, content_type = busy_telemetry().scrape(OPENMETRICS)

    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_a_gauge_is_read_when_it_is_scraped() -> None:
    telemetry = Telemetry()
    entries: list[int] = []
    telemetry.watch_l1(lambda: L1Statistics(size=len(entries), size_max=10))

    entries += [1, 2, 3]

    assert value(telemetry, "cache_size", level="L1") == 3


def test_every_metric_of_ours_has_a_help_text(wired: Parts) -> None:
    ours = [family for name, family in families(wired.telemetry).items() if name.startswith(PREFIX)]

    assert ours
    assert all(family.documentation for family in ours)


def test_two_gateways_in_one_process_do_not_share_their_counts() -> None:
    one, other = Telemetry(), Telemetry()

    one.cache_miss()

    assert (value(one, "cache_misses_total"), value(other, "cache_misses_total")) == (1, 0)


@pytest.mark.parametrize("code", [200, 504])
def test_a_deadline_that_a_caller_chose_is_counted_by_how_it_was_answered(code: Literal[200, 504]) -> None:
    telemetry = Telemetry()
    labels = {"code": str(code)}
    assert value(telemetry, "caller_deadlines_total", **labels) == 0

    telemetry.caller_deadline(code)

    assert value(telemetry, "caller_deadlines_total", **labels) == 1


def test_only_a_doubtful_answer_counts_as_sent_by_the_threshold() -> None:
    telemetry = Telemetry()

    telemetry.answered("0", "closed_qa", 0.9)
    telemetry.answered("1", "closed_qa", 0.6, doubtful=True)

    assert value(telemetry, "low_confidence_total") == 1


@pytest.mark.parametrize("error", [*ERRORS, CallerGone])
def test_every_kind_of_error_stands_at_0_before_its_first(error: type[GatewayError]) -> None:
    labels = {"status": "error", "error_type": error.error_type, "code": str(error.code)}

    assert value(Telemetry(), "requests_total", **labels) == 0


@pytest.mark.parametrize("wire", get_args(Wire))
@pytest.mark.parametrize("reason", get_args(FallbackReason))
def test_every_fallback_stands_at_0_before_its_first(wire: str, reason: str) -> None:
    assert value(Telemetry(), "fallbacks_total", wire=wire, reason=reason) == 0


@pytest.mark.parametrize("wire", get_args(Wire))
def test_the_queries_of_every_wire_stand_at_0_before_the_first(wire: str) -> None:
    assert value(Telemetry(), "queries_total", wire=wire) == 0


def test_every_wire_that_can_be_switched_is_one_that_queries_are_counted_by() -> None:
    assert set(get_args(Wire)) == {*WIRES, "native"}
