"""Every metric of the gateway: names, units, labels and when a series exists.

Stages call verbs (`cache_hit`, `batch`, `failed`) for what happens, and offer
`statistics()` for what is; both are declared here and nowhere else. Label values
come from closed sets, and a series that can be known beforehand exists at 0 from
the start, so that `increase()` sees the first event.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from handler import __version__
from handler.errors import ERRORS, CallerGone, GatewayError
from handler.series import Buckets, Count
from handler.settings import Wire
from handler.statistics import (
    BatcherStatistics,
    ExportStatistics,
    L1Statistics,
    L2Drop,
    L2Failure,
    L2Operation,
    L2Reject,
    L2Statistics,
    ModelStatistics,
    PolicyStatistics,
    ShadowDrop,
    ShadowStatistics,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of its own for each, and nobody asks for them

# 10 ms and 100 ms are the SLOs' thresholds, so they must be edges.
LATENCY_BUCKETS_S = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1.0, 2.5,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
CONFIDENCE_BUCKETS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
STAGES = ("l1", "queue", "tokenize", "infer", "other")
DROPS = ("deadline", "caller_gone")

FallbackReason = Literal[
    "no_text",
    "not_text",
    "cut_body",
    "many",
    "unreadable",
    "overloaded",
    "timeout",
    "model_not_ready",
    "unauthenticated",
]


class Telemetry:
    """The gateway's metrics. One per process.

    active  requests being answered
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.active = 0
        self._requests = self._counter(
            "requests",
            "Requests for a decision on any wire, by outcome; code is the HTTP status.",
            "status",
            "error_type",
            "code",
        )
        self._ok = self._requests.labels("success", "", "200")
        kinds: tuple[type[GatewayError], ...] = (*ERRORS, CallerGone)
        self._failures = {
            (kind.error_type, kind.code): self._requests.labels("error", kind.error_type, str(kind.code))
            for kind in kinds
        }
        # What several wires have for a request that cannot be read, as their own servers do.
        self._failures["ValidationError", 422] = self._requests.labels("error", "ValidationError", "422")
        self._low_confidence = self._counter(
            "low_confidence", "Answers sent to a dearer tier because the first was not sure enough."
        )
        deadlines = self._counter(
            "caller_deadlines",
            "Requests that a caller's own, shorter time-out ended, by the status of their answer: 504, or "
            "200 on wires that then answer with the last tier. They are the caller's.",
            "code",
        )
        self._caller_deadlines = {code: deadlines.labels(str(code)) for code in (200, 504)}
        queries = self._counter("queries", "Queries asked, by the wire that they came on.", "wire")
        self._queries = {wire: queries.labels(wire) for wire in get_args(Wire)}
        fallbacks = self._counter(
            "fallbacks",
            "Safe answers that were made without the model, by wire and reason.",
            "wire",
            "reason",
        )
        self._fallbacks = {
            (wire, reason): fallbacks.labels(wire, reason)
            for wire in get_args(Wire)
            for reason in get_args(FallbackReason)
        }
        self._latency = self._histogram(
            "request_latency_seconds", "Time in the gateway of answered queries.", LATENCY_BUCKETS_S
        )
        self._hit_latency = self._histogram(
            "cache_hit_latency_seconds",
            "Time in the gateway of queries that a cache answered.",
            LATENCY_BUCKETS_S,
        )
        self._stage = self._histogram(
            "stage_seconds",
            "Where the time of answered queries went; the sums of all stages make the sum of the latency.",
            LATENCY_BUCKETS_S,
            "stage",
        )
        self._stages = {key: self._stage.labels(key) for key in STAGES}
        self._hit = self._counter("cache_hits", "Queries that a cache level answered.", "level")
        self._hits = {"L1": self._hit.labels("L1")}
        self._misses = self._counter("cache_misses", "Queries that no cache level could answer.")
        self._cache_size = self._gauge(
            "cache_size", "Entries in a cache level; of L2, all keys in the Redis database.", "level"
        )
        self._batch_size = self._histogram("inference_batch_size", "Queries in a model run.", BATCH_BUCKETS)
        self._inference = self._histogram(
            "inference_latency_seconds", "Time of a model run, tokenizing included.", LATENCY_BUCKETS_S
        )
        self._wait = self._histogram(
            "batch_wait_seconds", "Time that a query waited for a lane.", LATENCY_BUCKETS_S
        )
        self._drops = self._counter("dropped", "Queries dropped before a model run, by reason.", "reason")
        for reason in DROPS:
            self._drops.labels(reason)
        self._classifications = self._counter(
            "classifications", "Answers, by label and task.", "label", "task"
        )
        self._of_answer: dict[tuple[str, str], Count] = {}
        self._confidence = self._histogram(
            "confidence", "Calibrated probability of the preferred route.", CONFIDENCE_BUCKETS
        )
        self._gauge("active_requests", "Requests being answered.").set_function(lambda: self.active)
        self._gauge("build_info", "Always 1; the labels say what runs.", "version").labels(__version__).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # What is: read from the stages when it is scraped, and free before.

    def watch_batcher(self, read: Callable[[], BatcherStatistics]) -> None:
        self._gauge(
            "batch_queue_size", "Single queries that wait for a lane; bulk ones wait behind them."
        ).set_function(lambda: read().queue_depth)
        self._gauge(
            "batch_queue_tokens", "Estimated tokens that wait for a lane, bulk included."
        ).set_function(lambda: read().queue_tokens)
        self._gauge(
            "batch_queue_fullness",
            "How near the queue is to refusing: 1 is full, by the nearest of its bounds.",
        ).set_function(lambda: read().fullness)

    def watch_l1(self, read: Callable[[], L1Statistics]) -> None:
        self._cache_size.labels("L1").set_function(lambda: read().size)

    def watch_model(self, read: Callable[[], ModelStatistics]) -> None:
        self._gauge("model_loaded", "1 when a model is loaded.").set_function(lambda: read().loaded)
        self._gauge(
            "model_since_seconds", "When the model went into service, in seconds since 1970; 0 without one."
        ).set_function(lambda: read().since)
        self.registry.register(_ModelInService(read))

    def watch_refused(self, trouble: Callable[[str], str | None], keys: Iterable[str]) -> None:
        """Declare what tells of files that were refused.

        trouble  why what a setting names is not in force; None when it is
        keys     settings that name files of keys; their series do not exist without one
        """

        def told(setting: str) -> Callable[[], bool]:
            return lambda: trouble(setting) is not None

        self._gauge(
            "model_refused",
            "1 while the model as it stands on disk was refused, and the one before it is in service.",
        ).set_function(told("MODEL_PATH"))
        refused = self._gauge(
            "keys_refused",
            "1 while a file of keys as it stands on disk was refused, and those before it are in force.",
            "setting",
        )
        for setting in keys:
            refused.labels(setting).set_function(told(setting))

    def watch_policy(self, read: Callable[[], PolicyStatistics | None]) -> None:
        self.registry.register(_PolicyInForce(read))

    def watch_connections(self, closed: Callable[[], Mapping[str, int]]) -> None:
        self.registry.register(_ConnectionCounts(closed))

    def watch_log(self, dropped: Callable[[], int]) -> None:
        self.registry.register(_LogCounts(dropped))

    def watch_export(self, read: Callable[[], ExportStatistics]) -> None:
        """Declare the series of what is sent by OTLP, which do not exist where nothing is."""
        self.registry.register(_ExportCounts(read))

    def watch_l2(self, read: Callable[[], L2Statistics]) -> None:
        """Declare the series of the shared cache level, which do not exist without one."""
        self._stages["l2"] = self._stage.labels("l2")
        self._hits["L2"] = self._hit.labels("L2")
        unknown = float("nan")

        def size() -> float:
            found = read().size
            return unknown if found is None else found

        self._cache_size.labels("L2").set_function(size)
        self._gauge("l2_healthy", "1 when Redis can be read and written, all its shards.").set_function(
            lambda: read().healthy
        )
        self._gauge(
            "l2_shards", "Redis servers that have the keys: 1, or those of a cluster; 0 until they are known."
        ).set_function(lambda: len(read().shards))
        self._gauge("l2_shards_up", "Those of them that can be read and written.").set_function(
            lambda: sum(shard.trouble is None for shard in read().shards)
        )
        breakers = self._gauge(
            "l2_breaker_open", "Redis servers that are not used, because they failed repeatedly.", "breaker"
        )
        breakers.labels("reads").set_function(lambda: read().open["reads"])
        breakers.labels("writes").set_function(lambda: read().open["writes"])
        seconds = self._histogram(
            "l2_operation_seconds",
            "Time of a round trip to Redis that was answered, however many keys it carried.",
            LATENCY_BUCKETS_S,
            "operation",
        )
        self._l2_seconds = {operation: seconds.labels(operation) for operation in get_args(L2Operation)}
        self.registry.register(_L2Counts(read))

    def watch_shadow(self, read: Callable[[], ShadowStatistics]) -> None:
        """Declare the series of the shadow, which do not exist without one."""
        self.registry.register(_ShadowCounts(read))

    # What happens: called by the stages.

    def query(self, wire: Wire, count: int = 1) -> None:
        """Count queries that were asked on a wire."""
        self._queries[wire].inc(count)

    def fallback(self, wire: Wire, reason: FallbackReason) -> None:
        """Count a safe answer that was made without the model."""
        self._fallbacks[wire, reason].inc()

    def caller_deadline(self, code: Literal[200, 504] = 504) -> None:
        """Count what a caller's own time-out ended; `failed`, or `fallback`, counts it as well."""
        self._caller_deadlines[code].inc()

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

    def l2_operation(self, operation: L2Operation, took_s: float) -> None:
        self._l2_seconds[operation].observe(took_s)

    def expect_answers(self, labels: Sequence[str], tasks: Sequence[str]) -> None:
        """Create the series of the answers that a model and a policy can give, at 0."""
        for label in labels:
            for task in tasks:
                self._of_answer[label, task] = self._classifications.labels(label, task)

    def answered(self, label: str, task: str, confidence: float, *, doubtful: bool = False) -> None:
        """Count an answer. `doubtful`: the first tier was preferred, and not sure enough to be taken."""
        if doubtful:
            self._low_confidence.inc()
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

    def succeeded_otherwise(self) -> None:
        """Count a request that was answered without one query's latency: bulk, or without the model."""
        self._ok.inc()

    def failed(self, error_type: str, code: int) -> None:
        counter = self._failures.get((error_type, code))
        if counter is None:
            counter = self._requests.labels("error", error_type, str(code))
            self._failures[error_type, code] = counter
        counter.inc()

    def families(self) -> list[Metric]:
        """Everything measured, as it is now."""
        return list(self.registry.collect())

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Everything measured, as Prometheus text or OpenMetrics, and its content type."""
        try:
            encoder, content_type = choose_encoder(accept)
        except Exception:  # it trips over versions that are none; then nothing was asked for
            encoder, content_type = choose_encoder("")
        return encoder(self.registry), content_type

    def _counter(self, key: str, text: str, *labels: str) -> "Counter":
        return Counter("query_gateway_" + key, text, labels, self.registry)

    def _gauge(self, key: str, text: str, *labels: str) -> Gauge:
        return Gauge("query_gateway_" + key, text, labels, registry=self.registry)

    def _histogram(self, key: str, text: str, buckets: Sequence[float], *labels: str) -> "Histogram":
        return Histogram("query_gateway_" + key, text, labels, buckets, self.registry)


class Counter(Collector):
    """A counter; without labels it is its own only series, which is there from the start."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._series: dict[tuple[str, ...], Count] = {}
        self.inc = self.labels().inc if not labels else _none
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series of these values of the labels; made at 0 where it is new."""
        _check(self._labels, values)
        return self._series.setdefault(values, Count())

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in list(self._series.items()):
            family.add_metric(values, count.value)
        yield family


class Histogram(Collector):
    """A histogram; without labels it is its own only series, which is there from the start.

    buckets  the greatest value of each, ascending, without the last one, which has no end
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._uppers = tuple(map(float, buckets))
        self._series: dict[tuple[str, ...], Buckets] = {}
        self.observe = self.labels().observe if not labels else _none
        registry.register(self)

    def labels(self, *values: str) -> Buckets:
        """The series of these values of the labels; made at 0 where it is new."""
        _check(self._labels, values)
        return self._series.setdefault(values, Buckets(self._uppers))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, found in list(self._series.items()):
            family.add_metric(values, _buckets(self._uppers, found.counts), found.total)
        yield family


