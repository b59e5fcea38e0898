"""A confidence is a promise, and its error is measured as one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from router_training.calibration import Scaling, best_scaling, expected_calibration_error, probabilities

SLOW_TASKS = np.array([False, True])


def drawn(heat: float, shift: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Logits that were honest before they were shifted towards fast and heated; and the true routes."""
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 2, (20_000, 2)).astype(np.float32)
    is_slow = rng.random(20_000) < probabilities(honest, 1.0)[:, 1]
    return heat * honest - shift * SLOW_TASKS.astype(np.float32), is_slow


def scaling(
    logits: NDArray[np.float32], is_slow: NDArray[np.bool_], slow_tasks: NDArray[np.bool_]
) -> Scaling:
    """Where the route alone is known: every task of it is right."""
    weights = np.full(len(logits), 1 / len(logits))
    return best_scaling(logits, is_slow[:, None] == slow_tasks, slow_tasks, weights)


def test_an_overconfident_model_is_cooled_by_the_factor_it_was_heated() -> None:
    logits, is_slow = drawn(heat=2.0, shift=0.0)

    assert scaling(logits, is_slow, SLOW_TASKS).temperature == pytest.approx(2.0, rel=0.1)


def test_a_model_that_leans_to_fast_is_pushed_back_as_far() -> None:
    logits, is_slow = drawn(heat=1.0, shift=0.8)

    fast_bias, slow_bias = scaling(logits, is_slow, SLOW_TASKS).bias
    assert slow_bias - fast_bias == pytest.approx(0.8, abs=0.15)


def test_a_task_that_speaks_too_loudly_is_turned_down_alone() -> None:
    rng = np.random.default_rng(4)
    honest = rng.normal(0, 2, (20_000, 4)).astype(np.float32)
    slow_tasks = np.array([False, False, True, True])
    is_slow = rng.random(20_000) < probabilities(honest, 1.0)[:, slow_tasks].sum(axis=1)
    loud = honest + np.array([0, 1.2, 0, 0], dtype=np.float32)

    bias = scaling(loud, is_slow, slow_tasks).bias

    assert bias[1] == min(bias)
    assert bias[0] - bias[1] == pytest.approx(1.2, abs=0.3)


def test_kept_promises_have_no_error() -> None:
    confidence = np.full(1000, 0.75)
    right = np.arange(1000) % 4 != 0

    assert expected_calibration_error(confidence, right) < 0.03


def test_a_certain_model_that_is_always_wrong_has_all_the_error() -> None:
    assert expected_calibration_error(np.ones(100), np.zeros(100, dtype=bool)) == 1.0


def test_rows_without_weight_have_no_say() -> None:
    logits, is_slow = drawn(heat=1.0, shift=0.8)
    allowed = is_slow[:, None] == SLOW_TASKS
    weights = np.full(len(logits), 1 / len(logits))

    half = np.arange(len(logits)) % 2 == 0
    wrong = np.where(half[:, None], allowed, ~allowed)

    assert best_scaling(logits, wrong, SLOW_TASKS, weights * half * 2) == best_scaling(
        logits[half], allowed[half], SLOW_TASKS, weights[half] * 2
    )
