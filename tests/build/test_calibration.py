"""A confidence is a promise, and its error is measured as one."""

import numpy as np
import pytest
from calibration import best_temperature, expected_calibration_error, probabilities


def test_an_overconfident_model_is_cooled_by_the_factor_it_was_heated() -> None:
    rng = np.random.default_rng(1)
    true_logits = rng.normal(0, 2, (20_000, 2)).astype(np.float32)
    is_slow = rng.random(20_000) < probabilities(true_logits, 1.0)[:, 1]

    found = best_temperature(true_logits * 2, is_slow, np.array([False, True]))

    assert found == pytest.approx(2.0, rel=0.1)


def test_kept_promises_have_no_error() -> None:
    confidence = np.full(1000, 0.75)
    right = np.arange(1000) % 4 != 0

    assert expected_calibration_error(confidence, right) < 0.03


def test_a_certain_model_that_is_always_wrong_has_all_the_error() -> None:
    assert expected_calibration_error(np.ones(100), np.zeros(100, dtype=bool)) == 1.0
