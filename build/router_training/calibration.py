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
# Of what is made small, the share that is the task's surprise; the rest is the route's.
TASK_SHARE = 0.2


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
    logits: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    slow_tasks: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> Scaling:
    """Find the scaling under which probabilities explain routes and tasks best.

    The biases put right what the training mix put wrong: it shows far more passages under
    slow asks, and far more frames, than people send. (Vector scaling with a diagonal of one
    value, Guo et al. 2017.)

    logits      (row, task)
    allowed     (row, task) the tasks that are right; all of one route in every row that counts
    slow_tasks  (task,) whether the policy sends the task slow
    weights     (row,) how much each row counts, summing to 1
    """
    is_slow = (allowed & slow_tasks).any(axis=1)
    of_one_route = is_slow != (allowed & ~slow_tasks).any(axis=1)
    weight = np.where(of_one_route, weights, 0.0)
    weight /= weight.sum()
    scores = logits.astype(np.float64)

    def surprise(numbers: NDArray[np.float64]) -> float:
        odds = probabilities(scores + numbers[1:], float(np.exp(numbers[0])))
        p_slow = odds[:, slow_tasks].sum(axis=1)
        of_route = np.where(is_slow, p_slow, 1 - p_slow)
        of_task = (odds * allowed).sum(axis=1)
        said = (1 - TASK_SHARE) * np.log(np.clip(of_route, 1e-9, 1)) + TASK_SHARE * np.log(
            np.clip(of_task, 1e-9, 1)
        )
        return float(-(weight * said).sum() + BIAS_COST * (numbers[1:] ** 2).sum())

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
