"""How well a score tells where a large model pays: RouteLLM's curve and its two figures.

Method: Ong et al. 2024, "RouteLLM" (arXiv 2406.18665), as its `evaluate.py` does it.
Queries are sorted by score into ten equal bins; the curve is the mean quality when the
highest bins go to the large model, against the share of calls that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
RESAMPLES = 200
SPLITS = 3  # of texts into halves, unless more are asked for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Quality against the share of calls that go to the large model.

    shares   (bin + 1,) from 0 to 1
    quality  (bin + 1,) mean quality at each
    """

    shares: Floats
    quality: Floats

    @property
    def apgr(self) -> float:
        """Average performance gap recovered: 0.5 for a score that knows nothing, over it for one that helps."""
        small, large = self.quality[0], self.quality[-1]
        area = float(np.trapezoid(self.quality, self.shares))
        return float((area - small) / (large - small))

    def cpt(self, part: float) -> float:
        """The share of calls to the large model that brings `part` of what it has over the small one."""
        small, large = self.quality[0], self.quality[-1]
        recovered = (self.quality - small) / (large - small)
        place = int(np.argmax(recovered >= part))
        if place == 0:
            return float(self.shares[0])
        low, high = recovered[place - 1], recovered[place]
        along = (part - low) / (high - low)
        return float(self.shares[place - 1] + along * (self.shares[place] - self.shares[place - 1]))


def curve(score: Floats, small: Floats, large: Floats) -> Curve:
    """Measure a score.

    score         (row,) higher where the large model should be asked
    small, large  (row,) how good either model's answer was, 0 to 1
    """
    order = np.argsort(-score, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((large - small)[order])]) / len(score)
    cuts = np.linspace(0, len(score), BINS + 1).round().astype(int)
    return Curve(cuts / len(score), small.mean() + gained[cuts])


def numbered(texts: Sequence[str]) -> NDArray[np.int64]:
    """A number for each text, from 0 in the order of their first places; equal texts have one, (row,)."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def interval(
    score: Floats,
    small: Floats,
    large: Floats,
    texts: NDArray[np.int64],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """A bootstrap interval of the APGR (Efron 1979); (-inf, inf) where there is none.

    texts  (row,) which text a row asks (`numbered`): whole texts are drawn, since one that stands in
           many rows says no more than one
    """
    draw = np.random.default_rng(seed)
    by_text = np.argsort(texts, kind="stable")
    sizes = np.bincount(texts)
    begins = np.cumsum([0, *sizes])
    sizes, begins = sizes[sizes > 0], begins[:-1][sizes > 0]
    found = []
    for _ in range(RESAMPLES):
        drawn = draw.integers(0, len(sizes), len(sizes))
        ends = np.cumsum(sizes[drawn])
        rows = by_text[np.repeat(begins[drawn] - ends + sizes[drawn], sizes[drawn]) + np.arange(ends[-1])]
        if large[rows].mean() > small[rows].mean():  # without a gap there is nothing to recover
            found.append(curve(score[rows], small[rows], large[rows]).apgr)
    if len(found) < RESAMPLES / 2:
        return float("-inf"), float("inf")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
