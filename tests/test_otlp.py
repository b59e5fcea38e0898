"""What is sent by OTLP is what `/metrics` says, and a receiver that is away harms nothing."""

import asyncio
import io
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import msgspec
import pytest

from handler import otlp
from handler.log import Log
from handler.otel import Export, Signal
from handler.otlp import Exporter, PushFailed, Starts
from handler.settings import from_env
from handler.statistics import ShadowStatistics
from handler.telemetry import Telemetry
from handler.tracing import Tracer
from handler.wiring import assemble
from lab.metrics import Metrics
from lab.receiver import Point, Receiver
from tests.l2.certificates import certificates
from tests.test_telemetry import busy_telemetry

# Differ from one moment to the next.
ALIVE = re.compile(r"^(process|python_gc)_")


def export(url: str, **given: str) -> Export:
    found = from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": url, **given}).export
    assert found is not None
    return found


def push(url: str, telemetry: Telemetry, signal: Signal = "metrics", **given: str) -> None:
    """One push of everything measured, over HTTP."""
    wanted = export(url, **given)
    content = (otlp.resource(wanted), Starts(1), time.time_ns(), telemetry.families())
    target = wanted.target(signal)
    assert target is not None
    otlp._open(wanted, signal, target.timeout_s)(content)


def series(point: Point) -> dict[str, float]:
    """A point as Prometheus's text has it."""
    labels = [f'{name}="{value}"' for name, value in point.labels.items()]

    def named(suffix: str, *more: str) -> str:
        inside = ",".join(sorted([*labels, *more]))
        return f"{point.name}{suffix}{{{inside}}}" if inside else point.name + suffix

    if point.kind != "histogram":
        return {named(""): point.value}
    found = {named("_count"): point.value, named("_sum"): point.sum}
    total = 0
    for bound, count in zip([*point.bounds, float("inf")], point.buckets, strict=True):
        total += count
        edge = "+Inf" if bound == float("inf") else str(float(bound))
        found[named("_bucket", f'le="{edge}"')] = total
    return found


