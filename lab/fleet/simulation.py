"""Fleets of gateways, reckoned: queries, instances that come and go, and an autoscaler, in SimPy.

Two grains of one world. `Detailed` follows every query: up to some 10,000 a second. `Fluid` moves
amounts in steps, for what is more or lasts a day; it is held against `Detailed` where both can go.

A query ends in exactly one way: in time, late (over `OBJECTIVE_S`), shed (a 429, or no instance in
time) or lost (its instance died, and nobody asked another).
"""

import math
import random
from bisect import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import simpy

from lab.drive import percentile
from lab.fleet.autoscalers import Autoscaler, Load
from lab.fleet.costs import Work

OBJECTIVE_S = 0.1
QUEUE_MIN = 64  # the gateway's: queries that may always wait for a lane
TIMEOUT_S = 1.0  # REQUEST_TIMEOUT_MS
TOLD_LATE_S = (0.05, 0.95)  # when a refusal is told
SHARED_WAIT_S = 0.0005  # on the way to Redis and back, in one zone
PROBE_S = 0.5  # until a start is seen by who sends queries

Rate = Callable[[float], float]
Moves = Generator[simpy.Event, None, None]


class Shares(NamedTuple):
    """Of all queries: answered by L1, by Redis, by the model; they sum to 1."""

    l1: float
    l2: float
    model: float


class Mix(NamedTuple):
    """How long queries are: (tokens, share); shares sum to 1."""

    lengths: Sequence[tuple[int, float]]

    def tokens(self, dice: random.Random) -> int:
        at = dice.random()
        for tokens, share in self.lengths:
            at -= share
            if at < 0:
                return tokens
        return self.lengths[-1][0]


@dataclass(frozen=True)
class Service:
    """CPU seconds of queries, from what was measured.

    floor_s  what a query takes beside its own CPU: the network, the proxy, the kernel
    """

    work: Work
    mix: Mix
    shares: Shares
    floor_s: float = 0.0

    def miss_s(self, tokens: int) -> float:
        return self.work.miss_us(tokens) / 1e6

    @property
    def parts(self) -> list[tuple[float, float]]:
        """(share, seconds) of every kind of query."""
        found = [(self.shares.l1, self.work.hit_us / 1e6), (self.shares.l2, self.work.shared_us / 1e6)]
        return found + [
            (self.shares.model * share, self.miss_s(tokens)) for tokens, share in self.mix.lengths
        ]

    @property
    def mean_s(self) -> float:
        return sum(share * seconds for share, seconds in self.parts)

    @property
    def square(self) -> float:
        """The second moment, in square seconds."""
        return sum(share * seconds**2 for share, seconds in self.parts)


@dataclass(frozen=True)
class Timing:
    """How instances come and go.

    start_s  from wanting one to its first query: the platform's part and the gateway's own
    drain_s  from being unwanted to its end; it is paid for, and answers no new query
    """

    start_s: float
    drain_s: float


class Sample(NamedTuple):
    """One second: what was asked, of that in time (share), and instances."""

    at_s: float
    per_s: float
    in_time: float
    ready: int


@dataclass
class Result:
    """What came of a run. `offered` = `in_time` + `late` + `shed` + `lost`.

    retried     queries that were asked of another instance, since theirs died
    instance_s  seconds that instances were paid for
    cpu_s       seconds of CPU that queries used
    by_level    latencies of the answered by who answered: "l1", "l2", "model"; empty in a fluid run
    """

    offered: float = 0
    in_time: float = 0
    late: float = 0
    shed: float = 0
    lost: float = 0
    retried: float = 0
    instance_s: float = 0.0
    cpu_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    by_level: dict[str, list[float]] = field(default_factory=dict)

    @property
    def good(self) -> float:
        """The share of queries that were answered in time."""
        return self.in_time / self.offered if self.offered else 1.0

    @property
    def most(self) -> int:
        return max((sample.ready for sample in self.samples), default=0)

    @property
    def took_s(self) -> list[float]:
        """Latencies of all the answered, in seconds, in ascending order."""
        return self.of("l1", "l2", "model")

    def of(self, *levels: str) -> list[float]:
        """Those that some levels answered, in ascending order."""
        return sorted(took_s for level in levels for took_s in self.by_level.get(level, ()))

    def ms(self, fraction: float) -> float:
        return percentile(self.took_s, fraction) * 1000

    def bad_s(self, below: float = 0.99) -> float:
        """Seconds in which fewer than this share of what was asked came in time."""
        return sum(sample.in_time < below for sample in self.samples)


