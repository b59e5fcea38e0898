"""Metrics that the runbook's queries find, and log lines that never hold a query."""

import asyncio
import gc
import io
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from handler.model import load
from handler.server import Process
from handler.settings import Settings
from handler.telemetry import ERROR_LINES_PER_S, STAGES, ForeignLines, Log, Telemetry
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


@dataclass
class Clock:
    """A time that passes when a test says so: 2023-11-14T22:13:20Z at first."""

    s: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.s


class Pages(io.StringIO):
    """A log stream that a test can read back, line by line."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(pages: Pages, clock: Clock) -> Log:
    return Log(pages, now=clock)


def busy_telemetry() -> Telemetry:
    """One of everything has happened."""
    telemetry = Telemetry(Log(io.StringIO()))
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
def wired(tmp_path: Path) -> Process:
    """A process as the server puts it together, with no model to be found."""
    return Process(Settings(model_path=str(tmp_path / "nothing")), Log(io.StringIO()))


@pytest.mark.parametrize("name", COUNTERS)
def test_a_scrape_has_every_counter_of_the_contract(name: str, wired: Process) -> None:
    text, _ = wired.telemetry.scrape("")

    assert f"# TYPE {PREFIX}{name} counter\n" in text.decode()


@pytest.mark.parametrize("name", GAUGES)
def test_a_scrape_has_every_gauge_of_the_contract(name: str, wired: Process) -> None:
    text, _ = wired.telemetry.scrape("")

    assert f"# TYPE {PREFIX}{name} gauge\n" in text.decode()


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_scrape_has_every_histogram_of_the_contract(name: str, wired: Process) -> None:
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
    name: str, labels: dict[str, str], wired: Process
) -> None:
    assert value(wired.telemetry, name, **labels) == 0


def test_without_redis_there_is_no_series_about_it(wired: Process) -> None:
    text, _ = wired.telemetry.scrape("")

    assert b"l2_healthy" not in text
    assert b'level="L2"' not in text


@pytest.mark.parametrize("mix", [{}, {"coding": 0.75, "closed_qa": 0.25}])
def test_the_training_shares_are_those_that_the_loaded_model_says(
    mix: dict[str, float], wired: Process, tmp_path: Path
) -> None:
    wired.shelf.place(load(make_toy(tmp_path / "toy", training_mix=mix)))

    shares = families(wired.telemetry).get(PREFIX + "training_share")

    assert {sample.labels["task"]: sample.value for sample in shares.samples} == mix if shares else not mix


def test_without_a_model_there_are_no_training_shares(wired: Process) -> None:
    assert PREFIX + "training_share" not in families(wired.telemetry)


def test_an_error_is_counted_by_its_type_and_code() -> None:
    telemetry = Telemetry(Log(io.StringIO()))

    telemetry.failed("Overloaded", 429)

    assert value(telemetry, "requests_total", status="error", error_type="Overloaded", code="429") == 1


def test_an_answer_is_counted_by_its_label_and_task() -> None:
    telemetry = Telemetry(Log(io.StringIO()))

    telemetry.answered("0", "closed_qa", 0.9)
    telemetry.answered("0", "closed_qa", 0.8)

    assert value(telemetry, "classifications_total", label="0", task="closed_qa") == 2
    assert value(telemetry, "confidence_count") == 2


def test_only_a_hit_counts_towards_the_latency_of_hits() -> None:
    telemetry = Telemetry(Log(io.StringIO()))

    telemetry.succeeded(0.004, [], hit=False)
    telemetry.succeeded(0.001, [], hit=True)

    assert value(telemetry, "cache_hit_latency_seconds_sum") == 0.001


def test_a_batch_is_counted_by_its_size_and_every_wait_in_it() -> None:
    telemetry = Telemetry(Log(io.StringIO()))

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
    telemetry = Telemetry(Log(io.StringIO()))

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
    telemetry = Telemetry(Log(io.StringIO()))
    queue: list[int] = []
    telemetry.gauge("batch_queue_size", "Queries that wait for a lane.", lambda: len(queue))

    queue += [1, 2, 3]

    assert value(telemetry, "batch_queue_size") == 3


def test_every_metric_of_ours_has_a_help_text(wired: Process) -> None:
    ours = [family for name, family in families(wired.telemetry).items() if name.startswith(PREFIX)]

    assert ours
    assert all(family.documentation for family in ours)


def test_two_gateways_in_one_process_do_not_share_their_counts() -> None:
    one, other = Telemetry(Log(io.StringIO())), Telemetry(Log(io.StringIO()))

    one.cache_miss()

    assert (value(one, "cache_misses_total"), value(other, "cache_misses_total")) == (1, 0)


# Log lines


def test_a_line_is_compact_json_with_its_time_level_and_event(log: Log, pages: Pages) -> None:
    log.info("started", port=8080)

    assert pages.getvalue() == (
        '{"timestamp":"2023-11-14T22:13:20.000Z","level":"info","event":"started","port":8080}\n'
    )


def test_an_error_line_holds_what_the_runbook_greps_for(log: Log, pages: Pages) -> None:
    log.error("request_failed", error_type="TimeoutError", request_id="r-1")

    assert '"level":"error"' in pages.getvalue()
    assert '"error_type":"TimeoutError"' in pages.getvalue()
    assert '"request_id":"r-1"' in pages.getvalue()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_whatever_a_fact_holds_an_event_is_one_line(text: str) -> None:
    pages = Pages()

    Log(pages).info("event", fact=text)

    assert pages.getvalue().count("\n") == 1
    assert msgspec.json.decode(pages.getvalue())["fact"] == text


def test_a_line_under_the_least_level_is_not_written(pages: Pages) -> None:
    log = Log(pages, level="WARNING")

    log.info("started")
    log.warning("odd")

    assert [line["event"] for line in pages.lines] == ["odd"]


def test_the_text_form_is_for_people(pages: Pages, clock: Clock) -> None:
    log = Log(pages, form="text", now=clock)

    log.warning("odd", port=8080, host="localhost")

    assert pages.getvalue() == "2023-11-14T22:13:20.000Z warning odd port=8080 host=localhost\n"


def test_a_bug_is_written_as_its_type_and_frames(log: Log, pages: Pages) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as bug:
        log.error("request_failed", error=bug)

    (line,) = pages.lines
    assert line["exception"] == "ValueError"
    assert "test_telemetry.py" in line["traceback"][0]


def test_a_bugs_message_is_not_written(log: Log, pages: Pages) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as bug:
        log.error("request_failed", error=bug)

    assert SECRET not in pages.getvalue()


def test_a_reader_that_has_gone_away_fails_nothing() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    Log(Closed()).info("started")


def test_equal_texts_have_one_fingerprint(log: Log) -> None:
    assert log.fingerprint("a query") == log.fingerprint("a query")
    assert log.fingerprint("a query") != log.fingerprint("another")


def test_another_processs_fingerprints_differ() -> None:
    one, other = Log(io.StringIO()), Log(io.StringIO())

    assert one.fingerprint("a query") != other.fingerprint("a query")


# The limit on error lines


def test_a_flood_of_one_error_is_cut_to_so_many_lines_a_second(log: Log, pages: Pages) -> None:
    for _ in range(ERROR_LINES_PER_S + 500):
        log.error("request_failed", error_type="Overloaded")

    assert len(pages.lines) == ERROR_LINES_PER_S


def test_the_first_line_after_a_flood_says_how_many_were_held_back(
    log: Log, pages: Pages, clock: Clock
) -> None:
    for _ in range(ERROR_LINES_PER_S + 500):
        log.error("request_failed", error_type="Overloaded")

    clock.s += 1
    log.error("request_failed", error_type="Overloaded")
    log.error("request_failed", error_type="Overloaded")

    assert pages.lines[-2]["suppressed"] == 500
    assert "suppressed" not in pages.lines[-1]


def test_a_flood_of_one_error_holds_back_no_other(log: Log, pages: Pages) -> None:
    for _ in range(ERROR_LINES_PER_S + 1):
        log.error("request_failed", error_type="Overloaded")

    log.error("request_failed", error_type="MemoryError")

    assert pages.lines[-1]["error_type"] == "MemoryError"


def test_a_flood_holds_back_no_other_level(log: Log, pages: Pages) -> None:
    for _ in range(ERROR_LINES_PER_S + 1):
        log.error("request_failed", error_type="Overloaded")

    log.info("draining")

    assert pages.lines[-1]["event"] == "draining"


@given(st.lists(st.tuples(st.sampled_from(["Overloaded", "TimeoutError"]), st.floats(0, 0.2)), max_size=200))
def test_every_error_is_either_written_or_counted_as_held_back(errors: list[tuple[str, float]]) -> None:
    pages, clock = Pages(), Clock()
    log = Log(pages, now=clock)

    for error_type, passed_s in errors:
        clock.s += passed_s
        log.error("request_failed", error_type=error_type)
    clock.s += 1
    for error_type in ("Overloaded", "TimeoutError"):
        log.error("request_failed", error_type=error_type)

    assert sum(1 + line.get("suppressed", 0) for line in pages.lines) == len(errors) + 2


# Lines of libraries


@pytest.fixture
def foreign(log: Log) -> logging.Logger:
    """A library's logger whose lines become ours."""
    logger = logging.Logger("some.library")
    logger.addHandler(ForeignLines(log))
    return logger


