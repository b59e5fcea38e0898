"""The autoscalers of three platforms, as they are documented: from what was seen to how many instances.

No clock and no platform: `observe` is told once a second what there was, `desired` says every
`every_s` seconds how many instances there shall be. What a platform does not document (how long it
takes to start a container) is not here but in the simulation's assumptions.

Knative     https://knative.dev/docs/serving/autoscaling/kpa-specific/ and …/autoscaling/concurrency/
Cloud Run   https://cloud.google.com/run/docs/about-instance-autoscaling
Kubernetes  https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Load(NamedTuple):
    """What a platform sees of one second.

    concurrency  queries on their way, waiting ones too: the second's mean
    cpu          CPUs that all instances together used
    """

    now_s: float
    concurrency: float
    cpu: float


class Autoscaler(Protocol):
    every_s: float
    minimum: int
    concurrency: int
    wait_max_s: float

    def observe(self, load: Load) -> None: ...

    def desired(self, now_s: float, ready: int, starting: int) -> int: ...

    def on_demand(self, pending: int, ready: int, starting: int) -> int:
        """How many more to start at once for queries that no instance takes."""
        ...


@dataclass
class Fixed:
    """So many instances, whatever comes."""

    minimum: int
    concurrency: int = 1 << 30
    wait_max_s: float = 10.0
    every_s: float = 60.0

    def observe(self, load: Load) -> None: ...

    def desired(self, now_s: float, ready: int, starting: int) -> int:
        return self.minimum

    def on_demand(self, pending: int, ready: int, starting: int) -> int:
        return 0


@dataclass
class _Seen:
    """Loads of the last while."""

    keep_s: float
    loads: deque[Load] = field(default_factory=deque)

    def add(self, load: Load) -> None:
        self.loads.append(load)
        while self.loads and self.loads[0].now_s <= load.now_s - self.keep_s:
            self.loads.popleft()

    def mean(self, place: int, now_s: float, over_s: float) -> float:
        """The mean of the last `over_s` seconds of a load's member; of fewer where there were fewer."""
        total, count, begin_s = 0.0, 0, now_s - over_s
        for load in reversed(self.loads):
            if load[0] <= begin_s:
                break
            total += load[place]
            count += 1
        return total / count if count else 0.0


CONCURRENCY, CPU = 1, 2


@dataclass
class Knative:
    """The KPA on concurrency: a stable window, and a panic window that acts on bursts and never scales down.

    concurrency  containerConcurrency, a hard bound: what no instance takes waits in the activator
    target       queries in flight that it aims at, of one instance (autoscaling.knative.dev/target, by default the
                 bound), times `utilization` (target-utilization-percentage)
    wait_max_s   timeoutSeconds
    """

    minimum: int = 0
    maximum: int = 1 << 30
    concurrency: int = 40
    target: float = 40.0
    utilization: float = 0.7
    stable_s: float = 60.0
    panic_share: float = 0.1
    panic_threshold: float = 2.0
    up_max: float = 1000.0
    down_max: float = 2.0
    grace_s: float = 30.0
    wait_max_s: float = 10.0
    every_s: float = 2.0

    def __post_init__(self) -> None:
        self._seen = _Seen(self.stable_s)
        self._panic_since: float | None = None
        self._panic_most = 0
        self._idle_since: float | None = None

    def observe(self, load: Load) -> None:
        self._seen.add(load)

    def desired(self, now_s: float, ready: int, starting: int) -> int:
        have = max(ready, 1)
        per = min(self.target, self.concurrency) * self.utilization
        stable = self._seen.mean(CONCURRENCY, now_s, self.stable_s)
        wanted = {}
        for name, over_s in (("stable", self.stable_s), ("panic", self.stable_s * self.panic_share)):
            raw = math.ceil(self._seen.mean(CONCURRENCY, now_s, over_s) / per)
            wanted[name] = min(max(raw, math.floor(have / self.down_max)), math.ceil(have * self.up_max))
            if name == "panic" and raw / have >= self.panic_threshold:
                self._panic_since = now_s
        if self._panic_since is not None and now_s - self._panic_since > self.stable_s:
            self._panic_since, self._panic_most = None, 0
        if self._panic_since is not None:
            self._panic_most = max(self._panic_most, wanted["panic"], ready)
            return self._bounded(max(self._panic_most, wanted["stable"]))
        if stable > 0:
            self._idle_since = None
            return self._bounded(max(wanted["stable"], 1))
        if self._idle_since is None:
            self._idle_since = now_s
        # The last one goes after the grace period, when a whole stable window saw nothing.
        return self._bounded(0 if now_s - self._idle_since >= self.grace_s else 1)

    def on_demand(self, pending: int, ready: int, starting: int) -> int:
        """From zero the activator asks for one at once."""
        return 0 if ready or starting else 1

    def _bounded(self, wanted: int) -> int:
        return min(max(wanted, self.minimum), self.maximum)