class Cpus:
    """Some CPUs. Model runs take turns on them; a hit interrupts and is done at once, as the kernel has it.

    ours  the share of them that is ours: neighbours have the rest
    """

    def __init__(self, count: int, ours: float = 1.0) -> None:
        self._free = [0.0] * count
        self._ours = ours

    def run(self, now_s: float, seconds: float) -> float:
        """When a run that may begin now will have ended."""
        place = min(range(len(self._free)), key=self._free.__getitem__)
        self._free[place] = max(now_s, self._free[place]) + seconds / self._ours
        return self._free[place]

    def interrupt(self, now_s: float, seconds: float) -> float:
        """When a short piece of work will have ended: twice its time where every CPU is taken."""
        place = min(range(len(self._free)), key=self._free.__getitem__)
        busy = self._free[place] > now_s
        self._free[place] = max(now_s, self._free[place]) + seconds / self._ours
        return now_s + seconds / self._ours * (2 if busy else 1)


class L1:
    """An instance's own cache: entries with an end, the longest unused go first."""

    def __init__(self, size: int, ttl_s: float) -> None:
        self._size = size
        self._ttl_s = ttl_s
        self._ends: OrderedDict[int, float] = OrderedDict()

    def get(self, kind: int, now_s: float) -> bool:
        if self._ends.get(kind, -1.0) <= now_s:
            return False
        self._ends.move_to_end(kind)
        return True

    def put(self, kind: int, now_s: float) -> None:
        self._ends[kind] = now_s + self._ttl_s
        self._ends.move_to_end(kind)
        if len(self._ends) > self._size:
            self._ends.popitem(last=False)


@dataclass
class Caches:
    """Real caches in the simulation: what is asked, and who remembers it.

    kinds  which query each arrival is
    """

    kinds: Iterator[int]
    size: int = 10_000
    ttl_s: float = 300.0
    shared_ttl_s: float = 3600.0
    shared: bool = True
    redis: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._under_way: dict[tuple[int, int], float] = {}

    def level(self, instance: "Instance", now_s: float) -> tuple[str, int]:
        kind = next(self.kinds)
        if instance.l1 is None:
            instance.l1 = L1(self.size, self.ttl_s)
        if instance.l1.get(kind, now_s):
            return "l1", kind
        if self.shared and self.redis.get(kind, -1.0) > now_s:
            instance.l1.put(kind, now_s)
            return "l2", kind
        return "model", kind

    def store(self, instance: "Instance", kind: int, now_s: float) -> None:
        if instance.l1 is not None:
            instance.l1.put(kind, now_s)
        self.redis[kind] = now_s + self.shared_ttl_s


class Instance:
    """One gateway: a lane, a queue, and who is on the way through it."""

    __slots__ = ("cpus", "l1", "lane_free_s", "open", "since_s", "waiting")

    def __init__(self, cpus: Cpus, since_s: float) -> None:
        self.cpus = cpus
        self.since_s = since_s  # since when it is paid for
        self.lane_free_s = 0.0
        self.waiting = 0
        self.open: dict[int, float] = {}  # queries by number, and when each was due
        self.l1: L1 | None = None


