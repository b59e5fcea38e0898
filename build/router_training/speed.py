"""How long one short query takes, against the six-layer INT8 MiniLM on the same machine.

Only the ratio is worth quoting: both are timed in turns, so that a busy machine
slows both.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from handler.model import GRAPH, read_manifest, session

TOKENS = 16
YARDSTICK_LAYERS = 6
ROUNDS = 300


def time_ratio(folder: Path) -> tuple[float, float, float] | None:
    """Time a served graph on one query: milliseconds for 16 tokens, their share of six layers' time,
    and how many times as long the longest text takes that the model reads.

    None where the export tools are not installed.
    """
    try:
        yardstick = minilm(YARDSTICK_LAYERS)
    except ImportError:
        return None
    mine, theirs = session((folder / GRAPH).read_bytes()), session(yardstick)
    longest = read_manifest(folder).limits.tokens_max + 2
    timed = [(mine, _feed(mine, TOKENS)), (theirs, _feed(theirs, TOKENS)), (mine, _feed(mine, longest))]
    times: list[list[float]] = [[] for _ in timed]
    for _ in range(ROUNDS):
        for (graph, feed), taken in zip(timed, times, strict=True):
            started = time.perf_counter()
            graph.run(["logits"], feed)
            taken.append(time.perf_counter() - started)
    # The fastest tenth: what the graph costs when nobody else has the core.
    short, yard, long = (float(np.quantile(taken, 0.1)) for taken in times)
    return short * 1000, short / yard, long / short


def minilm(layers: int, tasks: int = 10) -> bytes:
    """Make a MiniLM's graph, quantised the usual way (dynamic, signed weights by channel).

    Its weights are random: time does not depend on them.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=tasks,
    )
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(name)
            BertForSequenceClassification(config).save_pretrained(folder)
            main_export(
                str(folder), output=folder, task="text-classification", opset=17, do_validation=False,
                no_post_process=True,
            )  # fmt: skip
            quantize_dynamic(
                folder / "model.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8
            )
            return (folder / "int8.onnx").read_bytes()
    finally:
        logging.disable(logging.NOTSET)


def _feed(graph: ort.InferenceSession, tokens: int) -> dict[str, NDArray[np.int64]]:
    """Make one query of so many tokens for whatever inputs the graph has, (1, token) int64."""
    ids = 5 + np.arange(tokens, dtype=np.int64)[None] % 32
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {given.name: known[given.name] for given in graph.get_inputs()}
