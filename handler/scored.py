"""A query's scores on their way to an answer: one carrier, whoever made them.

Made by the batcher, by L2 or by L1, and turned into an answer by the gateway.
"""

from typing import Literal

import msgspec

from handler.policy import Scores

CacheLevel = Literal["l1", "l2", "miss"]
# (name, seconds) of what happened, in the order in which it did.
Stages = tuple[tuple[str, float], ...]


class Scored(msgspec.Struct, frozen=True):
    """Scores, where they came from, and where the time went."""

    scores: Scores
    cache: CacheLevel
    stages: Stages


def shares(stages: Stages, waited_s: float) -> Stages:
    """One caller's share of a shared run's stages: what of them fell into its own wait.

    waited_s  how long this caller waited, in seconds

    Whoever joins late waits for the run's end, so the last stages count first.
    """
    spent: list[tuple[str, float]] = []
    left_s = waited_s
    for stage, took_s in reversed(stages):
        share_s = min(took_s, left_s)
        spent.append((stage, share_s))
        left_s -= share_s
    return tuple(reversed(spent))
