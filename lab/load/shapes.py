"""What is asked, and how often: five shapes of load as plain rules. No clock, no network, no locust.

A user asks one query a second, so there are as many users as queries a second. Start at `SHAPES`.
"""

import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

from lab.texts import Zipf

REPEATED = 1 / 3  # of the steady mix: a little over what the SLO on the hit rate asks for
HOT = 50  # texts that the steady mix repeats
COLD_TIMES = 4  # how often the cold mix asks each of its texts, in the mean
ZIPF_TEXTS = 20_000
ZIPF_EXPONENT = 1.0  # 9,000 queries over 20,000 texts then repeat an earlier one in 66 of 100 cases
SPIKE_TIMES = 3  # where the rate is half of the capacity: one and a half times that
SPIKE_FROM, SPIKE_TO = 0.4, 0.6  # of the run

Numbers = Callable[[], int]
"""Draws the number of the next text; see `lab.texts.Texts`."""


class Shape(NamedTuple):
    about: str
    seconds: float  # unless asked otherwise
    by_time: bool  # the answer is a curve rather than a figure
    refuses: bool  # offers more than can be answered, so refusals are no surprise


SHAPES = {
    "steady": Shape(f"a constant rate; one query in three repeats one of {HOT} texts", 30, False, False),
    "spike": Shape(
        f"the same, but {SPIKE_TIMES} times as many from {SPIKE_FROM:.0%} to {SPIKE_TO:.0%} of the time",
        30,
        True,
        True,
    ),
    "cold-cache": Shape("texts that nobody has asked yet, until every one is known", 30, True, False),
    "zipf": Shape(f"{ZIPF_TEXTS:,} texts, the n-th as often as n^-{ZIPF_EXPONENT:g}", 30, False, False),
    "soak": Shape("the steady mix for long; memory is watched", 600, True, False),
}
TOUR = tuple(name for name in SHAPES if name != "soak")


def users_at(shape: str, rate: int, seconds: float, at_s: float) -> int:
    """How many users, and so queries a second, a shape has at `at_s` seconds from its begin."""
    spike = shape == "spike" and SPIKE_FROM * seconds <= at_s < SPIKE_TO * seconds
    return SPIKE_TIMES * rate if spike else rate


def offered(shape: str, rate: int, seconds: float) -> float:
    """How many queries a shape asks in all."""
    extra = (SPIKE_TIMES - 1) * (SPIKE_TO - SPIKE_FROM) if shape == "spike" else 0.0
    return rate * seconds * (1 + extra)


def numbers(shape: str, rate: int, seconds: float, seed: int) -> Numbers:
    """The numbers of the texts that a shape asks, in order and without end."""
    dice = random.Random(seed)
    if shape == "zipf":
        zipf = Zipf(ZIPF_TEXTS, ZIPF_EXPONENT)
        return lambda: zipf.rank(dice)
    if shape == "cold-cache":
        texts = max(1, round(rate * seconds / COLD_TIMES))
        return lambda: dice.randrange(texts)
    new = itertools.count(HOT)
    return lambda: dice.randrange(HOT) if dice.random() < REPEATED else next(new)
