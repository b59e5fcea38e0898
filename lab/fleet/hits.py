"""What caches answer, reckoned: L1 of every instance and Redis behind them, in a steady state.

Some queries are asked again, the r-th most frequent as often as 1/r; the others never. L1 is full or not:
where it is, an entry lives for the characteristic time of Che's approximation (Che, Tung and Wang 2002),
else for its time to live. An entry's life is not prolonged by a hit.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lab.fleet.simulation import Shares

BINS = 4000


@dataclass(frozen=True)
class Crowd:
    """What is asked.

    kinds     different queries that are asked again and again
    repeated  share of those among all; the rest is new each time
    """

    kinds: int = 1_000_000
    repeated: float = 0.5

    @cached_property
    def binned(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(bin,) how many queries, and (bin,) the share of all repeated asking that each of them has."""
        edges = np.unique(np.round(np.geomspace(1, self.kinds + 1, BINS)).astype(np.int64))
        counts = np.diff(edges).astype(np.float64)
        each = np.log(edges[1:] / edges[:-1]) / counts
        each[counts == 1] = 1.0 / edges[:-1][counts == 1]
        return counts, each / (counts * each).sum()


@dataclass(frozen=True)
class Caching:
    """The gateway's settings, by their defaults; and whether there is a Redis."""

    l1_size: int = 10_000
    l1_ttl_s: float = 300.0
    l2_ttl_s: float = 3600.0
    shared: bool = True


def shares(crowd: Crowd, caching: Caching, per_s: float, instances: int) -> Shares:
    """Who answers, of `per_s` queries a second on so many instances."""
    counts, popularity = crowd.binned
    asked = popularity * per_s * crowd.repeated
    new = per_s * (1 - crowd.repeated)
    of_one = asked / instances
    found = _l1(counts, of_one, new / instances, caching)
    missed = asked * (1 - found)
    known = missed * caching.l2_ttl_s / (1 + missed * caching.l2_ttl_s) if caching.shared else 0.0 * missed
    l1 = float((counts * asked * found).sum()) / per_s
    l2 = float((counts * missed * known).sum()) / per_s
    return Shares(l1, l2, 1 - l1 - l2)


def entries(crowd: Crowd, caching: Caching, per_s: float, instances: int) -> float:
    """Entries in Redis."""
    counts, popularity = crowd.binned
    asked = popularity * per_s * crowd.repeated
    found = _l1(counts, asked / instances, per_s * (1 - crowd.repeated) / instances, caching)
    kept = asked * (1 - found) * caching.l2_ttl_s
    return float((counts * kept / (1 + kept)).sum()) + per_s * (1 - crowd.repeated) * caching.l2_ttl_s


def _l1(
    counts: NDArray[np.float64], per_s: NDArray[np.float64], new_per_s: float, caching: Caching
) -> NDArray[np.float64]:
    """(bin,) the chance that an instance has an entry which it is asked for."""

    def held(life_s: float) -> float:
        return float((counts * -np.expm1(-per_s * life_s)).sum()) + new_per_s * life_s

    ttl = per_s * caching.l1_ttl_s
    if float((counts * ttl / (1 + ttl)).sum()) + new_per_s * caching.l1_ttl_s <= caching.l1_size:
        return ttl / (1 + ttl)
    low, high = 0.0, caching.l1_ttl_s
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < caching.l1_size else (low, middle)
    life_s = (low + high) / 2
    # Used again within its characteristic time it stays, but never past its time to live.
    kept = -np.expm1(-per_s * life_s)
    return np.minimum(kept, ttl / (1 + ttl))


def pays_above(lookup_us: float, miss_us: float) -> float:
    """The share of look-ups that must find for Redis to save CPU at all."""
    return lookup_us / miss_us if miss_us else math.inf