class _World:
    """What both grains share: instances that start, drain and die, and the autoscaler's beat."""

    def __init__(
        self, service: Service, scaler: Autoscaler, timing: Timing, rate: Rate, seconds: float, seed: int
    ) -> None:
        self.env = simpy.Environment()
        self.service = service
        self.scaler = scaler
        self.timing = timing
        self.rate = rate
        self.seconds = seconds
        self.dice = random.Random(seed)
        self.result = Result()
        self.ready: list[Instance] = []
        self.starting = 0
        self._unwanted = 0  # of those that start
        self._draining: list[Instance] = []

    def run(self, *, ready: int = 0, lose: Sequence[tuple[float, float]] = ()) -> Result:
        """
        ready  instances at the beginning
        lose   (when, share of the instances that are ready): a zone, or spot instances that are taken back
        """
        for _ in range(ready):
            self.ready.append(self.made())
        self.env.process(self._beat())
        self.env.process(self.traffic())
        for at_s, share in lose:
            self.env.process(self._lose(at_s, share))
        self.env.run(until=self.seconds)
        self.finish()
        for instance in (*self.ready, *self._draining):
            self.result.instance_s += self.seconds - min(instance.since_s, self.seconds)
        return self.result

    def made(self) -> Instance:
        return Instance(Cpus(1), self.env.now)

    def traffic(self) -> Moves:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def load(self) -> Load:
        raise NotImplementedError

    def came(self) -> None:
        """An instance has become ready."""

    def dies(self, instance: Instance) -> None:
        """An instance is gone, with all that it was doing."""

    def want(self, count: int) -> None:
        """Have so many instances, starting ones among them."""
        have = len(self.ready) + self.starting - self._unwanted
        for _ in range(count - have):
            if self._unwanted:
                self._unwanted -= 1
            else:
                self.env.process(self._start())
        for _ in range(have - count):
            if self.starting > self._unwanted:
                self._unwanted += 1
            else:
                # The one with the least to do.
                instance = min(self.ready, key=lambda one: len(one.open))
                self.ready.remove(instance)
                self.env.process(self._drain(instance))

    def _start(self) -> Moves:
        self.starting += 1
        asked_s = self.env.now
        yield self.env.timeout(self.timing.start_s)
        self.starting -= 1
        if self._unwanted:
            self._unwanted -= 1
            self.result.instance_s += self.env.now - asked_s
            return
        instance = self.made()
        instance.since_s = asked_s
        self.ready.append(instance)
        self.came()

    def _drain(self, instance: Instance) -> Moves:
        self._draining.append(instance)
        yield self.env.timeout(self.timing.drain_s)
        while instance.open:
            yield self.env.timeout(0.1)
        self._draining.remove(instance)
        self.result.instance_s += self.env.now - instance.since_s

    def _lose(self, at_s: float, share: float) -> Moves:
        yield self.env.timeout(at_s)
        for instance in self.dice.sample(self.ready, round(share * len(self.ready))):
            self.ready.remove(instance)
            self.result.instance_s += self.env.now - instance.since_s
            self.dies(instance)

    def _beat(self) -> Moves:
        """Each second a look at the load; and the autoscaler whenever its time has come."""
        due_s = self.scaler.every_s
        while True:
            yield self.env.timeout(1.0)
            self.scaler.observe(self.load())
            if self.env.now >= due_s - 1e-9:
                due_s += self.scaler.every_s
                starting = self.starting - self._unwanted
                self.want(self.scaler.desired(self.env.now, len(self.ready), starting))


