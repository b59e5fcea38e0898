"""How far confidences can be believed, and the numbers that set them right.

Pure functions of arrays; which rows they are given is the caller's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
# Steps of the search, coarse to fine, in logits; finer moves no route.
STEPS = (0.4, 0.2, 0.1, 0.05, 0.02)
# What a bias costs: what validation rows say little about should stay where training put it.
BIAS_COST = 0.001

# How far a lean may go, in logits: beyond, the leaning tasks are hardly ever seen.
LEANS = tuple(round(0.1 * i, 1) for i in range(41))


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Softmax of logits / temperature: (row, task) in, (row, task) out, rows sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Scaling:
    """What makes raw scores honest: softmax((logits + bias) / temperature), one bias a task."""

    temperature: float
    bias: tuple[float, ...]


def best_scaling(
    logits: NDArray[np.float32], is_slow: NDArray[np.bool_], slow_tasks: NDArray[np.bool_]
) -> Scaling:
    """Find the scaling under which the route's probability explains the routes best.

    The biases put right what the training mix put wrong: it shows far more passages under
    slow asks, and far more asks without their passage, than people send. (Vector scaling
    with a diagonal of one value, Guo et al. 2017.)

    logits      (row, task)
    is_slow     (row,) whether the row's true route is slow
    slow_tasks  (task,) whether the policy sends the task slow
    """

    def surprise(numbers: NDArray[np.float64]) -> float:
        p_slow = probabilities(logits + numbers[1:], float(np.exp(numbers[0])))[:, slow_tasks].sum(axis=1)
        p_true = np.where(is_slow, p_slow, 1 - p_slow)
        cost = BIAS_COST * float((numbers[1:] ** 2).sum())
        return float(-np.log(np.clip(p_true, 1e-9, 1)).mean()) + cost

    # Convex enough for a walk along the axes; no library, and the same on every machine.
    best = np.zeros(1 + logits.shape[1])
    least = surprise(best)
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for axis in range(len(best)):
                for direction in (step, -step):
                    tried = best.copy()
                    tried[axis] += direction
                    if (found := surprise(tried)) < least - 1e-7:
                        best, least, moved = tried, found, True
    temperature = round(float(np.exp(best[0])), 4)
    return Scaling(temperature, tuple(round(float(b), 4) for b in best[1:]))


def least_lean(
    logits: NDArray[np.float32],
    is_slow: NDArray[np.bool_],
    slow_tasks: NDArray[np.bool_],
    leaning: NDArray[np.bool_],
    floor: float,
) -> float:
    """Find how little some tasks' bias must be lowered for a share of rows to go the right way.

    logits      (row, task), calibrated: bias and temperature are in them
    is_slow     (row,) whether the row's true route is slow
    slow_tasks  (task,) whether the policy sends the task slow
    leaning     (task,) whose bias is lowered
    floor       the share wanted, 0 to 1

    Where no lean reaches it, the one that comes nearest.
    """
    shares = []
    for lean in LEANS:
        odds = probabilities(logits - lean * leaning, 1.0)
        right = (odds[:, slow_tasks].sum(axis=1) >= 0.5) == is_slow
        shares.append(right.mean())
        if shares[-1] >= floor:
            return lean
    return LEANS[int(np.argmax(shares))]


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