def test_a_librarys_warning_becomes_a_line_of_ours(foreign: logging.Logger, pages: Pages) -> None:
    foreign.warning("connection lost")

    (line,) = pages.lines
    assert (line["level"], line["event"]) == ("warning", "library_warning")
    assert (line["logger"], line["message"]) == ("some.library", "connection lost")


def test_a_librarys_arguments_are_never_written(foreign: logging.Logger, pages: Pages) -> None:
    foreign.error("cannot parse %r from %s", SECRET, "10.0.0.1")

    assert pages.lines[0]["message"] == "cannot parse %r from %s"
    assert SECRET not in pages.getvalue()


def test_a_librarys_exception_is_written_without_its_message(foreign: logging.Logger, pages: Pages) -> None:
    try:
        raise KeyError(SECRET)
    except KeyError:
        foreign.exception("failed")

    (line,) = pages.lines
    assert (line["level"], line["exception"]) == ("error", "KeyError")
    assert SECRET not in pages.getvalue()


def test_what_the_event_loop_says_of_a_lost_task_holds_no_exceptions_message(
    foreign: logging.Logger, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise ValueError(SECRET)

    async def lose_a_task() -> None:
        task = asyncio.ensure_future(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    monkeypatch.setattr(asyncio.base_events, "logger", foreign)
    asyncio.run(lose_a_task())

    (line,) = pages.lines
    assert line["message"] == "Task exception was never retrieved"
    assert SECRET not in pages.getvalue()