class Detailed(_World):
    """Every query by itself.

    caches   who remembers what; without them a query's level is drawn by the service's shares
    retries  whether the queries of an instance that dies are asked of another
    machine  the CPUs that all instances share; without it each has one of its own
    beside_s CPU on that machine beside the gateways': HAProxy, Redis, the driver
    """

    def __init__(
        self,
        service: Service,
        scaler: Autoscaler,
        timing: Timing,
        rate: Rate,
        seconds: float,
        *,
        seed: int = 1,
        caches: Caches | None = None,
        retries: bool = True,
        machine: Cpus | None = None,
        beside_s: float = 0.0,
        arrivals: Iterator[float] | None = None,
        callers: int = 0,
        queries: int = 0,
    ) -> None:
        """
        arrivals  moments at which queries come, instead of by the rate
        callers   so many who wait for their answers and ask again, instead of arrivals;
                  after this number of `queries`, or at the end, no more
        """
        super().__init__(service, scaler, timing, rate, seconds, seed)
        self.caches = caches
        self.retries = retries
        self.machine = machine
        self.beside_s = beside_s
        self.arrivals = arrivals
        self.callers = callers
        self.queries = queries
        self.ended_s = 0.0  # when the last query did
        self.pending: deque[tuple[int, float]] = deque()
        self._number = self._turn = 0
        self._open_s = 0.0  # query seconds since the last look
        self._open = 0
        self._changed_s = 0.0
        self._cpu_s = 0.0
        self._second = [0, 0]  # asked, and in time, of those that were due in this second
        self._seconds: dict[int, list[int]] = {}

    def made(self) -> Instance:
        return Instance(self.machine or Cpus(1), self.env.now)

    def traffic(self) -> Moves:
        self.env.process(self._give_up())
        if self.callers:
            for _ in range(self.callers):
                self._arrive()
            return
        if self.arrivals is not None:
            for at_s in self.arrivals:
                if at_s >= self.seconds:
                    return
                if at_s > self.env.now:
                    yield self.env.timeout(at_s - self.env.now)
                self._arrive()
            return
        while True:
            per_s = self.rate(self.env.now)
            # Where nothing comes, look again in a moment; so a rate that rises is noticed.
            gap_s = self.dice.expovariate(per_s) if per_s > 0 else math.inf
            if gap_s > 0.05 and per_s < 20:
                yield self.env.timeout(min(gap_s, 0.05))
                if gap_s > 0.05:
                    continue
            else:
                yield self.env.timeout(gap_s)
            if self.env.now < self.seconds:
                self._arrive()

    def load(self) -> Load:
        self._count(0)
        mean, cpu = self._open_s, self._cpu_s
        self._open_s = self._cpu_s = 0.0
        self._sample()
        return Load(self.env.now, mean, cpu)

    def finish(self) -> None:
        """Let those that are on their way end, without an autoscaler and without new queries."""
        while self._open:
            before = self._open
            self.env.step()
            if not self.ready and self._open == before and self.env.now > self.seconds + 60:
                break
        while self.pending:
            self._end(self.pending.popleft()[1], "shed")
        self.result.samples = [
            sample._replace(in_time=self._good(int(sample.at_s) - 1)) for sample in self.result.samples
        ]

    def came(self) -> None:
        while self.pending and (instance := self._pick()) is not None:
            self._begin(instance, *self.pending.popleft())

    def dies(self, instance: Instance) -> None:
        owed, instance.open = instance.open, {}
        for number, due_s in owed.items():
            if not self.retries:
                self._end(due_s, "lost")
                continue
            self.result.retried += 1
            self._send(number, due_s)

    def _arrive(self) -> None:
        self._number += 1
        self.result.offered += 1
        self._count(1)
        self._seconds.setdefault(int(self.env.now), [0, 0])[0] += 1
        self._send(self._number, self.env.now)

    def _send(self, number: int, due_s: float) -> None:
        instance = self._pick()
        if instance is not None:
            self._begin(instance, number, due_s)
            return
        self.pending.append((number, due_s))
        starting = self.starting - self._unwanted
        more = self.scaler.on_demand(len(self.pending), len(self.ready), starting)
        if more:
            self.want(len(self.ready) + starting + more)

    def _pick(self) -> Instance | None:
        """The least busy, in turns where there are several; among many, of two that are drawn."""
        count = len(self.ready)
        if count > 8:
            some = [self.ready[int(self.dice.random() * count)] for _ in range(2)]
        else:
            self._turn += 1
            turn = self._turn % max(count, 1)
            some = self.ready[turn:] + self.ready[:turn]
        best = min(some, key=lambda one: len(one.open), default=None)
        if best is not None and len(best.open) >= self.scaler.concurrency:
            best = min(self.ready, key=lambda one: len(one.open))
        return best if best is not None and len(best.open) < self.scaler.concurrency else None

    def _begin(self, instance: Instance, number: int, due_s: float) -> None:
        now_s = self.env.now
        instance.open[number] = due_s
        level, kind = self._level(instance)
        work = self.service.work
        if self.machine is not None:
            self.machine.interrupt(now_s, self.beside_s)
        how = "answered"
        if level == "model":
            ends_s, how = self._miss(instance)
        else:
            cost_s = (work.hit_us if level == "l1" else work.shared_us) / 1e6
            ends_s = instance.cpus.interrupt(now_s, cost_s) + (SHARED_WAIT_S if level == "l2" else 0.0)
            self._cpu_s += cost_s
            self.result.cpu_s += cost_s
        ending = self.env.timeout(ends_s - now_s + self.service.floor_s)
        assert ending.callbacks is not None
        ending.callbacks.append(partial(self._done, instance, number, due_s, how, level, kind))

    def _level(self, instance: Instance) -> tuple[str, int]:
        if self.caches is not None:
            return self.caches.level(instance, self.env.now)
        at = self.dice.random()
        shares = self.service.shares
        return ("l1" if at < shares.l1 else "l2" if at < shares.l1 + shares.l2 else "model"), 0

    def _miss(self, instance: Instance) -> tuple[float, str]:
        """When it ends, and how: the gateway's own law says who may wait."""
        now_s = self.env.now
        waits_s = max(0.0, instance.lane_free_s - now_s)
        if instance.waiting > QUEUE_MIN or waits_s > TIMEOUT_S:
            least, most = TOLD_LATE_S
            cost_s = self.service.work.hit_us / 1e6
            instance.cpus.interrupt(now_s, cost_s)
            self._cpu_s += cost_s
            self.result.cpu_s += cost_s
            return now_s + min(max(waits_s, least), most), "shed"
        cost_s = self.service.miss_s(self.service.mix.tokens(self.dice))
        instance.lane_free_s = instance.cpus.run(max(now_s, instance.lane_free_s), cost_s)
        instance.waiting += 1
        self._cpu_s += cost_s
        self.result.cpu_s += cost_s
        return instance.lane_free_s, "answered"

    def _done(
        self, instance: Instance, number: int, due_s: float, how: str, level: str, kind: int, _: simpy.Event
    ) -> None:
        if how == "answered" and level == "model":
            instance.waiting -= 1
        if instance.open.pop(number, None) is None:
            return  # it died meanwhile
        if how == "answered" and level == "model" and self.caches is not None:
            self.caches.store(instance, kind, self.env.now)
        self._end(due_s, how, level)
        if self.pending and instance in self.ready and len(instance.open) < self.scaler.concurrency:
            self._begin(instance, *self.pending.popleft())
        if self.callers and self.env.now < self.seconds and not 0 < self.queries <= self._number:
            self._arrive()

    def _end(self, due_s: float, how: str, level: str = "") -> None:
        self._count(-1)
        self.ended_s = self.env.now
        if how == "answered":
            took_s = self.env.now - due_s
            self.result.by_level.setdefault(level, []).append(took_s)
            if took_s <= OBJECTIVE_S:
                self.result.in_time += 1
                self._seconds[int(due_s)][1] += 1
            else:
                self.result.late += 1
        elif how == "shed":
            self.result.shed += 1
        else:
            self.result.lost += 1

    def _give_up(self) -> Moves:
        """Who has waited too long for an instance is told so."""
        while True:
            yield self.env.timeout(0.1)
            while self.pending and self.pending[0][1] <= self.env.now - self.scaler.wait_max_s:
                self._end(self.pending.popleft()[1], "shed")

    def _count(self, change: int) -> None:
        self._open_s += self._open * (self.env.now - self._changed_s)
        self._changed_s = self.env.now
        self._open += change

    def _sample(self) -> None:
        asked = self._seconds.get(int(self.env.now) - 1, [0, 0])[0]
        self.result.samples.append(Sample(self.env.now, asked, 1.0, len(self.ready)))

    def _good(self, second: int) -> float:
        asked, good = self._seconds.get(second, [0, 0])
        return good / asked if asked else 1.0