def full_telemetry(tmp_path: Path) -> Telemetry:
    """Every collector that there is, with Redis's and the exporter's own."""
    environ = {
        "MODEL_PATH": str(tmp_path),
        "REDIS_URL": "redis://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    return assemble(from_env(environ), Log(io.StringIO())).telemetry


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_a_receiver_stores_the_series_of_the_metrics_page_under_the_same_names(compression: str) -> None:
    telemetry = busy_telemetry()
    with Receiver() as receiver:
        push(receiver.url, telemetry, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
        received = {k: v for point in receiver.points() for k, v in series(point).items()}
    shown = {
        re.sub(r"{(.*)}", lambda found: "{" + ",".join(sorted(found[1].split(","))) + "}", name): value
        for name, value in Metrics.read([telemetry.scrape("")[0].decode()]).items()
    }

    assert {k for k in received if not ALIVE.match(k)} == {k for k in shown if not ALIVE.match(k)}
    assert all(received[name] == shown[name] for name in shown if not ALIVE.match(name))


async def test_no_name_changes_where_a_receiver_adds_suffixes(tmp_path: Path) -> None:
    telemetry = full_telemetry(tmp_path)
    with Receiver() as receiver:
        push(receiver.url, telemetry)
        points = receiver.points()

    assert {point.name for point in points} == {point.metric.name for point in points}
    assert {p.metric.unit for p in points if p.name.endswith(("_seconds", "_seconds_total"))} == {"s"}


def test_counters_and_histograms_count_from_the_start_on() -> None:
    with Receiver() as receiver:
        push(receiver.url, busy_telemetry())
        counted = [point for point in receiver.points() if point.kind != "gauge"]

    assert {point.start_ns for point in counted} == {1}
    assert {getattr(p.metric, p.kind).aggregation_temporality for p in counted} == {2}  # cumulative
    assert all(point.metric.sum.is_monotonic for point in counted if point.kind == "sum")


# When counts began: Prometheus sees no increase in a series' first point


class Pushing:
    """Pushes a telemetry to a receiver whenever it is told to, as one process would."""

    def __init__(self, receiver: Receiver, telemetry: Telemetry) -> None:
        wanted = export(receiver.url)
        self.receiver, self.telemetry = receiver, telemetry
        self.who, self.starts = otlp.resource(wanted), Starts(time.time_ns() - 10**9)
        self.send = otlp._open(wanted, "metrics", 5.0)

    def push(self) -> None:
        self.send((self.who, self.starts, time.time_ns(), self.telemetry.families()))

    def points(self, name: str, **labels: str) -> list[Point]:
        return [
            point
            for point in self.receiver.points()
            if point.name == name and labels.items() <= point.labels.items()
        ]


@pytest.mark.parametrize(
    "name",
    ["query_gateway_requests_total", "query_gateway_request_latency_seconds"],
    ids=["counter", "histogram"],
)
def test_what_was_counted_before_the_first_push_is_an_increase(name: str) -> None:
    with Receiver() as receiver:
        pushing = Pushing(receiver, Telemetry())
        for _ in range(5):
            pushing.telemetry.succeeded(0.001, (), hit=False)
        pushing.push()
        pushing.push()

        assert receiver.increase(name) == 5
        assert [point.value for point in pushing.points(name) if point.labels.get("status") != "error"] == [
            0,
            5,
            5,
        ]


def test_a_series_that_comes_later_begins_at_0_after_the_push_before_it() -> None:
    name = "query_gateway_classifications_total"
    with Receiver() as receiver:
        pushing = Pushing(receiver, Telemetry())
        pushing.push()
        before_ns = time.time_ns()
        pushing.telemetry.answered("0", "closed_qa", 0.9)
        pushing.push()
        began, counted = pushing.points(name)

        assert receiver.increase(name) == 1
    assert (began.value, counted.value) == (0, 1)
    assert began.start_ns == counted.start_ns < began.time_ns < counted.time_ns
    assert pushing.starts.of((name, (("label", "0"), ("task", "closed_qa"))), 1) < before_ns


def test_a_count_that_begins_anew_gets_a_start_of_its_own_and_a_point_at_0() -> None:
    name = "query_gateway_shadow_routes_total"
    telemetry = Telemetry()
    seen = ShadowStatistics(loaded=True, path="m", share=1.0, routes={("0", "0"): 5})
    telemetry.watch_shadow(lambda: seen)
    with Receiver() as receiver:
        pushing = Pushing(receiver, telemetry)
        pushing.push()
        seen = msgspec.structs.replace(seen, routes={("0", "0"): 2})
        pushing.push()
        points = pushing.points(name)

        assert receiver.increase(name) == 7
    assert [point.value for point in points] == [0, 5, 0, 2]
    assert points[1].time_ns < points[2].start_ns == points[3].start_ns < points[2].time_ns


def test_a_push_that_was_not_taken_begins_nothing() -> None:
    with Receiver() as receiver:
        pushing = Pushing(receiver, Telemetry())
        pushing.telemetry.succeeded(0.001, (), hit=False)
        receiver.status = 404
        with pytest.raises(PushFailed, match="HTTP 404"):
            pushing.push()
        receiver.status = 200
        pushing.push()

        assert receiver.increase("query_gateway_requests_total") == 1


def test_a_receiver_that_refuses_where_series_begin_gets_what_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Receiver() as receiver:
        pushing = Pushing(receiver, Telemetry())
        pushing.telemetry.succeeded(0.001, (), hit=False)
        taken = receiver._take

        def only_the_second(path: str, headers: dict[str, str], body: bytes) -> None:
            receiver.status = 200 if receiver.headers else 400
            taken(path, headers, body)

        monkeypatch.setattr(receiver, "_take", only_the_second)
        pushing.push()

        assert receiver.total("query_gateway_requests_total") == 1


def test_what_is_not_known_is_not_sent() -> None:
    telemetry = Telemetry()
    telemetry._gauge("unknown", "Not a number.").set(float("nan"))
    with Receiver() as receiver:
        push(receiver.url, telemetry)

        assert "query_gateway_unknown" not in {point.name for point in receiver.points()}


def test_a_process_tells_who_it_is_and_an_operator_has_the_last_word() -> None:
    with Receiver() as receiver:
        for _ in range(2):
            push(receiver.url, Telemetry(), OTEL_RESOURCE_ATTRIBUTES="service.version=mine,zone=a%20b")
        instances = {point.resource["service.instance.id"] for point in receiver.points()}
        resource = receiver.points()[0].resource

    assert resource["service.name"] == "query-gateway"
    assert (resource["service.version"], resource["zone"]) == ("mine", "a b")
    assert len(instances) == 2


def test_the_receivers_key_goes_along() -> None:
    with Receiver() as receiver:
        push(receiver.url, Telemetry(), OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20k")

        assert receiver.headers[0]["authorization"] == "Bearer k"


def test_a_receiver_is_trusted_by_the_authorities_that_an_operator_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())  # not meant for us, once we are told others
    made = certificates(tmp_path, "ours")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made["ca"]))
    tls.load_cert_chain(made["cert"], made["key"])
    tls.verify_mode = ssl.CERT_REQUIRED
    named = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(made["ca"]),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(made["cert"]),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(made["key"]),
        "OTEL_EXPORTER_OTLP_TIMEOUT": "500",
    }
    with Receiver(tls) as receiver:
        push(receiver.url, Telemetry(), "metrics", **named)
        with pytest.raises(PushFailed, match="SSLError"):
            push(receiver.url, Telemetry(), OTEL_EXPORTER_OTLP_TIMEOUT="500")

        assert receiver.pushes("metrics")


