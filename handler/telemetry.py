"""What the gateway tells about itself: every metric and every log line.

Stages call verbs; names, units and labels live here. Label values come from
closed sets, and nothing here ever sees a query's text.
"""

import hashlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Literal, get_args

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of its own for each, and nobody asks for them

Level = Literal["debug", "info", "warning", "error"]
SEVERITY: dict[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# 10 ms and 100 ms are the SLOs' thresholds, so they must be edges.
LATENCY_BUCKETS_S = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1.0, 2.5,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
CONFIDENCE_BUCKETS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
STAGES = ("l1", "queue", "tokenize", "infer", "other")
L2Operation = Literal["get", "set", "probe"]
L2Failure = Literal[
    "timeout", "connection", "auth", "readonly", "loading", "memory", "clients", "tls", "cluster", "other"
]
L2Drop = Literal["full", "unavailable", "failed"]
L2Reject = Literal["corrupt", "version"]

# A flood of one kind of error must not become a flood of lines.
ERROR_LINES_PER_S = 20


class Log:
    """One JSON object (or line of text) per event, straight to a stream.

    Errors are limited per `error_type` and second; the next line that gets
    through says how many did not.
    """

    def __init__(
        self,
        stream: IO[str],
        *,
        level: str = "INFO",
        form: Literal["json", "text"] = "json",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._least = SEVERITY[level.lower()]  # type: ignore[index]
        self._json = form == "json"
        self._now = now
        self._secret = os.urandom(16)
        self._second: dict[str, int] = {}
        self._lines: dict[str, int] = {}

    def fingerprint(self, text: str) -> str:
        """Name a query in log lines: equal texts are equal, for this process's life alone."""
        return hashlib.blake2b(text.encode(), digest_size=6, key=self._secret).hexdigest()

    def info(self, event: str, **facts: Any) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write("warning", event, facts)

    def error(
        self,
        event: str,
        *,
        error_type: str = "InternalError",
        error: BaseException | None = None,
        **facts: Any,
    ) -> None:
        """Write an error with its type; `error` adds where in the code a bug was raised.

        An exception's message may quote its input, so only its type and its
        frames are written.
        """
        suppressed = self._suppressed(error_type)
        if suppressed is None:
            return
        if suppressed:
            facts["suppressed"] = suppressed
        if error is not None:
            facts["exception"] = type(error).__name__
            facts["traceback"] = [
                f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
        self._write("error", event, {"error_type": error_type, **facts})

    def _suppressed(self, error_type: str) -> int | None:
        """How many lines of this type were held back; None when this one must be too."""
        second = int(self._now())
        lines = self._lines.get(error_type, 0)
        if self._second.get(error_type) == second:
            self._lines[error_type] = lines + 1
            return 0 if lines < ERROR_LINES_PER_S else None
        self._second[error_type], self._lines[error_type] = second, 1
        return max(0, lines - ERROR_LINES_PER_S)

    def _write(self, level: Level, event: str, facts: dict[str, Any]) -> None:
        if SEVERITY[level] < self._least:
            return
        at = (
            datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        if self._json:
            line = msgspec.json.encode({"timestamp": at, "level": level, "event": event, **facts}).decode()
        else:
            line = f"{at} {level:7} {event} " + " ".join(f"{name}={value}" for name, value in facts.items())
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:
            pass  # a log reader that has gone away must not fail a query


class ForeignLines(logging.Handler):
    """Lines of libraries (server, event loop) in our own form.

    Their arguments and exception messages may quote a request, so only the
    format string's first line (asyncio puts an exception's text on the next) and
    the exception's type are kept.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.ERROR:
            self._log.error("library_error", error=error, logger=record.name, message=_plain(record))
        else:
            self._log.warning("library_warning", logger=record.name, message=_plain(record))


def _plain(record: logging.LogRecord) -> str:
    return str(record.msg).partition("\n")[0]


class L2Metrics:
    """What the shared cache level tells. Declared only where there is one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "query_gateway_l2_"
        seconds = Histogram(
            name + "operation_seconds",
            "Time of a round trip to Redis that was answered, however many keys it carried.",
            ["operation"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._seconds = {key: seconds.labels(key) for key in get_args(L2Operation)}
        self._errors = Counter(name + "errors", "Failures of Redis, by kind.", ["kind"], registry=registry)
        for kind in get_args(L2Failure):
            self._errors.labels(kind)
        self._dropped = Counter(
            name + "dropped_writes",
            "Answers that were not written to Redis, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(L2Drop):
            self._dropped.labels(reason)
        self._rejected = Counter(
            name + "rejected_values",
            "Values under our keys that are not ours to read, each of them a miss, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(L2Reject):
            self._rejected.labels(reason)

    def operation(self, operation: L2Operation, took_s: float) -> None:
        self._seconds[operation].observe(took_s)

    def error(self, kind: L2Failure, count: int = 1) -> None:
        self._errors.labels(kind).inc(count)

    def dropped(self, reason: L2Drop, count: int = 1) -> None:
        self._dropped.labels(reason).inc(count)

    def rejected(self, reason: L2Reject) -> None:
        self._rejected.labels(reason).inc()

    def errors(self) -> dict[str, int]:
        return _counts(self._errors)

    def dropped_writes(self) -> dict[str, int]:
        return _counts(self._dropped)

    def rejected_values(self) -> dict[str, int]:
        return _counts(self._rejected)

    def mean_ms(self) -> dict[str, float | None]:
        """Milliseconds of an average round trip, by operation; None where there was none."""
        means: dict[str, float | None] = {}
        for operation, histogram in self._seconds.items():
            found = {sample.name: sample.value for sample in histogram._child_samples()}
            count = found["_count"]
            means[operation] = round(found["_sum"] / count * 1000, 3) if count else None
        return means


def _counts(counter: Counter) -> dict[str, int]:
    """A counter with one label, as it stands."""
    (metric,) = counter.collect()
    return {
        next(iter(sample.labels.values())): int(sample.value)
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


class _Shares(Collector):
    """A gauge that does not exist while there is nothing to say."""

    def __init__(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._about = (name, text)
        self._label = label
        self._read = read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(*self._about, labels=[self._label])
        for value, share in self._read().items():
            family.add_metric([value], share)
        return [family] if family.samples else []


class Telemetry:
    """The gateway's metrics and its log. One per process."""

    def __init__(self, log: Log, registry: CollectorRegistry | None = None) -> None:
        self.log = log
        self.registry = registry or CollectorRegistry()
        self.active = 0
        self._gauges: dict[str, Gauge] = {}
        name = "query_gateway_"

        def counter(key: str, text: str, *labels: str) -> Counter:
            return Counter(name + key, text, labels, registry=self.registry)

        def histogram(key: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name + key, text, labels, buckets=buckets, registry=self.registry)

        self._requests = counter(
            "requests",
            "Requests to /v1/*, by outcome; code is the HTTP status.",
            "status",
            "error_type",
            "code",
        )
        self._ok = self._requests.labels("success", "", "200")
        self._failures: dict[tuple[str, int], Counter] = {}
        self._latency = histogram(
            "request_latency_seconds", "Time in the gateway of answered queries.", LATENCY_BUCKETS_S
        )
        self._hit_latency = histogram(
            "cache_hit_latency_seconds",
            "Time in the gateway of queries that a cache answered.",
            LATENCY_BUCKETS_S,
        )
        self._stage = histogram(
            "stage_seconds",
            "Where the time of answered queries went; the sums of all stages make the sum of the latency.",
            LATENCY_BUCKETS_S,
            "stage",
        )
        self._stages = {key: self._stage.labels(key) for key in STAGES}
        self._hit = counter("cache_hits", "Queries that a cache level answered.", "level")
        self._hits = {"L1": self._hit.labels("L1")}
        self._misses = counter("cache_misses", "Queries that no cache level could answer.")
        self._batch_size = histogram("inference_batch_size", "Queries in a model run.", BATCH_BUCKETS)
        self._inference = histogram(
            "inference_latency_seconds", "Time of a model run, tokenizing included.", LATENCY_BUCKETS_S
        )
        self._wait = histogram(
            "batch_wait_seconds", "Time that a query waited for a lane.", LATENCY_BUCKETS_S
        )
        self._drops = counter("dropped", "Queries dropped before a model run, by reason.", "reason")
        for reason in ("deadline", "caller_gone"):
            self._drops.labels(reason)
        self._classifications = counter("classifications", "Answers, by label and task.", "label", "task")
        self._of_answer: dict[tuple[str, str], Any] = {}
        self._confidence = histogram(
            "confidence", "Calibrated probability of the preferred route.", CONFIDENCE_BUCKETS
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def gauge(self, key: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """Declare a gauge, or one more label value of it; read when it is scraped, and free before."""
        gauge = self._gauges.get(key)
        if gauge is None:
            gauge = Gauge("query_gateway_" + key, text, tuple(labels), registry=self.registry)
            self._gauges[key] = gauge
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def shares(self, key: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Declare a gauge whose series are known only once something is loaded; read when it is scraped.

        read  value by the label's; its keys must be a closed set
        """
        self.registry.register(_Shares("query_gateway_" + key, text, label, read))

    def with_l2(self) -> L2Metrics:
        """Declare the series of the shared cache level, which do not exist without one."""
        self._stages["l2"] = self._stage.labels("l2")
        self._hits["L2"] = self._hit.labels("L2")
        return L2Metrics(self.registry)

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Everything measured, as Prometheus text or OpenMetrics, and its content type."""
        try:
            encoder, content_type = choose_encoder(accept)
        except Exception:  # it trips over versions that are none; then nothing was asked for
            encoder, content_type = choose_encoder("")
        return encoder(self.registry), content_type

    def cache_hit(self, level: Literal["L1", "L2"]) -> None:
        self._hits[level].inc()

    def cache_miss(self) -> None:
        self._misses.inc()

    def dropped(self, reason: str) -> None:
        self._drops.labels(reason).inc()

    def batch(self, size: int, run_s: float, waits_s: Sequence[float]) -> None:
        self._batch_size.observe(size)
        self._inference.observe(run_s)
        for wait_s in waits_s:
            self._wait.observe(wait_s)

    def answered(self, label: str, task: str, confidence: float) -> None:
        counter = self._of_answer.get((label, task))
        if counter is None:
            counter = self._of_answer[label, task] = self._classifications.labels(label, task)
        counter.inc()
        self._confidence.observe(confidence)

    def succeeded(self, total_s: float, stages: Sequence[tuple[str, float]], *, hit: bool) -> None:
        """Count an answered query; what no stage accounts for goes to `other`."""
        self._ok.inc()
        self._latency.observe(total_s)
        if hit:
            self._hit_latency.observe(total_s)
        rest_s = total_s
        for stage, spent_s in stages:
            self._stages[stage].observe(spent_s)
            rest_s -= spent_s
        self._stages["other"].observe(max(rest_s, 0.0))

    def failed(self, error_type: str, code: int) -> None:
        counter = self._failures.get((error_type, code))
        if counter is None:
            counter = self._requests.labels("error", error_type, str(code))
            self._failures[error_type, code] = counter
        counter.inc()
