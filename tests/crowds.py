"""Crowds of callers against `Plan` and `Refusals` in virtual time: no loop, no thread, no noise.

`Machine` is a gateway of so many CPUs, drawn as simply as the law of the queue needs it: a
run takes a fixed time and a time per token, every request takes a moment of the same CPUs,
and a neighbour may take a share of them. What callers see is counted in `Seen`.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from handler.batching import Plan, Ticket
from handler.errors import Overloaded
from handler.query import Normalised
from handler.refusals import Refusals
from lab.drive import percentile
from tests.fakes import FakeRouter

MODEL = FakeRouter()
SHORT, PAGE = 16, 114  # tokens of a sentence, and of a text longer than the model reads
RUN_S, TOKEN_S = 0.00016, 0.00006
# The event loop's share of a request, whatever it is answered.
REQUEST_S = 0.00012
TIMEOUT_S = 1.0


@dataclass
class Seen:
    """What callers saw. Latencies in seconds."""

    answered_s: list[float] = field(default_factory=list)
    refused: int = 0
    late: int = 0  # answered, or dropped, past their deadline
    held_s: list[float] = field(default_factory=list)

    def p(self, fraction: float) -> float:
        return percentile(sorted(self.answered_s), fraction)


class Machine:
    """A gateway in virtual time. `ask` begins a query; `run_until` lets time pass."""

    def __init__(self, *, cpus: int = 1, busy_with_others: float = 0.0, plan: Plan | None = None) -> None:
        self.plan = (
            plan
            if plan is not None
            else Plan(size_max=32, tokens_max=256, queue_min=64, queue_max=1024, lanes=cpus)
        )
        self.refusals = Refusals(delayed_max=self.plan.queue_max, per_s=250 * cpus)
        self.now = 0.0
        self.cpus = cpus
        self.slowness = 1 / (1 - busy_with_others)
        self.free = cpus
        self._owed_s = 0.0  # work of the event loop that no run was stretched by yet
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._done: dict[int, Callable[[str], None]] = {}

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), do))

    def run_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, do = heapq.heappop(self._events)
            do()
        self.now = end

    def ask(
        self, tokens: int, ended: Callable[[str], None], *, bulk: bool = False, caller: bytes = b""
    ) -> None:
        """A query arrives now; `ended` is told `answered`, `late` or `refused`, when its caller is."""
        self._owed_s += REQUEST_S
        deadline = self.now + TIMEOUT_S
        ticket = Ticket(
            query=Normalised(""), scorer=MODEL, tokens=tokens, deadline=deadline, bulk=bulk, caller=caller
        )
        try:
            self.plan.add(ticket, self.now)
        except Overloaded:
            at = self.refusals.due_at(self.now, deadline)
            if at <= self.now:
                self.at(at + REQUEST_S, lambda: ended("refused"))
                return
            self.refusals.delayed += 1

            def tell() -> None:
                self.refusals.delayed -= 1
                ended("refused")

            self.at(at, tell)
            return
        self._done[id(ticket)] = ended
        self._start_runs()

    def _start_runs(self) -> None:
        while self.free and len(self.plan):
            batch, dropped = self.plan.take(self.now, self.free)
            for ticket, _ in dropped:
                self._done.pop(id(ticket))("late")
            if not batch:
                continue
            took_s = RUN_S + TOKEN_S * sum(ticket.tokens for ticket in batch)
            took_s = (took_s + self._owed_s / self.cpus) * self.slowness
            self._owed_s = 0.0
            self.free -= 1
            self.at(self.now + took_s, partial(self._ended, batch, took_s))

    def _ended(self, batch: list[Ticket], took_s: float) -> None:
        self.free += 1
        self.plan.ran(batch, took_s / self.cpus)
        for ticket in batch:
            self._done.pop(id(ticket))("answered" if self.now <= ticket.deadline else "late")
        self._start_runs()


def closed(
    machine: Machine, callers: int, *, tokens: int = SHORT, seconds: float = 2.0, warm_s: float = 0.0
) -> Seen:
    """So many callers, each of whom asks again as soon as it is told anything."""
    seen = Seen()
    began, end = machine.now + warm_s, machine.now + warm_s + seconds

    def ask() -> None:
        asked = machine.now

        def ended(how: str) -> None:
            if began <= machine.now < end:
                note(seen, how, machine.now - asked)
            if machine.now < end:
                machine.at(machine.now + 0.0001, ask)

        machine.ask(tokens, ended)

    for _ in range(callers):
        machine.at(machine.now, ask)
    machine.run_until(end)
    return seen


def flood(
    machine: Machine, per_s: float, *, tokens: int = SHORT, seconds: float = 2.0, seed: int = 0, **who: object
) -> Seen:
    """Queries at random moments (Poisson), answered or not."""
    seen = Seen()
    dice = random.Random(seed)
    end = machine.now + seconds
    due = machine.now

    def ask() -> None:
        asked = machine.now
        machine.ask(tokens, lambda how: note(seen, how, machine.now - asked), **who)  # type: ignore[arg-type]

    while (due := due + dice.expovariate(per_s)) < end:
        machine.at(due, ask)
    machine.run_until(end + TIMEOUT_S)
    return seen


def note(seen: Seen, how: str, took_s: float) -> None:
    if how == "answered":
        seen.answered_s.append(took_s)
    elif how == "refused":
        seen.refused += 1
        seen.held_s.append(took_s)
    else:
        seen.late += 1


def capacity(*, cpus: int = 1, tokens: int = SHORT) -> float:
    """Queries a second that so many CPUs answer when they are never idle."""
    return len(closed(Machine(cpus=cpus), 32, tokens=tokens).answered_s) / 2.0