def _buckets(uppers: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    """What `Buckets` counted, as Prometheus has it: how many are at most each upper bound."""
    names = (floatToGoString(upper) for upper in (*uppers, math.inf))  # type: ignore[no-untyped-call]
    return list(zip(names, accumulate(counts), strict=True))


def _check(labels: tuple[str, ...], values: tuple[str, ...]) -> None:
    if len(labels) != len(values):
        raise ValueError(f"a series of these labels has a value for each of {labels}, not {len(values)}")


def _none(value: float = 1) -> None:
    raise ValueError("it has labels: count on one of its series")


def samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """The name, labels and value of every sample of a scrape. Raises `ValueError` where it is none."""
    from prometheus_client.parser import text_string_to_metric_families  # not needed to serve

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


class _ModelInService(Collector):
    """The model as it is now: the one before it leaves no series behind, and without one there are none."""

    def __init__(self, read: Callable[[], ModelStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found = self._read()
        if not found.loaded:
            return
        info = GaugeMetricFamily(
            "query_gateway_model_info",
            "Always 1; the labels say which model runs.",
            labels=["name", "version"],
        )
        info.add_metric([found.name, found.version], 1)
        yield info
        if found.training_mix:
            shares = GaugeMetricFamily(
                "query_gateway_training_share",
                "Share of each task in what the model was trained on; absent where the model does not say.",
                labels=["task"],
            )
            for task, share in found.training_mix.items():
                shares.add_metric([task], share)
            yield shares


class _PolicyInForce(Collector):
    """The policy as it is now: its old version leaves no series behind."""

    def __init__(self, read: Callable[[], PolicyStatistics | None]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found = self._read()
        if found is None:  # there is no model yet
            return
        name = "query_gateway_policy_"
        info = GaugeMetricFamily(
            name + "info",
            "Always 1; the labels say which policy is in force. The version of a POLICY_FILE is its content's.",
            labels=["source", "version"],
        )
        info.add_metric([found.source, found.version or "default"], 1)
        yield info
        need_max = GaugeMetricFamily(
            name + "need_max",
            "The greatest need that a tier answers, by its place, 0 the cheapest.",
            labels=["label"],
        )
        for place, bound in enumerate(found.tiers.values()):
            need_max.add_metric([str(place)], bound)
        yield need_max
        yield GaugeMetricFamily(
            "query_gateway_threshold",
            "How sure an answer of the first tier must be: 1 less the first boundary.",
            value=found.threshold,
        )
        yield GaugeMetricFamily(
            name + "refused",
            "1 while POLICY_FILE as it stands on disk was refused, and the policy before it is in force.",
            value=int(found.trouble is not None),
        )


class _ConnectionCounts(Collector):
    """The counters of what looks after connections, which knows nothing of metrics."""

    def __init__(self, closed: Callable[[], Mapping[str, int]]) -> None:
        self._closed = closed

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "query_gateway_connections_closed",
            "Connections that we closed: a head that did not come in time, or idle while others waited.",
            labels=["reason"],
        )
        for reason, count in self._closed().items():
            family.add_metric([reason], count)
        yield family


class _LogCounts(Collector):
    """The counter that the log keeps itself, since it is there before any metric is."""

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "query_gateway_log_lines_dropped",
            "Log lines that could not be written, because whoever reads them stalls or has gone.",
            value=self._dropped(),
        )


class _ExportCounts(Collector):
    """The counters that the exporter keeps itself."""

    def __init__(self, read: Callable[[], ExportStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found = self._read()
        name = "query_gateway_otlp_"
        healthy = GaugeMetricFamily(
            name + "healthy", "1 while the receiver takes what is sent, by signal.", labels=["signal"]
        )
        for signal, holds in found.healthy.items():
            healthy.add_metric([signal], holds)
        yield healthy
        pushes = CounterMetricFamily(
            name + "pushes", "Pushes to the receiver, by signal and outcome.", labels=["signal", "outcome"]
        )
        for (signal, outcome), count in found.pushes.items():
            pushes.add_metric([signal, outcome], count)
        yield pushes
        if found.dropped:
            dropped = CounterMetricFamily(
                name + "dropped_traces",
                "Traced queries whose spans were not sent, by reason.",
                labels=["reason"],
            )
            for reason, count in found.dropped.items():
                dropped.add_metric([reason], count)
            yield dropped


class _L2Counts(Collector):
    """The counters that L2 keeps itself, so that `/health/deep` can show them without a scrape."""

    def __init__(self, read: Callable[[], L2Statistics]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found = self._read()
        yield _counts("errors", "Failures of Redis, by kind.", "kind", get_args(L2Failure), found.errors)
        yield _counts(
            "dropped_writes",
            "Answers that were not written to Redis, by reason.",
            "reason",
            get_args(L2Drop),
            found.dropped,
        )
        yield _counts(
            "rejected_values",
            "Values under our keys that are not ours to read, each of them a miss, by reason.",
            "reason",
            get_args(L2Reject),
            found.rejected,
        )


class _ShadowCounts(Collector):
    """What the shadow tells and counts itself. The counts begin anew, at 0, with another model or policy."""

    def __init__(self, read: Callable[[], ShadowStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found = self._read()
        name = "query_gateway_shadow_"
        yield GaugeMetricFamily(name + "loaded", "1 while the shadow scores.", value=found.loaded)
        yield GaugeMetricFamily(
            name + "refused",
            "1 while the shadow's model as it stands on disk, or with the policy in force, is not used.",
            value=found.trouble is not None,
        )
        yield GaugeMetricFamily(
            name + "since_seconds",
            "When the shadow's counts began, in seconds since 1970; 0 while it does not score.",
            value=found.since,
        )
        yield GaugeMetricFamily(
            name + "waiting", "Queries that wait for idle time to be scored.", value=found.waiting
        )
        info = GaugeMetricFamily(
            name + "info", "Always 1; the labels say which model the shadow is.", labels=["name", "version"]
        )
        if found.loaded:
            info.add_metric([found.name, found.version], 1)
        yield info
        routes = CounterMetricFamily(
            name + "routes",
            "Queries that both models scored, by the label of the model in service and the shadow's, and "
            "where the shadow would move them.",
            labels=["live", "shadow", "moved"],
        )
        for (live, shadow), count in found.routes.items():
            moved = "no" if live == shadow else "dearer" if live < shadow else "cheaper"
            routes.add_metric([live, shadow, moved], count)
        yield routes
        tasks = CounterMetricFamily(
            name + "tasks",
            "The same, by the task of the model in service and whether the shadow's is the same one; only "
            "where both models know both.",
            labels=["task", "same"],
        )
        for (task, same), count in found.tasks.items():
            tasks.add_metric([task, "1" if same else "0"], count)
        yield tasks
        changes = CounterMetricFamily(
            name + "task_changes",
            "Those whose tasks are not the same, by both; a pair that is absent is 0.",
            labels=["live", "shadow"],
        )
        for (live, shadow), count in found.changes.items():
            changes.add_metric([live, shadow], count)
        yield changes
        times = HistogramMetricFamily(
            name + "run_seconds", "Time of a query in the shadow, tokenizing included.", labels=[]
        )
        if found.runs:
            times.add_metric([], _buckets(LATENCY_BUCKETS_S, found.runs), found.run_s)
        yield times
        dropped = CounterMetricFamily(
            name + "dropped",
            "Queries that were offered to the shadow and not compared, by reason.",
            labels=["reason"],
        )
        for reason in get_args(ShadowDrop):
            dropped.add_metric([reason], found.dropped.get(reason, 0))
        yield dropped


def _counts(
    key: str, text: str, label: str, values: Sequence[Any], counts: Mapping[Any, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily("query_gateway_l2_" + key, text, labels=[label])
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family
