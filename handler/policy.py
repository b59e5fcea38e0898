"""From a query's scores to a route: needs, tiers, the threshold and nothing else.

A policy says how much each task *needs* a large model, from 0 to 1, and cuts that
scale into tiers, the cheapest first. The caches hold `Scores`; `decide` turns them
into an answer at answering time, so policy and threshold change without a new model
and without an empty cache. Where a policy comes from: `policy_file.py`.

need = Σ probability(task) · need(task): with needs of 0 and 1, the probability of "slow".
"""

import math
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter, mul
from typing import Any, Literal, Self, get_args

import msgspec

# A route's name is its tier's: "fast" and "slow", or what an operator calls them.
Route = Literal["fast", "slow"]
NEED: dict[str, float] = {"fast": 0.0, "slow": 1.0}
Source = Literal["tasks", "outcomes"]
# A label is a tier's place as text, the cheapest first: a closed set, since metrics carry it.
Label = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
LABELS: tuple[Label, ...] = get_args(Label)
# What an answer that was made without the model calls its task: nobody knows it.
UNKNOWN = "unknown"

# The greatest need that may be answered fast, whatever the threshold: a tie goes to slow.
HALF = math.nextafter(0.5, 0.0)
# How sure a fast answer must be: where most is right on the validation side of the mix (docs/decisions/0003).
THRESHOLD = 0.7
# What the share of the route that was taken keeps above a half, so that rounding to four digits spares it.
CLEAR = 1e-4

OPTIONS: Mapping[str, float] = {
    "SIMPLE": 0.3,
    "MEDIUM": 0.5,
    "COMPLEX": 0.8,
    "REASONING": 1.0,
    "NON_REASONING": 0.3,
}
# A number is a bound of need, a list are tasks; None is the boundary between the first tier and the others.
Predicate = float | tuple[str, ...] | None
PREDICATES: Mapping[str, Predicate] = {"needs_large": None}

# The tasks of the first edition: an operator's list of fast tasks that names no other may be that old.
FIRST_TASKS = frozenset(
    {
        *("classification", "summarization", "information_extraction", "closed_qa", "creative_writing"),
        *("brainstorming", "open_qa", "general_qa", "coding", "reasoning"),
    }
)


@lru_cache(maxsize=8)
def _packing(tasks: int) -> struct.Struct:
    return struct.Struct(f"<{tasks}f")