class Fluid(_World):
    """Amounts instead of queries, moved every `step_s`. No randomness but in which instances are lost.

    Those who wait are served in the order in which they came, and each knows how long it waited. Where nobody is
    behind, n instances that are chosen by their load wait like M/G/n in heavy traffic:
    P(wait > x) = P(wait) · exp(-2n(1-ρ)x / (s(1+c²))).
    """

    def __init__(
        self,
        service: Service,
        scaler: Autoscaler,
        timing: Timing,
        rate: Rate,
        seconds: float,
        *,
        seed: int = 1,
        step_s: float = 0.1,
        retries: bool = True,
    ) -> None:
        super().__init__(service, scaler, timing, rate, seconds, seed)
        self.step_s = step_s
        self.retries = retries
        self._waiting: deque[list[float]] = deque()  # (when they came, how many)
        self._mean_s = service.mean_s
        self._spread = service.square / service.mean_s**2  # 1 + c²
        # A platform that bounds what an instance is given holds back hits as well.
        self._overtaken = scaler.concurrency > QUEUE_MIN and service.shares.model < 1
        model = service.shares.model
        self._miss_s = sum(s * service.miss_s(t) for t, s in service.mix.lengths)
        self._hit_s = (service.mean_s - model * self._miss_s) / (1 - model) if model < 1 else 0.0
        self._flying = 0.0
        self._busy = 0.0
        self._second = [0.0, 0.0]
        self._looks = 0.0

    def traffic(self) -> Moves:
        while True:
            self._step()
            yield self.env.timeout(self.step_s)

    def load(self) -> Load:
        looks = max(self._looks, self.step_s)
        load = Load(self.env.now, self._flying / looks, self._busy / looks)
        asked, good = self._second
        self.result.samples.append(
            Sample(self.env.now, asked / looks, good / asked if asked else 1.0, len(self.ready))
        )
        self._flying = self._busy = self._looks = 0.0
        self._second = [0.0, 0.0]
        return load

    def finish(self) -> None:
        """Who still waits is late, if an instance is there to answer; else shed."""
        left = sum(count for _, count in self._waiting)
        if self.ready:
            self.result.late += left
            self.result.cpu_s += left * self._mean_s
        else:
            self.result.shed += left

    def dies(self, instance: Instance) -> None:
        """What it was doing is an equal part of all that was under way."""
        before = len(self.ready) + 1
        flying = min(self._served_per_s() * self._base_s(before), before * float(QUEUE_MIN))
        owed = flying / before
        if self.retries:
            self.result.retried += owed
        else:
            taken = min(owed, self.result.in_time)
            self.result.in_time -= taken
            self.result.lost += taken

    def _served_per_s(self) -> float:
        return self.rate(self.env.now)

    def _base_s(self, count: int) -> float:
        """Mean time within instances that are not behind."""
        busy = min(0.98, self.rate(self.env.now) * self._mean_s / max(count, 1))
        waits = _waits(busy, count) * self._spread / 2 / (max(count, 1) * (1 - busy))
        return self._mean_s * (1 + waits) + self.service.floor_s

    def _step(self) -> None:
        now_s, step_s = self.env.now, self.step_s
        came = self.rate(now_s) * step_s
        self.result.offered += came
        self._second[0] += came
        if came:
            self._waiting.append([now_s, came])
        count = len(self.ready)
        cpu_s = count * step_s
        busy = min(0.98, came * self._mean_s / cpu_s) if cpu_s else 0.98
        # How many wait longer than the objective though nobody is behind.
        slack_s = OBJECTIVE_S - self._mean_s - self.service.floor_s
        decay = 2 * max(count, 1) * (1 - busy) / (self._mean_s * self._spread)
        tail = _waits(busy, count) * math.exp(-decay * slack_s)
        served, each_s = 0.0, self._mean_s
        if self._overtaken and came and count:
            # Hits interrupt what runs; only the model's queries wait in the gateway.
            hits = min(came * (1 - self.service.shares.model), cpu_s / self._hit_s)
            self._waiting[-1][1] -= hits
            cpu_s -= hits * self._hit_s
            self._answer(hits, 0.0, tail)
            self._busy += hits * self._hit_s
            self.result.cpu_s += hits * self._hit_s
            served, each_s = hits, self._miss_s
        room = cpu_s / each_s
        taken_all = 0.0
        while self._waiting and room > taken_all:
            since_s, amount = self._waiting[0]
            taken = min(amount, room - taken_all)
            if taken == amount:
                self._waiting.popleft()
            else:
                self._waiting[0][1] = amount - taken
            taken_all += taken
            self._answer(taken, now_s - since_s - slack_s, tail)
        served += taken_all
        left = sum(amount for _, amount in self._waiting)
        self._shed(count, now_s)
        self.result.cpu_s += taken_all * each_s
        self._busy += taken_all * each_s
        self._looks += step_s
        self._flying += (left + served / step_s * self._base_s(count)) * step_s
        starting = self.starting - self._unwanted
        held = left - count * self.scaler.concurrency
        if held > 0:
            more = self.scaler.on_demand(math.ceil(held), count, starting)
            if more:
                self.want(count + starting + more)

    def _answer(self, amount: float, over_s: float, tail: float) -> None:
        """So many are answered, so long after what would still have been in time."""
        good = amount * (1 - tail) if over_s <= 0 else 0.0
        self.result.in_time += good
        self.result.late += amount - good
        self._second[1] += good

    def _shed(self, count: int, now_s: float) -> None:
        """Who waited too long for an instance goes; and where nothing holds them back, the gateways' queues are full."""
        while self._waiting and self._waiting[0][0] <= now_s - self.scaler.wait_max_s:
            self.result.shed += self._waiting.popleft()[1]
        if self._overtaken or self.scaler.concurrency > QUEUE_MIN:
            over = sum(amount for _, amount in self._waiting) - count * (QUEUE_MIN + 1)
            while over > 0 and self._waiting:
                # The newest are refused.
                taken = min(over, self._waiting[-1][1])
                self._waiting[-1][1] -= taken
                if self._waiting[-1][1] <= 0:
                    self._waiting.pop()
                self.result.shed += taken
                over -= taken


