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

from handler.model import GRAPH

TOKENS = 16
YARDSTICK_LAYERS = 6
ROUNDS = 300


def time_ratio(folder: Path) -> tuple[float, float] | None:
    """Time a served graph: its milliseconds for one 16-token query, and its share of six layers' time.

    None where the export tools are not installed.
    """
    try:
        yardstick = minilm(YARDSTICK_LAYERS)
    except ImportError:
        return None
    mine, theirs = _session((folder / GRAPH).read_bytes()), _session(yardstick)
    feeds = [_feed(session) for session in (mine, theirs)]
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for session, feed, taken in zip((mine, theirs), feeds, times, strict=True):
            started = time.perf_counter()
            session.run(["logits"], feed)
            taken.append(time.perf_counter() - started)
    # The fastest tenth: what the graph costs when nobody else has the core.
    quiet = [float(np.quantile(taken, 0.1)) for taken in times]
    return quiet[0] * 1000, quiet[0] / quiet[1]


def minilm(layers: int) -> bytes:
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
        num_labels=10,
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


def _session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _feed(session: ort.InferenceSession) -> dict[str, NDArray[np.int64]]:
    """Make one query of TOKENS tokens for whatever inputs the graph has, (1, token) int64."""
    ids = np.arange(5, 5 + TOKENS, dtype=np.int64)[None]
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {given.name: known[given.name] for given in session.get_inputs()}
