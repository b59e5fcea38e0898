"""From a model's scores to a route: the policy, the threshold and nothing else.

The caches hold `Scores`; `decide` turns them into an answer at answering time,
so an operator can move a task or the threshold without a new model.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, Self

import msgspec

Route = Literal["fast", "slow"]
LABEL: dict[Route, Literal["0", "1"]] = {"fast": "0", "slow": "1"}


@lru_cache(maxsize=8)
def _packing(tasks: int) -> struct.Struct:
    return struct.Struct(f"<{tasks}f")


class Scores(msgspec.Struct, frozen=True, gc=False):
    """What the model thinks of one query, packed small because caches hold many.

    packed     (task,) little-endian float32 probabilities that sum to 1
    truncated  the model did not see the whole query
    """

    packed: bytes
    truncated: bool = False

    @classmethod
    def of(cls, probabilities: Sequence[float], *, truncated: bool = False) -> Self:
        return cls(_packing(len(probabilities)).pack(*probabilities), truncated)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """One probability per task, in the manifest's order."""
        return _packing(len(self.packed) // 4).unpack(self.packed)


class UnknownTask(ValueError):
    """A policy names a task that the model does not predict."""


class Policy:
    """Which tasks the small model may answer."""

    def __init__(self, tasks: Sequence[str], routes: Mapping[str, Route]) -> None:
        """`tasks` in the order of the scores; `routes` names each of them, and no other."""
        if set(tasks) != set(routes):
            raise ValueError(f"a policy must route exactly the tasks {', '.join(tasks)}")
        self.tasks = tuple(tasks)
        self.routes = dict(routes)
        self.fast = tuple(i for i, task in enumerate(tasks) if routes[task] == "fast")
        self.slow = tuple(i for i, task in enumerate(tasks) if routes[task] == "slow")


def override(tasks: Sequence[str], fast: Sequence[str]) -> Mapping[str, Route]:
    """An operator's own policy: these tasks are fast and all others slow. Raises `UnknownTask`."""
    if unknown := [task for task in fast if task not in tasks]:
        raise UnknownTask(f"{', '.join(unknown)}: not a task of this model, which knows {', '.join(tasks)}")
    return {task: "fast" if task in fast else "slow" for task in tasks}


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One answered query.

    confidence  probability of the route that the model preferred, which is not
                the route taken when `low_confidence`
    task        the most probable task of the preferred route
    """

    route: Route
    task: str
    confidence: float
    low_confidence: bool
    truncated: bool

    @property
    def label(self) -> Literal["0", "1"]:
        return LABEL[self.route]


def decide(scores: Scores, policy: Policy, threshold: float) -> Decision:
    """Prefer the likelier route; send a doubtful fast answer to slow, the safe side."""
    probabilities = scores.probabilities
    p_slow = min(sum(probabilities[i] for i in policy.slow), 1.0)
    preferred: Route = "slow" if p_slow >= 0.5 or not policy.fast else "fast"
    confidence = p_slow if preferred == "slow" else 1.0 - p_slow
    of_route = policy.slow if preferred == "slow" else policy.fast
    task = policy.tasks[max(of_route, key=probabilities.__getitem__)]
    doubtful = preferred == "fast" and confidence < threshold
    return Decision(
        route="slow" if doubtful else preferred,
        task=task,
        confidence=confidence,
        low_confidence=doubtful,
        truncated=scores.truncated,
    )
