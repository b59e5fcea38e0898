"""What each stage tells of itself, as immutable structs.

Made by the stages' `statistics()`; read by the metrics' gauges and by
`/health/deep`, so that both always say the same.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

L2Operation = Literal["get", "set", "probe"]
L2Failure = Literal[
    "timeout", "connection", "auth", "readonly", "loading", "memory", "clients", "tls", "cluster", "other"
]
L2Drop = Literal["full", "unavailable", "failed"]
L2Reject = Literal["corrupt", "version"]
ShadowDrop = Literal["full", "late", "other_model", "failed"]
ExportOutcome = Literal["success", "failed"]


class BatcherStatistics(msgspec.Struct, frozen=True):
    """The queue and the lanes.

    running       every lane runs and none hangs in a model run
    queue_depth   single queries that wait for a lane; bulk ones are bounded by their requests
    queue_tokens  estimated tokens that wait for a lane
    fullness      how near the queue is to refusing: 1 is full
    average_size  queries in a model run, on average since the start
    """

    running: bool
    lanes: int
    queue_depth: int
    queue_tokens: int
    fullness: float
    size_max: int
    average_size: float


class L1Statistics(msgspec.Struct, frozen=True):
    """Entries in the in-process cache, and how many it may hold; 0 is off."""

    size: int
    size_max: int


class ShardStatistics(msgspec.Struct, frozen=True):
    """How one server of the shared cache level fares.

    trouble  why it is not used, for people; None while all is well
    size     keys in its database, whoever's they are; None where unknown
    open     which breakers are open: not asked for the moment
    """

    address: str
    trouble: str | None
    size: int | None
    open: Mapping[str, bool]


class L2Statistics(msgspec.Struct, frozen=True):
    """How the shared cache level fares since the start.

    trouble     why it is not used in full, for people; None while all is well
    size        keys in the Redis database, whoever's they are; None where unknown
    shards      the servers that have the keys: one, or those of a cluster
    open        on how many servers a breaker is open: not asked for the moment
    errors, rejected, dropped   counts by kind or reason
    mean_ms     milliseconds of an average round trip, by operation; None where there was none
    """

    address: str
    trouble: str | None
    size: int | None
    shards: tuple[ShardStatistics, ...]
    open: Mapping[str, int]
    errors: Mapping[L2Failure, int]
    rejected: Mapping[L2Reject, int]
    dropped: Mapping[L2Drop, int]
    mean_ms: Mapping[L2Operation, float | None]

    @property
    def healthy(self) -> bool:
        """Whether look-ups and writes both work."""
        return self.trouble is None


class PolicyStatistics(msgspec.Struct, frozen=True):
    """The policy in force.

    source        what a query's need comes from: its tasks, or outcomes
    file, version of an operator's own, the version by its content; None without one
    threshold     how sure an answer of the first tier must be: 1 less the first boundary
    tiers         the greatest need of each, by name, cheapest first
    needs         by task
    trouble       why the file as it stands now is not in force; None when it is
    """

    source: str
    file: str | None
    version: str | None
    threshold: float
    tiers: Mapping[str, float]
    needs: Mapping[str, float]
    options: Mapping[str, float]
    predicates: tuple[str, ...]
    trouble: str | None


class ModelStatistics(msgspec.Struct, frozen=True):
    """The model in service.

    name, version, tasks, training_mix   empty while there is none
    since                          when it went into service, in seconds since 1970
    curve                          what each threshold does, as its builder measured it
    reason                         why there is none
    """

    loaded: bool
    path: str
    name: str = ""
    version: str = ""
    since: float = 0.0
    tasks: tuple[str, ...] = ()
    training_mix: Mapping[str, float] = {}
    curve: tuple[Mapping[str, float], ...] = ()
    reason: str | None = None


class ShadowStatistics(msgspec.Struct, frozen=True):
    """The shadow, and what was counted since it and the model in service stand side by side.

    share          of the misses that is offered to it, 0 to 1
    name, version  empty while it does not score
    since          when the counts began, in seconds since 1970; 0 while it does not score
    waiting        queries that wait to be scored
    routes         queries, by the label of the model in service and the shadow's
    tasks          queries, by the task of the model in service and whether the shadow's is the same one;
                   of tasks that both know
    changes        queries whose tasks are not the same, by both; absent is 0
    runs           queries, by the bucket of `telemetry.LATENCY_BUCKETS_S` that the shadow's time falls in, and past
                   them; empty while it does not score
    run_s          the seconds of all of them
    dropped        queries that were offered and not compared since the start, by reason
    trouble        why it does not score, or not what stands on disk; None while all is well
    """

    loaded: bool
    path: str
    share: float
    name: str = ""
    version: str = ""
    since: float = 0.0
    waiting: int = 0
    routes: Mapping[tuple[str, str], int] = {}
    tasks: Mapping[tuple[str, bool], int] = {}
    changes: Mapping[tuple[str, str], int] = {}
    runs: tuple[int, ...] = ()
    run_s: float = 0.0
    dropped: Mapping[ShadowDrop, int] = {}
    trouble: str | None = None

    @property
    def compared(self) -> int:
        return sum(self.routes.values())

    @property
    def agreement(self) -> float | None:
        """Share of the compared queries that take the same route; None of none."""
        same = sum(count for (live, shadow), count in self.routes.items() if live == shadow)
        return same / self.compared if self.compared else None


class ExportStatistics(msgspec.Struct, frozen=True):
    """What was sent by OTLP, by signal: `metrics` or `traces`.

    healthy  whether the receiver took the last push
    pushes   by signal and outcome
    dropped  traced queries whose spans were not sent, by reason: `full`, `failed`
    """

    healthy: Mapping[str, bool]
    pushes: Mapping[tuple[str, str], int]
    dropped: Mapping[str, int]
