"""Metrics and traces sent by OTLP over HTTP: the only module that knows OpenTelemetry, imported only where it is on.

What is measured is read on the event loop, as for a scrape; encoding and sending go to threads that nobody
waits for. A receiver that is away costs a line in the log when that begins and when it ends. Read `Exporter.run`
first, then `Exporter.finish`.
"""

import asyncio
import logging
import random
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from handler import __version__, aside
from handler.log import Log
from handler.otel import SIGNALS, Export, Signal, Target
from handler.statistics import ExportOutcome, ExportStatistics
from handler.tracing import Span, Tracer

# A push that has not ended so long after its own time-out hangs: in a name server, say.
GRACE_S = 1.0
# Nor does an import take so long.
OPEN_S = 60.0
MILLISECOND_NS = 1_000_000

_opening = threading.Lock()

# What prometheus_client's collectors give: families of samples. Its home is `telemetry`.
Families = Iterable[Any]
# Sends what `_content` made of one signal. Blocks, and raises `PushFailed`.
Push = Callable[[Any], None]


class PushFailed(Exception):
    """The receiver did not take what was sent. The message says why, and holds no address."""


class Exporter:
    """Pushes what a process measures, until it ends. `run`, after `open`, must be kept running by the owner."""

    def __init__(
        self,
        export: Export,
        log: Log,
        *,
        families: Callable[[], Families],
        tracer: Tracer | None,
        opened: Callable[[Export, Signal, float], Push] | None = None,
    ) -> None:
        """
        families  everything measured, read when it is called, on the event loop
        tracer    holds the spans; None: no traces are sent
        opened    opens a push of one signal, with its time-out in seconds; imports OpenTelemetry
        """
        self._export = export
        self._log = log
        self._families = families
        self._tracer = tracer
        self._opened = opened or _open
        self._resource = resource(export)
        self._starts = Starts(time.time_ns())
        self._pushes: dict[Signal, Push | None] = {}
        self._calls = {signal: aside.OneAtATime(f"push {signal}") for signal in SIGNALS}
        self._counts: Counter[tuple[Signal, ExportOutcome]] = Counter()
        self._trouble: dict[Signal, str] = {}
        self._lost = 0

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What is sent."""
        return tuple(signal for signal in SIGNALS if self._export.target(signal) is not None)

    def statistics(self) -> ExportStatistics:
        dropped = {"full": self._tracer.dropped, "failed": self._lost} if self._tracer is not None else {}
        return ExportStatistics(
            healthy={signal: signal not in self._trouble for signal in self.signals},
            pushes={
                (signal, outcome): self._counts[signal, outcome]
                for signal in self.signals
                for outcome in ("success", "failed")
            },
            dropped=dropped,
        )

    async def open(self) -> None:
        """Import what a push needs, which takes a tenth of a second of processor."""
        for signal in self.signals:
            timeout_s = self._target(signal).timeout_s
            self._pushes[signal] = await self._open(signal, timeout_s, OPEN_S)

    async def run(self) -> None:
        """Push until cancelled. After `open`."""
        await asyncio.gather(*(self._keep_on(signal) for signal in self.signals))

    async def _keep_on(self, signal: Signal) -> None:
        push, within_s = self._pushes[signal], self._target(signal).timeout_s + GRACE_S
        while push is not None:
            if content := self._content(signal):
                await self._push(signal, push, content, within_s)
            if signal == "metrics":
                await asyncio.sleep(self._export.interval_s)
            elif self._tracer is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._export.delay_s):
                        await self._tracer.many.wait()

    async def _open(self, signal: Signal, timeout_s: float, within_s: float) -> Push | None:
        """A push with a time-out of its own; None where OpenTelemetry cannot be imported in time."""
        opening = aside.start(partial(self._opened, self._export, signal, timeout_s), f"open {signal}")
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.wrap_future(opening)
        except Exception as exc:  # a package that is not whole, say: never a reason not to answer
            self._failed(signal, type(exc).__name__)
            return None

    async def finish(self, within_s: float) -> None:
        """Push what there is for the last time, whatever else hangs; take so many seconds at most.

        Call it after the last answer, with `run` ended.
        """
        await asyncio.gather(*(self._last(signal, within_s) for signal in self.signals))

    async def _last(self, signal: Signal, within_s: float) -> None:
        """On a connection of its own: an earlier push may hang on the other."""
        until = time.monotonic() + within_s
        push = await self._open(signal, min(within_s, self._target(signal).timeout_s), within_s)
        self._calls[signal] = aside.OneAtATime(f"last {signal}")
        while push is not None and (content := self._content(signal)):
            if (left_s := until - time.monotonic()) <= 0:
                self._failed(signal, "no time was left")
                return
            await self._push(signal, push, content, left_s)
            if signal == "metrics":
                return

    def _content(self, signal: Signal) -> Any:
        """What is to be sent; None where there is nothing."""
        if signal == "metrics":
            try:
                return (self._resource, self._starts, time.time_ns(), list(self._families()))
            except Exception as exc:  # a bug in a metric is none in an answer
                self._failed(signal, type(exc).__name__)
                return None
        spans = self._tracer.take() if self._tracer is not None else []
        return (self._resource, spans) if spans else None

    async def _push(self, signal: Signal, push: Push, content: Any, within_s: float) -> None:
        try:
            await self._calls[signal].call(partial(push, content), within_s)
        except aside.TookTooLong as exc:
            reason = str(exc)
        except PushFailed as exc:
            reason = str(exc)
        except Exception as exc:  # whatever a library may raise: never a reason not to answer
            reason = type(exc).__name__
        else:
            self._counts[signal, "success"] += 1
            if self._trouble.pop(signal, None) is not None:
                self._log.info("exporter_reachable", signal=signal, endpoint=self._target(signal).shown)
            return
        if signal == "traces":
            self._lost += len(content[1])
        self._failed(signal, reason)

    def _failed(self, signal: Signal, reason: str) -> None:
        self._counts[signal, "failed"] += 1
        if signal not in self._trouble:
            self._log.warning(
                "exporter_unreachable", signal=signal, endpoint=self._target(signal).shown, reason=reason
            )
        self._trouble[signal] = reason

    def _target(self, signal: Signal) -> Target:
        found = self._export.target(signal)
        assert found is not None
        return found


def resource(export: Export) -> dict[str, str]:
    """Who sends. An operator's own attributes go before ours."""
    return {
        # One per process: counters begin anew with each.
        "service.instance.id": str(uuid.uuid4()),
        "service.version": __version__,
        "host.name": socket.gethostname(),
        **export.resource,
    }