def _waits(busy: float, count: int) -> float:
    """The chance that all of so many servers are taken (Sakasegawa 1977)."""
    return float(busy ** (math.sqrt(2 * (max(count, 1) + 1)) - 1))


def steady(per_s: float) -> Rate:
    return lambda _: per_s


def burst(per_s: float, times: float = 10.0, *, at_s: float = 60.0, over_s: float = 10.0) -> Rate:
    """`times` as much within `over_s` seconds from `at_s` on, and so it stays."""

    def rate(now_s: float) -> float:
        return per_s * (1 + (times - 1) * min(max((now_s - at_s) / over_s, 0.0), 1.0))

    return rate


DAY = (0.32, 0.25, 0.21, 0.19, 0.19, 0.23, 0.33, 0.49, 0.68, 0.84, 0.93, 0.97, 0.96, 0.97, 1.0, 0.99, 0.96, 0.92, 0.87, 0.82, 0.75, 0.65, 0.53, 0.42)  # fmt: skip


def day(peak_per_s: float, *, spans_s: float = 86_400.0) -> Rate:
    """A working day, hour by hour, with straight lines between; `spans_s` squeezes it."""
    edges = [spans_s * hour / 24 for hour in range(25)]

    def rate(now_s: float) -> float:
        at_s = now_s % spans_s
        hour = min(bisect(edges, at_s) - 1, 23)
        into = (at_s - edges[hour]) / (spans_s / 24)
        return peak_per_s * (DAY[hour] + (DAY[(hour + 1) % 24] - DAY[hour]) * into)

    return rate
