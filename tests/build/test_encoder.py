"""A smaller copy starts where its model stood."""

from typing import Any

import pytest
import torch
from router_training import encoder
from transformers import BertConfig, BertForSequenceClassification

ROWS = [[2, 5, 6, 7, 3], [2, 8, 9, 3], [2, 10, 11, 12, 13, 14, 3]]


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=12,
        num_labels=2,
    )
    made: BertForSequenceClassification = BertForSequenceClassification(config).eval()
    return made


def layers(model: BertForSequenceClassification) -> Any:
    return model.bert.encoder.layer


def answers(model: BertForSequenceClassification) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model.eval()(input_ids=torch.tensor([row])).logits for row in ROWS])


def test_a_copy_of_all_layers_and_all_neurons_answers_alike(model: BertForSequenceClassification) -> None:
    copy = encoder.copied(model, layers=3, width=12, rows=ROWS)

    torch.testing.assert_close(answers(copy), answers(model))


def test_neurons_that_move_nothing_are_the_first_to_go(model: BertForSequenceClassification) -> None:
    idle = [1, 4, 7, 11]
    for layer in layers(model):
        layer.output.dense.weight.data[:, idle] = 0

    copy = encoder.copied(model, layers=3, width=8, rows=ROWS)

    assert copy.config.intermediate_size == 8
    torch.testing.assert_close(answers(copy), answers(model))


def test_neurons_that_are_never_heard_go_before_those_that_are(model: BertForSequenceClassification) -> None:
    silent = [0, 5]
    for layer in layers(model):
        layer.intermediate.dense.weight.data[silent] = 0
        layer.intermediate.dense.bias.data[silent] = 0

    copy = encoder.copied(model, layers=3, width=10, rows=ROWS)

    torch.testing.assert_close(answers(copy), answers(model))


def test_a_shallow_copy_keeps_the_lowest_layers(model: BertForSequenceClassification) -> None:
    copy = encoder.copied(model, layers=1, width=12, rows=ROWS)

    assert len(layers(copy)) == 1
    for name, weight in layers(copy)[0].state_dict().items():
        torch.testing.assert_close(weight, layers(model)[0].state_dict()[name])