def _open(export: Export, signal: Signal, timeout_s: float) -> Push:
    """Import OpenTelemetry's exporter and return a push, which blocks and raises `PushFailed`. Blocks."""
    with _opening:
        if sys.modules.get("opentelemetry", ...) is None:
            del sys.modules["opentelemetry"]  # where `__main__` has made it look absent
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # Their lines would come with every push; ours come when something changes.
    for name in ("opentelemetry", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    class Session(requests.Session):
        """Remembers how the last request ended, which the exporter does not say."""

        told = "nothing was sent"

        def request(self, *args: Any, **kwargs: Any) -> requests.Response:
            try:
                # The body of an answer says nothing that we need, and may never end.
                # Said with every request, or REQUESTS_CA_BUNDLE would go before an operator's own authorities.
                own = {"verify": self.verify} if export.certificate else {}
                answer = super().request(*args, **{**kwargs, **own, "stream": True})
            except requests.RequestException as exc:
                self.told = type(exc).__name__
                raise
            answer.close()
            self.told = f"HTTP {answer.status_code}"
            if (
                300 <= answer.status_code < 400
            ):  # to a page to log in on, say: the exporter would take it for a success
                raise requests.TooManyRedirects(self.told)
            return answer

    target = export.target(signal)
    assert target is not None
    session = Session()
    if "authorization" in map(str.lower, target.headers):
        session.auth = lambda request: request  # else a .netrc of this machine would go before it
    made: Any = OTLPMetricExporter if signal == "metrics" else OTLPSpanExporter
    exporter = made(
        endpoint=target.url,
        certificate_file=export.certificate or None,
        client_certificate_file=export.client_certificate or None,
        client_key_file=export.client_key or None,
        headers=target.headers,
        timeout=timeout_s,
        compression=Compression(target.compression),
        session=session,
    )

    def send(data: Any) -> bool:
        return bool(exporter.export(data).name == "SUCCESS")

    def push(content: Any) -> None:
        if signal == "traces":
            sent = send(spans_data(*content))
        else:
            who, starts, now_ns, families = content
            data = metrics_data(who, starts, now_ns, families)
            zeros = beginnings(data, starts)
            # A receiver that refuses these, since they are too old for it, say, has the rest all the same.
            sent = (zeros is None or send(zeros) or session.told.startswith("HTTP 4")) and send(data)
            if sent:
                starts.sent(data, now_ns)
        if not sent:
            raise PushFailed(session.told)

    return push


# What Prometheus calls a thing, in OpenTelemetry's terms. On threads.


# What tells a series from all others: its name, and its labels with their values.
Series = tuple[str, tuple[tuple[str, Any], ...]]


class Starts:
    """Since when each counter and histogram counts: the start of the process, or the push before it was new or fell.

    A receiver that is not told where a series began takes its first value for its beginning, and misses what was
    counted before that (Prometheus's `increase`, unless it reads start times, which it does not by default).
    """

    def __init__(self, started_ns: int) -> None:
        """started_ns  when the process began to count, in nanoseconds since 1970"""
        self._next_ns = started_ns
        self._known: dict[Series, tuple[int, float]] = {}

    def of(self, series: Series, count: float) -> int:
        """When a series that has this count now was 0, in nanoseconds since 1970."""
        start_ns, before = self._known.get(series, (self._next_ns, 0.0))
        return start_ns if count >= before else self._next_ns

    def begins(self, series: Series, start_ns: int) -> bool:
        """Whether the receiver has no point of a series since then."""
        return self._known.get(series, (0, 0.0))[0] != start_ns

    def sent(self, data: Any, now_ns: int) -> None:
        """Keep what the receiver has taken, as it was at a time."""
        self._next_ns = now_ns + MILLISECOND_NS  # time spans of one series may not touch
        for metric in _metrics(data):
            for point in _counted(metric):
                self._known[_series(metric.name, point)] = (point.start_time_unix_nano, _count(point))


def beginnings(data: Any, starts: Starts) -> Any:
    """The points at 0 where series begin that are above it at their first push; None where there are none."""
    found = []
    for metric in _metrics(data):
        points = [
            _at_zero(point)
            for point in _counted(metric)
            if _count(point) and starts.begins(_series(metric.name, point), point.start_time_unix_nano)
        ]
        if points:
            found.append(replace(metric, data=replace(metric.data, data_points=points)))
    if not found:
        return None
    (of_resource,) = data.resource_metrics
    (scope,) = of_resource.scope_metrics
    return replace(
        data, resource_metrics=[replace(of_resource, scope_metrics=[replace(scope, metrics=found)])]
    )


def _metrics(data: Any) -> Sequence[Any]:
    found: Sequence[Any] = data.resource_metrics[0].scope_metrics[0].metrics
    return found


def _counted(metric: Any) -> Sequence[Any]:
    """The points of what counts, and none of a gauge."""
    found: Sequence[Any] = metric.data.data_points
    return found if hasattr(metric.data, "aggregation_temporality") else ()


def _series(name: str, point: Any) -> Series:
    return name, tuple(point.attributes.items())


def _count(point: Any) -> float:
    return float(point.count if hasattr(point, "count") else point.value)


def _at_zero(point: Any) -> Any:
    # Not at the start itself, which would say that the start is not known.
    at = {"time_unix_nano": point.start_time_unix_nano + MILLISECOND_NS}
    if hasattr(point, "count"):
        return replace(point, count=0, sum=0.0, bucket_counts=[0] * len(point.bucket_counts), **at)
    return replace(point, value=0.0, **at)


def metrics_data(who: dict[str, str], starts: Starts, now_ns: int, families: Families) -> Any:
    """Everything measured as OpenTelemetry's `MetricsData`.

    who     the resource's attributes
    starts  since when counters count
    now_ns  when the families were read, in nanoseconds since 1970

    Names stay as they are on `/metrics`, `_total` included: receivers that add suffixes by Prometheus's
    rules find them there, and those that do not store what dashboards ask for.
    """
    from opentelemetry.sdk.metrics import export as sdk
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    cumulative = sdk.AggregationTemporality.CUMULATIVE
    metrics = []
    for family in families:
        data: Any
        name = family.name
        if family.type == "counter":
            name += "_total"
            points = [
                sdk.NumberDataPoint(
                    sample.labels,
                    starts.of((name, tuple(sample.labels.items())), sample.value),
                    now_ns,
                    float(sample.value),
                )
                for sample in family.samples
                if sample.name == name
            ]
            data = sdk.Sum(points, cumulative, is_monotonic=True)
        elif family.type == "histogram":
            data = sdk.Histogram(_histograms(family, starts, now_ns), cumulative)
        else:
            points = [
                sdk.NumberDataPoint(sample.labels, 0, now_ns, float(sample.value))
                for sample in family.samples
                if sample.value == sample.value  # not a number: it is not known
            ]
            data = sdk.Gauge(points)
        if data.data_points:
            metrics.append(sdk.Metric(name, family.documentation, unit(name), data))
    scope = sdk.ScopeMetrics(InstrumentationScope("query-gateway", __version__), metrics, "")
    return sdk.MetricsData([sdk.ResourceMetrics(Resource(who), [scope], "")])


def unit(name: str) -> str:
    """The unit that a name ends with, as OpenTelemetry writes it; empty for what is counted."""
    bare = name.removesuffix("_total")
    return "s" if bare.endswith("_seconds") else "By" if bare.endswith("_bytes") else ""


def _histograms(family: Any, starts: Starts, now_ns: int) -> list[Any]:
    """A histogram's points: Prometheus counts what is at most a bound, OpenTelemetry what is between two."""
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    bounds: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        key = tuple(labels.items())
        if sample.name.endswith("_bucket"):
            bounds.setdefault(key, []).append((float(bound), int(sample.value)))
        elif sample.name.endswith("_sum"):
            sums[key] = float(sample.value)
    points = []
    for key, buckets in bounds.items():
        buckets.sort()
        counts = [count for _, count in buckets]
        each = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
        points.append(
            HistogramDataPoint(
                attributes=dict(key),
                start_time_unix_nano=starts.of((family.name, key), counts[-1]),
                time_unix_nano=now_ns,
                count=counts[-1],
                sum=sums[key],
                bucket_counts=each,
                explicit_bounds=[bound for bound, _ in buckets[:-1]],
                min=None,  # type: ignore[arg-type]  # nobody keeps them; the encoder leaves out what is None
                max=None,  # type: ignore[arg-type]
            )
        )
    return points


def spans_data(who: dict[str, str], spans: Sequence[Span]) -> list[Any]:
    """Spans as OpenTelemetry's, each followed by those of its stages."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    sender, scope = Resource(who), InstrumentationScope("query-gateway", __version__)
    sampled = TraceFlags(TraceFlags.SAMPLED)
    found = []
    for span in spans:
        trace = span.trace
        own = SpanContext(trace.trace_id, trace.span_id, False, sampled)
        parent = SpanContext(trace.trace_id, trace.parent_id, True, sampled) if trace.parent_id else None
        found.append(
            ReadableSpan(
                name=span.name,
                context=own,
                parent=parent,
                resource=sender,
                attributes={
                    **span.attributes,
                    **({"error.type": span.error_type} if span.error_type else {}),
                },
                kind=SpanKind.SERVER if span.server else SpanKind.INTERNAL,
                instrumentation_scope=scope,
                status=Status(StatusCode.ERROR if span.error_type else StatusCode.UNSET),
                start_time=span.start_ns,
                end_time=span.end_ns,
            )
        )
        # They end when the answer was made: what came before the first is reading the request.
        start_ns = span.end_ns - int(sum(spent_s for _, spent_s in span.stages) * 1e9)
        for stage, spent_s in span.stages:
            end_ns = start_ns + int(spent_s * 1e9)
            found.append(
                ReadableSpan(
                    name=stage,
                    context=SpanContext(trace.trace_id, random.getrandbits(64) or 1, False, sampled),
                    parent=own,
                    resource=sender,
                    kind=SpanKind.INTERNAL,
                    instrumentation_scope=scope,
                    status=Status(StatusCode.UNSET),
                    start_time=max(start_ns, span.start_ns),
                    end_time=end_ns,
                )
            )
            start_ns = end_ns
    return found
