"""What a router must beat: the length of a prompt, and nothing else.

Logistic regression on the logarithms of characters and words, fitted by Newton's method on
the training side. Knows no router.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEPS = 25
RIDGE = 1e-3


class LengthAlone:
    """Tells slow from fast by length."""

    def __init__(self, texts: Sequence[str], is_slow: NDArray[np.bool_]) -> None:
        """Both routes weigh alike, so that the rarer one is not forgotten."""
        features = _features(texts)
        self._mean, self._spread = features.mean(axis=0), features.std(axis=0) + 1e-9
        x = self._scaled(features)
        weight = np.where(is_slow, 0.5 / max(1, is_slow.sum()), 0.5 / max(1, (~is_slow).sum()))
        self._w = np.zeros(x.shape[1])
        for _ in range(STEPS):
            p = 1 / (1 + np.exp(-x @ self._w))
            gradient = x.T @ (weight * (p - is_slow)) + RIDGE * self._w
            curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(x.shape[1])
            self._w -= np.linalg.solve(curvature, gradient)

    def is_slow(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return (text,) whether length alone would send it slow."""
        return np.asarray(self._scaled(_features(texts)) @ self._w >= 0)

    def _scaled(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (features - self._mean) / self._spread
        return np.concatenate([scaled, scaled**2, np.ones((len(scaled), 1))], axis=1)


def _features(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.log1p(np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64))