@dataclass
class CloudRun:
    """Metrics of one minute, and on-demand starts for queries that wait.

    concurrency  maximum requests at once of one instance, a hard bound
    wait_max_s   how long a query may wait for an instance: 3.5 starts, 10 s at least; then it is a 429
    """

    minimum: int = 0
    maximum: int = 1 << 30
    concurrency: int = 40
    cpu_target: float = 0.6
    concurrency_target: float = 0.6
    window_s: float = 60.0
    wait_max_s: float = 10.0
    every_s: float = 5.0

    def __post_init__(self) -> None:
        self._seen = _Seen(self.window_s)

    def observe(self, load: Load) -> None:
        self._seen.add(load)

    def desired(self, now_s: float, ready: int, starting: int) -> int:
        by_cpu = self._seen.mean(CPU, now_s, self.window_s) / self.cpu_target
        flying = self._seen.mean(CONCURRENCY, now_s, self.window_s)
        by_concurrency = flying / (self.concurrency * self.concurrency_target)
        wanted = math.ceil(max(by_cpu, by_concurrency))
        return min(max(wanted, self.minimum), self.maximum)

    def on_demand(self, pending: int, ready: int, starting: int) -> int:
        more = math.ceil(pending / self.concurrency) - starting
        return max(0, min(more, self.maximum - ready - starting))


@dataclass
class Hpa:
    """Kubernetes' HorizontalPodAutoscaler on CPU, with its lags.

    It looks every 15 s at figures that metrics-server takes every 15 s. Pods that start count as idle when it
    scales up. `concurrency` is no bound here: the gateway's own queue is (QUEUE_MIN).
    """

    minimum: int = 2
    maximum: int = 1 << 30
    cpu_target: float = 0.6
    tolerance: float = 0.1
    sync_s: float = 15.0
    resolution_s: float = 15.0
    down_s: float = 300.0
    up_share: float = 1.0
    up_pods: int = 4
    concurrency: int = 1 << 30
    wait_max_s: float = 1.0

    def __post_init__(self) -> None:
        self.every_s = self.sync_s
        self._seen = _Seen(2 * self.resolution_s)
        self._recommended: deque[tuple[float, int]] = deque()

    def observe(self, load: Load) -> None:
        self._seen.add(load)

    def desired(self, now_s: float, ready: int, starting: int) -> int:
        have = max(ready + starting, 1)
        # The newest whole interval of metrics-server.
        until = now_s - now_s % self.resolution_s
        loads = [load.cpu for load in self._seen.loads if until - self.resolution_s < load.now_s <= until]
        if not loads:
            return self._bounded(have)
        used = sum(loads) / len(loads)
        ratio = used / max(ready, 1) / self.cpu_target
        if ratio > 1:
            ratio = max(1.0, used / have / self.cpu_target)
        wanted = have if abs(ratio - 1) <= self.tolerance else math.ceil(have * ratio)
        wanted = min(wanted, max(math.ceil(have * (1 + self.up_share)), have + self.up_pods))
        self._recommended.append((now_s, wanted))
        while self._recommended[0][0] < now_s - self.down_s:
            self._recommended.popleft()
        if wanted < have:
            wanted = min(have, max(number for _, number in self._recommended))
        return self._bounded(wanted)

    def on_demand(self, pending: int, ready: int, starting: int) -> int:
        return 0

    def _bounded(self, wanted: int) -> int:
        return min(max(wanted, self.minimum), self.maximum)