class Scores(msgspec.Struct, frozen=True, gc=False):
    """What the model thinks of one query, packed small because caches hold many.

    packed     (task,) little-endian float32 probabilities that sum to 1
    truncated  the model did not see the whole query
    learnt     the need that was learnt from outcomes, a float32's value; None where the
               model has learnt from none
    """

    packed: bytes
    truncated: bool = False
    learnt: float | None = None

    @classmethod
    def of(
        cls, probabilities: Sequence[float], *, truncated: bool = False, learnt: float | None = None
    ) -> Self:
        return cls(_packing(len(probabilities)).pack(*probabilities), truncated, learnt)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """One probability per task, in the manifest's order."""
        return _packing(len(self.packed) // 4).unpack(self.packed)


class UnknownTask(ValueError):
    """A policy names a task that the model does not predict."""


class Tier(msgspec.Struct, frozen=True):
    """A kind of model: it answers what needs more than the tier before it can, up to `need_max`."""

    name: str
    need_max: float


TIERS = (Tier("fast", HALF), Tier("slow", 1.0))


class Policy:
    """How much each task needs a large model, and which tier answers which need.

    tasks       names, in the order of the scores
    needs       (task,) how much each needs a large model, 0 to 1
    tiers       the cheapest first, ten at most; the last answers all that is left
    routes      the tier that each task's own need falls to
    threshold   how sure an answer of the first tier must be: 1 less its boundary. A query that asks for
                just this much gets the policy's own decision
    source      what a query's need is computed from: its tasks, or the need learnt from outcomes
    overridden  tasks whose own need counts for their share although the source is outcomes
    """

    def __init__(
        self,
        tasks: Sequence[str],
        needs: Mapping[str, float],
        *,
        tiers: Sequence[Tier] = (),
        threshold: float = THRESHOLD,
        source: Source = "tasks",
        overridden: Collection[str] = (),
        options: Mapping[str, float] = OPTIONS,
        predicates: Mapping[str, Predicate] = PREDICATES,
    ) -> None:
        """`needs` for each of the tasks, and no other. Without `tiers` there are fast and slow."""
        if set(tasks) != set(needs):
            raise ValueError(f"a policy must route exactly the tasks {', '.join(tasks)}")
        self.tasks = tuple(tasks)
        self.needs = tuple(float(needs[task]) for task in tasks)
        self.tiers = tuple(tiers) or TIERS
        self.source: Source = source
        self.overridden = frozenset(overridden)
        self.options = dict(options)
        self.predicates = dict(predicates)

        # Computed once, so that answering from a cache costs no more than it must.
        self.uppers = tuple(tier.need_max for tier in self.tiers)
        self.names = tuple(tier.name for tier in self.tiers)
        self.labels = LABELS[: len(self.tiers)]
        # No threshold moves the first boundary over a half, or over where the operator has put it.
        self._first_max = max(HALF, self.uppers[0])
        if len(self.uppers) > 1:
            self._first_max = min(self._first_max, self.uppers[1])
        self.first = self.uppers[0] if tiers else min(1.0 - threshold, self._first_max)
        self.threshold = round(1.0 - self.first, 12)  # 0.7 and not 0.7000000000000001
        places = [bisect_left(self.uppers, need) for need in self.needs]
        self.routes = {task: self.names[place] for task, place in zip(self.tasks, places, strict=True)}
        everywhere = tuple(range(len(self.tasks)))
        # By preferred tier: which probabilities to compare, and the tasks' names in that order. Where
        # no task's own need falls to the tier, or tasks do not decide, the likeliest of all is named.
        self.rivals: list[tuple[Callable[[tuple[float, ...]], Any], tuple[str, ...]]] = []
        for tier in range(len(self.tiers)):
            of_tier = tuple(i for i, place in enumerate(places) if place == tier)
            if source == "outcomes" or not of_tier:
                of_tier = everywhere
            self.rivals.append((_picking(of_tier), tuple(self.tasks[i] for i in of_tier)))
        weighed = tuple(i for i in everywhere if self.needs[i])
        self._weighed = _picking(weighed)
        self._weights = tuple(self.needs[i] for i in weighed)
        self._plain = all(weight == 1.0 for weight in self._weights)
        # Probabilities sum to 1 only nearly, and no mean of needs lies outside them.
        self._low, self._high = min(self.needs, default=0.0), max(self.needs, default=1.0)

    @classmethod
    def of_routes(cls, tasks: Sequence[str], routes: Mapping[str, Route], **options: Any) -> Self:
        """A policy that calls each task fast or slow: needs of 0 and 1."""
        return cls(tasks, {task: NEED[route] for task, route in routes.items()}, **options)

    @property
    def learns(self) -> bool:
        """Whether a query's need comes from outcomes, so that its scores must hold one."""
        return self.source == "outcomes"

    def first_boundary(self, threshold: float) -> float:
        """Where a threshold puts the boundary between the first tier and the others."""
        if threshold == self.threshold:  # 1 - 0.7 is not 0.3
            return self.first
        return min(1.0 - threshold, self._first_max)

    def boundaries(self, threshold: float | None = None) -> tuple[float, ...]:
        """The greatest need of each tier, in force for one query.

        threshold  the query's own, if it has one
        """
        first = self.first if threshold is None else self.first_boundary(threshold)
        return (first, *self.uppers[1:])

    def need(self, scores: Scores) -> float:
        """How much a query needs a large model, 0 to 1.

        Raises `ValueError` where the policy takes a learnt need and the scores hold none.
        """
        return self._need(scores, scores.probabilities)

    def _need(self, scores: Scores, probabilities: tuple[float, ...]) -> float:
        if self.source == "outcomes":
            return self._learnt(scores, probabilities)
        weighed = self._weighed(probabilities)
        need: float = sum(weighed) if self._plain else sum(map(mul, weighed, self._weights))
        return self._low if need < self._low else self._high if need > self._high else need

    def _learnt(self, scores: Scores, probabilities: tuple[float, ...]) -> float:
        if scores.learnt is None:
            raise ValueError(
                "this policy takes the need that was learnt from outcomes, and the scores hold none"
            )
        own = [(p, need) for task, p, need in zip(self.tasks, probabilities, self.needs, strict=True)
               if task in self.overridden]  # fmt: skip
        share = sum(p for p, _ in own)
        need = scores.learnt * (1.0 - share) + sum(p * need for p, need in own)
        return min(max(need, 0.0), 1.0)


def _picking(places: tuple[int, ...]) -> Callable[[tuple[float, ...]], Any]:
    """A function from a tuple to the tuple of what stands at some places, in C where it can be."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple(row[i] for i in places)


def override(tasks: Sequence[str], fast: Sequence[str]) -> Mapping[str, Route]:
    """An operator's own policy: these tasks are fast and all others slow. Raises `UnknownTask`."""
    if unknown := [task for task in fast if task not in tasks]:
        raise UnknownTask(f"{', '.join(unknown)}: not a task of this model, which knows {', '.join(tasks)}")
    return {task: "fast" if task in fast else "slow" for task in tasks}


def kept_slow(routes: Mapping[str, Route], fast: Sequence[str]) -> list[str]:
    """Tasks that the model's own policy calls fast, and an operator's list of old names keeps slow.

    routes  the model's own
    fast    the operator's; one that names any newer task knows that there are such
    """
    if not fast or not FIRST_TASKS.issuperset(fast):
        return []
    return [
        task
        for task, route in routes.items()
        if route == "fast" and task not in FIRST_TASKS and task not in fast
    ]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One answered query.

    route       name of the tier that is to answer
    label       that tier's place as text, "0" the cheapest
    task        the most probable task of the preferred route
    confidence  how sure the preferred route is: the greater of need and 1 - need
    need        how much the query needs a large model, 0 to 1
    margin      distance of need to the nearest boundary in force
    reason      why the route taken is not the one preferred, if it is not
    """

    route: str
    label: Label
    task: str
    confidence: float
    need: float
    margin: float
    reason: str | None = None
    truncated: bool = False

    @property
    def low_confidence(self) -> bool:
        """Whether the first tier was preferred and a dearer one taken, the safe side."""
        return self.reason == "low_confidence"


def decide(scores: Scores, policy: Policy, threshold: float | None = None) -> Decision:
    """Find the tier that a query's need falls to; a doubtful fast answer goes to the safe side.

    threshold  the query's own; None leaves the policy's boundaries as they are
    """
    probabilities = scores.probabilities
    need = policy._need(scores, probabilities)
    uppers = policy.uppers
    first = policy.first if threshold is None else policy.first_boundary(threshold)
    if need <= first:
        taken = preferred = 0
        margin = first - need if len(uppers) > 1 else 1.0
    else:
        taken = bisect_left(uppers, need, 1)
        # The first tier's own boundary says what it could answer; the threshold, what we let it.
        preferred = 0 if need <= uppers[0] else taken
        margin = need - (first if taken == 1 else uppers[taken - 1])
        if taken < len(uppers) - 1 and uppers[taken] - need < margin:
            margin = uppers[taken] - need
    pick, names = policy.rivals[preferred]
    rivals = pick(probabilities)
    return Decision(
        policy.names[taken],
        policy.labels[taken],
        names[rivals.index(max(rivals))],
        need if need >= 0.5 else 1.0 - need,
        need,
        margin,
        "low_confidence" if taken and not preferred else None,
        scores.truncated,
    )


def safe_decision(route: str, place: int, reason: str) -> Decision:
    """The last tier, chosen without the model: nothing is known of the query's task."""
    return Decision(route, LABELS[place], UNKNOWN, 0.5, 1.0, 0.0, reason)


def route_shares(need: float, boundaries: Sequence[float]) -> list[float]:
    """Probabilities of the tiers for wires that return one per route: the largest is the route taken.

    need        of the query, 0 to 1
    boundaries  the greatest need of each tier, in force, cheapest first (`Policy.boundaries`)
    returns     (tier,) shares that sum to 1

    Between two boundaries the need is mapped linearly, so that a boundary lies where two
    neighbouring tiers have a half each. With fast and slow that is 0.5 · need / boundary
    below the boundary, and 1 - 0.5 · (1 - need) / (1 - boundary) above it.
    """
    last = len(boundaries) - 1
    if last == 0:
        return [1.0]
    place = 0 if need <= boundaries[0] else bisect_left(boundaries, need, 1, last)
    low, at_low = (boundaries[place - 1], place - 0.5) if place else (0.0, 0.0)
    high, at_high = (boundaries[place], place + 0.5) if place < last else (1.0, float(last))
    along = (need - low) / (high - low) if high > low else 0.0
    at = at_low + along * (at_high - at_low)
    at = min(max(at, place - 0.5 + CLEAR), place + 0.5 - CLEAR)  # a tie is no decision
    shares = [0.0] * (last + 1)
    below = min(int(at), last - 1) if at > 0 else 0
    above = min(max(at - below, 0.0), 1.0)
    shares[below], shares[below + 1] = 1.0 - above, above
    return shares


def masses(scores: Scores, policy: Policy) -> list[tuple[float, float]]:
    """A query's probability, spread over the scale of need: (need, probability) pairs.

    A need that was learnt from outcomes counts as that probability of needing a large model.
    """
    probabilities = scores.probabilities
    total = sum(probabilities) or 1.0
    if not policy.learns:
        return [(need, p / total) for need, p in zip(policy.needs, probabilities, strict=True)]
    policy.need(scores)  # raises where nothing was learnt
    learnt = scores.learnt or 0.0
    own = [
        (need, p / total)
        for task, need, p in zip(policy.tasks, policy.needs, probabilities, strict=True)
        if task in policy.overridden
    ]
    left = max(1.0 - sum(p for _, p in own), 0.0)
    return [*own, (0.0, left * (1.0 - learnt)), (1.0, left * learnt)]


def option_shares(
    scores: Scores, policy: Policy, names: Sequence[str], threshold: float | None = None
) -> list[float] | None:
    """Probabilities of the options of a question, in its order; None where we cannot answer it.

    names    all of them tiers, or all options of the policy, or all tasks
    returns  (option,) shares that sum to 1

    An option answers for every need from the next smaller one asked about up to its own,
    and the greatest for all that is left. Of tasks, what falls to those asked about is
    shared out among them. Tiers alone are routes, and mapped to the boundary in force
    (`route_shares`): options and tasks are plain probabilities, which no threshold moves.
    """
    if tuple(names) == policy.names:  # as nearly everybody asks
        return route_shares(policy.need(scores), policy.boundaries(threshold))
    if not names or len(set(names)) != len(names):
        return None
    if all(name in policy.names for name in names):
        return _tier_shares(policy.need(scores), policy, names, threshold)
    if all(name in policy.options for name in names):
        return _spread(masses(scores, policy), [policy.options[name] for name in names])
    if all(name in policy.tasks for name in names):
        by_task = dict(zip(policy.tasks, scores.probabilities, strict=True))
        total = sum(by_task[name] for name in names)
        return [by_task[name] / total if total > 0 else 1 / len(names) for name in names]
    return None


def level_shares(scores: Scores, policy: Policy, levels: int) -> list[float]:
    """Probabilities of the levels of a score, lowest first: need cut into equal parts.

    levels   how many, at least 1
    returns  (level,) shares that sum to 1
    """
    return _spread(masses(scores, policy), [(level + 1) / levels for level in range(levels)])


def predicate_share(
    scores: Scores, policy: Policy, name: str, threshold: float | None = None
) -> float | None:
    """The probability that a predicate of the policy is true; None for a name that is none.

    For a bound of need, the need mapped so that the bound lies at 0.5; for a list of
    tasks, their probability.
    """
    if name not in policy.predicates:
        return None
    meant = policy.predicates[name]
    if isinstance(meant, tuple):
        by_task = dict(zip(policy.tasks, scores.probabilities, strict=True))
        return min(sum(by_task.get(task, 0.0) for task in meant), 1.0)
    bound = policy.boundaries(threshold)[0] if meant is None else meant
    return route_shares(policy.need(scores), (bound, 1.0))[1]


def _tier_shares(need: float, policy: Policy, names: Sequence[str], threshold: float | None) -> list[float]:
    shares = route_shares(need, policy.boundaries(threshold))
    asked = sorted(policy.names.index(name) for name in names)
    found = dict.fromkeys(asked, 0.0)
    for place, share in enumerate(shares):
        # A tier that is not asked about is answered for by the next dearer one, the safe side.
        found[next((there for there in asked if there >= place), asked[-1])] += share
    return [found[policy.names.index(name)] for name in names]


def _spread(parts: Sequence[tuple[float, float]], bounds: Sequence[float]) -> list[float]:
    """Give each part of a probability to the smallest bound that is not under its need.

    Two options with one bound share what falls to it.
    """
    ordered = sorted(set(bounds))
    found = [0.0] * len(ordered)
    for need, share in parts:
        found[min(bisect_left(ordered, need), len(ordered) - 1)] += share
    total = sum(found) or 1.0
    owners = Counter(bounds)
    of_bound = {bound: share / total / owners[bound] for bound, share in zip(ordered, found, strict=True)}
    return [of_bound[bound] for bound in bounds]
