"""A stopped training goes on as if it had never stopped."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from router_training import fitting
from router_training.fitting import Rows, Schedule
from transformers import BertConfig, BertForSequenceClassification

SCHEDULE = Schedule(epochs=2, learning_rate=1e-3, seed=5)


def model() -> BertForSequenceClassification:
    torch.manual_seed(2)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_labels=3,
        )
    )  # fmt: skip


def rows(epoch: int) -> Rows:
    rng = np.random.default_rng(epoch)
    ids = [[3, *rng.integers(6, 50, length), 4] for length in rng.integers(2, 9, 80)]
    return Rows(ids, np.eye(3, dtype=bool)[rng.integers(0, 3, 80)], np.zeros((80, 3), dtype=np.float32))


def stopped_in(epoch_of_power_cut: int) -> Callable[[int], Rows]:
    def read(epoch: int) -> Rows:
        if epoch == epoch_of_power_cut:
            raise KeyboardInterrupt
        return rows(epoch)

    return read


def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "STEPS_BETWEEN_SAVES", 1)
    unbroken, stopped, resumed = model(), model(), model()

    fitting.fit(unbroken, rows, SCHEDULE, tmp_path / "unbroken.pt", "unbroken")
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(stopped, stopped_in(1), SCHEDULE, tmp_path / "state.pt", "stopped")
    fitting.fit(resumed, rows, SCHEDULE, tmp_path / "state.pt", "resumed")

    for name, weight in unbroken.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=0, atol=0, msg=name)


def test_a_row_of_several_right_tasks_is_content_with_any_of_them() -> None:
    logits = torch.tensor([[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]])
    either = torch.tensor([[True, True, False]] * 2)

    assert fitting.loss_of(logits, either, torch.zeros(2, 3)).item() == pytest.approx(0.0, abs=1e-4)


def test_a_row_with_a_target_is_punished_for_what_differs_from_it() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 2)
    target = torch.stack([torch.softmax(logits[0], 0), torch.tensor([0.0, 0.0, 1.0])])
    allowed = torch.tensor([[True, False, False]] * 2)

    alike, other = (fitting.loss_of(logits[:1], allowed[:1], row[None]).item() for row in target)

    assert alike < other
