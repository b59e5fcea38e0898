"""A toy model with many words, each speaking for all tasks at random: different texts, different answers.

So an answer that reached the wrong query shows.
"""

import random
import string
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from handler.model import GRAPH, TOKENIZER
from tests.models import TASKS, WORDS, accept_files, make_toy, toy_graph, toy_tokenizer

_dice = random.Random(0)
SPOKEN = sorted({"".join(_dice.choices(string.ascii_lowercase, k=6)) for _ in range(400)})


def make(folder: Path, *, seed: int = 0) -> Path:
    """Write a model into `folder`; another seed is another model."""
    words = (*WORDS, *SPOKEN)
    scores = np.random.default_rng(seed).normal(0, 3, (len(words), len(TASKS)))
    graph = onnx.load_model_from_string(toy_graph())
    table = next(each for each in graph.graph.initializer if each.name == "table")
    table.CopyFrom(numpy_helper.from_array(scores.astype(np.float32), "table"))
    make_toy(folder, golden_tolerance=1.0)
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    (folder / TOKENIZER).write_bytes(toy_tokenizer(words))
    accept_files(folder)
    return folder


def texts(count: int, seed: int) -> list[str]:
    """Queries that the model tells apart."""
    dice = random.Random(seed)
    return [" ".join(dice.choices(SPOKEN, k=4)) for _ in range(count)]
