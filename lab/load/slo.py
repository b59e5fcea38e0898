"""From what the users saw, and what the gateway says of itself, to the promises: held or missed.

Plain rules over finished samples: no clock, no network. Start at `judge`.
"""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from lab import drive
from lab.metrics import Metrics
from lab.rows import Row

HIT_P99_MS = 10.0
P99_MS = 100.0
FAILED = 0.001  # 5xx for the availability of 99.9%; errors of any kind for the rate of errors
REFUSED = 0.01  # where the alert QueriesShed fires
LATE_MS = 5.0  # later than that in one of a hundred, and the driver is part of every figure


class Sample(NamedTuple):
    """What a user saw of one query."""

    due_s: float  # since the load began
    late_ms: float  # from when it was due to when it was sent
    latency_ms: float  # from when it was due to the end of its answer
    status: int  # of the answer; 0 where there was none, or none of the contract's shape
    cache: str  # `l1`, `l2` or `miss`; empty where it was not answered with 200


class Samples(list[Sample]):
    """All queries of a run."""

    def answered_ms(self, caches: Collection[str] = ("l1", "l2", "miss")) -> list[float]:
        """Latencies of the queries that these levels answered."""
        return [sample.latency_ms for sample in self if sample.cache in caches]

    def hits_ms(self) -> list[float]:
        return self.answered_ms(("l1", "l2"))

    def share(self, statuses: Collection[int]) -> float:
        """The part of all queries that was answered so; 0 where there are none."""
        return sum(sample.status in statuses for sample in self) / len(self) if self else 0.0

    def between(self, begin_s: float, end_s: float) -> "Samples":
        """The queries that were due in [begin, end)."""
        return Samples(sample for sample in self if begin_s <= sample.due_s < end_s)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"fields": Sample._fields, "samples": self}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Samples":
        return cls(Sample(*row) for row in json.loads(path.read_text(encoding="utf-8"))["samples"])


def percentile(values: Collection[float], fraction: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    return drive.percentile(sorted(values), fraction) if values else None


def judge(
    samples: Samples, server: Metrics | None = None, *, tolerance: float = 1.0, refuses: bool = False
) -> list[Row]:
    """Every promise, and whether the users saw it kept.

    server     what the gateway counted meanwhile; it is shown beside, and decides nothing
    tolerance  how many times its limit a figure may reach; 1: the limit
    refuses    the load is more than can be answered, so refusals break no promise
    """
    refused = samples.share({429})
    failed = samples.share(range(500, 600))
    errors = samples.share({sample.status for sample in samples} - {200, 429})
    own = server or Metrics()
    queries = own.total("query_gateway_requests_total")

    def of_queries(**labels: str) -> float | None:
        return own.total("query_gateway_requests_total", **labels) / queries if queries else None

    hits, misses = own.total("query_gateway_cache_hits_total"), own.total("query_gateway_cache_misses_total")
    hit_rate = _share(len(samples.hits_ms()), len(samples.answered_ms()))
    return [
        _latency(
            "cache hits, P99",
            percentile(samples.hits_ms(), 0.99),
            own.quantile_ms("query_gateway_cache_hit_latency_seconds", 0.99),
            HIT_P99_MS,
            tolerance,
        ),
        _latency(
            "all answers, P99",
            percentile(samples.answered_ms(), 0.99),
            own.quantile_ms("query_gateway_request_latency_seconds", 0.99),
            P99_MS,
            tolerance,
        ),
        _share_of(
            "availability",
            f"{1 - failed:.3%}",
            _percent(1 - failed_there if (failed_there := of_queries(code="5..")) is not None else None, 3),
            f"≥ {1 - FAILED * tolerance:.1%}",
            failed / (FAILED * tolerance),
            samples,
        ),
        _share_of(
            "errors",
            f"{errors:.3%}",
            _percent(of_queries(status="error", code="[^4]..|4(?!29).."), 3),
            f"< {FAILED * tolerance:.1%}",
            _under(errors, FAILED * tolerance),
            samples,
        ),
        _share_of(
            "refused (429)",
            f"{refused:.2%}",
            _percent(of_queries(code="429"), 2),
            "" if refuses else f"< {REFUSED * tolerance:.0%}",
            None if refuses else _under(refused, REFUSED * tolerance),
            samples,
        ),
        Row("cache hit rate", _percent(hit_rate, 1), also=_percent(_share(hits, hits + misses), 1)),
    ]


def _share_of(what: str, seen: str, also: str, wanted: str, off: float | None, samples: Samples) -> Row:
    if not samples:
        return Row(what, "none", wanted, also=also)
    return Row(what, seen, wanted, off, also=also)


def _under(value: float, limit: float) -> float:
    """The value over a limit that it must not reach."""
    return value / limit if value < limit else max(value / limit, math.nextafter(1, 2))


def curve(samples: Samples, seconds: float, slices: int = 10) -> list[tuple[float, Samples]]:
    """Begins in seconds, and what was due from there to the next."""
    step_s = seconds / slices
    return [(n * step_s, samples.between(n * step_s, (n + 1) * step_s)) for n in range(slices)]


def _latency(what: str, client: float | None, server: float | None, limit_ms: float, tolerance: float) -> Row:
    limit_ms *= tolerance
    off = None if client is None else _under(client, limit_ms)
    return Row(what, milliseconds(client), f"< {limit_ms:g} ms", off, also=milliseconds(server))


def milliseconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms"


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _percent(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}%}"