@pytest.mark.parametrize(("status", "told"), [(401, "HTTP 401"), (404, "HTTP 404"), (302, "HTTP 302")])
def test_a_push_that_is_refused_says_how(status: int, told: str) -> None:
    with Receiver() as receiver:
        receiver.status = status

        with pytest.raises(PushFailed, match=told):
            push(receiver.url, Telemetry())


def test_a_push_to_nobody_says_so() -> None:
    wanted = export("http://127.0.0.1:9")

    with pytest.raises(PushFailed, match="ConnectionError"):
        otlp._open(wanted, "metrics", 0.2)((otlp.resource(wanted), Starts(1), 2, []))


# The exporter's life, with a push that a test makes


class Pushes:
    """Counts pushes and does with each what it is told. They are made on threads, as real ones are."""

    def __init__(self) -> None:
        self.contents: list[Any] = []
        self.failure: Exception | None = None
        self.broken: Exception | None = None

    def __call__(self, export: Export, signal: Signal, timeout_s: float) -> Callable[[Any], None]:
        if self.broken:
            raise self.broken

        def push(content: Any) -> None:
            self.contents.append(content)
            if self.failure:
                raise self.failure

        return push


class Running:
    """An exporter that runs."""

    def __init__(self, pushes: Pushes, tracer: Tracer | None = None, **given: str) -> None:
        self.lines = io.StringIO()
        self.reads = 0
        if tracer is None:
            given["OTEL_TRACES_EXPORTER"] = "none"
        self.exporter = Exporter(
            export("http://u:swordfish@nowhere:4318", **given),
            Log(self.lines),
            families=self.families,
            tracer=tracer,
            opened=pushes,
        )

    def families(self) -> list[Any]:
        self.reads += 1
        return []

    async def __aenter__(self) -> "Running":
        await self.exporter.open()
        self.task = asyncio.create_task(self.exporter.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def outcomes(self, signal: Signal = "metrics") -> tuple[int, int]:
        pushes = self.exporter.statistics().pushes
        return pushes[signal, "success"], pushes[signal, "failed"]

    async def until(self, success: int, failed: int, signal: Signal = "metrics") -> None:
        """Wait until so many pushes have ended; they do so on threads."""
        async with asyncio.timeout(20):
            while self.outcomes(signal) < (success, failed):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_metrics_go_out_at_the_start_so_that_what_follows_is_an_increase() -> None:
    pushes = Pushes()
    async with Running(pushes) as running:
        await running.until(1, 0)

    assert len(pushes.contents) == 1


async def test_a_receiver_that_is_away_is_told_of_once_and_counted_each_time() -> None:
    pushes = Pushes()
    pushes.failure = PushFailed("ConnectionError")
    async with Running(pushes, OTEL_METRIC_EXPORT_INTERVAL="100") as running:
        await running.until(0, 3)
        healthy = running.exporter.statistics().healthy["metrics"]
        pushes.failure = None
        await running.until(1, 3)

    events = re.findall(r'"event":"(\w+)"', running.lines.getvalue())
    assert events == ["exporter_unreachable", "exporter_reachable"]
    assert not healthy
    assert running.exporter.statistics().healthy["metrics"]
    assert '"reason":"ConnectionError"' in running.lines.getvalue()
    assert "swordfish" not in running.lines.getvalue()


@pytest.mark.parametrize(
    "failure", [RuntimeError("swordfish"), MemoryError(), PushFailed("HTTP 500")], ids=repr
)
async def test_whatever_a_push_raises_the_exporter_goes_on(failure: Exception) -> None:
    pushes = Pushes()
    pushes.failure = failure
    async with Running(pushes, OTEL_METRIC_EXPORT_INTERVAL="100") as running:
        await running.until(0, 2)

        assert not running.task.done()
    assert "swordfish" not in running.lines.getvalue()


async def test_a_library_that_cannot_be_imported_is_told_of_and_ends_nothing() -> None:
    pushes = Pushes()
    pushes.broken = ImportError("no opentelemetry")
    async with Running(pushes) as running:
        await running.until(0, 1)
        await running.exporter.finish(1.0)

    assert '"reason":"ImportError"' in running.lines.getvalue()


async def test_a_bug_in_a_metric_is_told_of_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(Pushes(), OTEL_METRIC_EXPORT_INTERVAL="100")
    monkeypatch.setattr(running.exporter, "_families", lambda: 1 // 0)
    async with running:
        await running.until(0, 2)

        assert not running.task.done()


async def test_the_last_push_is_made_however_soon_the_end_comes() -> None:
    pushes = Pushes()
    running = Running(pushes)

    await running.exporter.finish(5.0)

    assert len(pushes.contents) == 1


async def test_spans_that_the_receiver_does_not_take_are_counted() -> None:
    pushes = Pushes()
    pushes.failure = PushFailed("HTTP 503")
    tracer = Tracer(share=1.0, follows=False, queue_max=2)
    async with Running(
        pushes, tracer, OTEL_METRICS_EXPORTER="none", OTEL_BSP_SCHEDULE_DELAY="100"
    ) as running:
        trace = tracer.begin(b"")
        assert trace is not None
        for _ in range(3):
            tracer.end(trace, "query", 0.001, attributes={})
        await running.until(0, 1, "traces")

    assert running.exporter.statistics().dropped == {"full": 1, "failed": 2}


async def test_while_no_query_is_traced_nothing_is_sent_but_metrics() -> None:
    pushes = Pushes()
    async with Running(
        pushes, Tracer(share=0.0, follows=True, queue_max=2), OTEL_BSP_SCHEDULE_DELAY="100"
    ) as running:
        await running.until(1, 0)
        await running.exporter.finish(1.0)

    assert running.outcomes("traces") == (0, 0)


async def test_exporters_own_counters_exist_at_0_from_the_start() -> None:
    telemetry = Telemetry()
    running = Running(Pushes(), Tracer(share=0.0, follows=True, queue_max=2))
    telemetry.watch_export(running.exporter.statistics)

    def count(name: str, **labels: str) -> float | None:
        return telemetry.registry.get_sample_value("query_gateway_otlp_" + name, labels)

    assert count("healthy", signal="metrics") == 1
    assert count("pushes_total", signal="traces", outcome="failed") == 0
    assert count("dropped_traces_total", reason="full") == 0
