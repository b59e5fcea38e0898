"""How far confidences can be believed, and the one number that sets them right.

Pure functions of arrays; which rows they are given is the caller's choice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 15
TEMPERATURES = np.geomspace(0.5, 3.0, 101)


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Softmax of logits / temperature: (row, task) in, (row, task) out, rows sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def best_temperature(
    logits: NDArray[np.float32], is_slow: NDArray[np.bool_], slow_tasks: NDArray[np.bool_]
) -> float:
    """Find the temperature under which the route's probability explains the routes best.

    logits      (row, task)
    is_slow     (row,) whether the row's true route is slow
    slow_tasks  (task,) whether the policy sends the task slow
    """

    def surprise(temperature: float) -> float:
        p_slow = probabilities(logits, temperature)[:, slow_tasks].sum(axis=1)
        p_true = np.where(is_slow, p_slow, 1 - p_slow)
        return float(-np.log(np.clip(p_true, 1e-9, 1)).mean())

    return float(min(TEMPERATURES, key=surprise))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[tuple[int, float, float]]:
    """Cut rows into bins of equal mass by confidence: (rows, mean confidence, share right) of each."""
    order = np.argsort(confidence, kind="stable")
    return [
        (len(rows), float(confidence[rows].mean()), float(right[rows].mean()))
        for rows in np.array_split(order, BINS)
        if len(rows)
    ]


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance between what was promised and what was kept, over equal-mass bins."""
    bins = reliability(confidence, right)
    return sum(n * abs(promised - kept) for n, promised, kept in bins) / sum(n for n, _, _ in bins)
