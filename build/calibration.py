"""How far confidences can be believed, and the two numbers that set them right.

Pure functions of arrays; which rows they are given is the caller's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
TEMPERATURES = np.geomspace(0.5, 3.0, 37).round(4)
SLOW_BIASES = np.linspace(-2.0, 2.0, 41).round(4)


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Softmax of logits / temperature: (row, task) in, (row, task) out, rows sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Scaling:
    """What makes raw scores honest: softmax((logits + slow_bias on slow tasks) / temperature)."""

    temperature: float
    slow_bias: float


def best_scaling(
    logits: NDArray[np.float32], is_slow: NDArray[np.bool_], slow_tasks: NDArray[np.bool_]
) -> Scaling:
    """Find the scaling under which the route's probability explains the routes best.

    The bias puts right what the training mix put wrong: it shows far more passages under
    slow asks, and far more asks without their passage, than people send. (Platt 1999.)

    logits      (row, task)
    is_slow     (row,) whether the row's true route is slow
    slow_tasks  (task,) whether the policy sends the task slow
    """

    def surprise(scaling: Scaling) -> float:
        shifted = logits + np.float32(scaling.slow_bias) * slow_tasks
        p_slow = probabilities(shifted, scaling.temperature)[:, slow_tasks].sum(axis=1)
        p_true = np.where(is_slow, p_slow, 1 - p_slow)
        return float(-np.log(np.clip(p_true, 1e-9, 1)).mean())

    grid = (Scaling(float(t), float(b)) for t in TEMPERATURES for b in SLOW_BIASES)
    return min(grid, key=surprise)


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
