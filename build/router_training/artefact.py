"""From a checkpoint to what is served: the INT8 graph, its tokenizer and its manifest.

`build` is the story: export by optimum, fuse by ONNX Runtime's BERT optimiser, quantise by
`integer_graph.py`. The same checkpoint gives the same bytes on one kind of processor; of
data only our own prompts are read, to see how far activations reach.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from router_training import encoder, integer_graph, sources
from router_training.encoder import BaseError
from tqdm import tqdm

from handler.model import FORMAT, GRAPH, MANIFEST, TOKENIZER, calibrated, padded, session
from handler.query import Limits, normalise

CALIBRATION_TEXTS = 384
CALIBRATION_SEED = 11

# Ours alone, one of each kind: what a processor must compute as the builder's did.
GOLDEN_TEXTS = (
    "Summarize the following in one sentence: the ferry was late because of fog, and nobody minded.",
    "Is this review positive or negative? The soup was cold and the waiter colder.",
    "Extract every date from this note: we met on 3 May and again on 9 June.",
    "According to the text, who opened the gate? Text: Mara opened the gate before the guards woke.",
    "Write a short story about a lighthouse keeper who collects storms",
    "Give me ten ideas for a rainy afternoon with three children.",
    "Who was the first person to sail around the world alone?",
    "Why do some people like to live in very cold places?",
    "Write a python function that returns the second largest number in a list.",
    "A tank holds 90 litres and loses 4 litres an hour. When is it one third full? Show each step.",
    "Make this friendlier: your order is late because you gave us the wrong address.",
    "How do you say 'see you at the harbour' in Portuguese?",
    "As JSON please: lamp, 3 pieces, 19.90 each; rug, 1 piece, 85.00",
    "thanks, that will do for today",
    "what is 18% of 250?",
    "Which month comes after August?",
    "git command to rename a branch",
    "Plan a four day walk along a coast for two people, one of whom is afraid of heights.",
    "My sister lent me money and now wants me to vouch for her loan. Should I?",
    "Find the three cheapest flights to Oslo next week, book the best one and put it into my calendar.",
    "User: hello\nAssistant: Hello! What can I do for you?\nUser: prove that 2 is the only even prime",
)
# Integer products are exact everywhere, and batch shapes move nothing. What may differ between
# processors is float rounding that tips an activation over to its neighbouring step.
GOLDEN_TOLERANCE = 0.03

TOOLS = ("onnx", "onnxruntime", "optimum", "optimum-onnx", "tokenizers", "torch", "transformers")


def build(checkpoint: Path, out: Path) -> None:
    """Make the folder that is served. Raises BaseError when the checkpoint cannot be read."""
    facts = read_facts(checkpoint)
    limits = Limits(**facts["limits"])
    tokenizer = encoder.read_tokenizer(checkpoint)
    float_graph = float_graph_of(checkpoint, limits)
    texts = [normalise(text, limits).text for text in _calibration_texts()]
    ranges = _ranges(float_graph, encoder.token_ids(tokenizer, texts, limits))
    quantised = integer_graph.quantised(float_graph, ranges)

    out.parent.mkdir(parents=True, exist_ok=True)
    half_written = Path(tempfile.mkdtemp(prefix=".quantized-", dir=out.parent))
    half_written.chmod(0o755)
    (half_written / GRAPH).write_bytes(quantised.SerializeToString(deterministic=True))
    (half_written / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    golden = [normalise(text, limits).text for text in GOLDEN_TEXTS]
    scores = calibrated(
        _run(half_written / GRAPH, encoder.token_ids(tokenizer, golden, limits)), facts["temperature"]
    )
    manifest = {
        "format": FORMAT,
        "name": "query-router",
        "tasks": facts["tasks"],
        "policy": facts["policy"],
        "temperature": facts["temperature"],
        "limits": facts["limits"],
        "files": {name: _sha256(half_written / name) for name in (GRAPH, TOKENIZER)},
        "golden": [
            {"text": text, "probabilities": [round(float(p), 6) for p in row]}
            for text, row in zip(GOLDEN_TEXTS, scores, strict=True)
        ],
        "golden_tolerance": GOLDEN_TOLERANCE,
        "data": facts["data"],
        "training_mix": facts["training_mix"],
        "recipe": facts["recipe"],
        "tools": {name: version(name).split("+")[0] for name in TOOLS},
        "scores": {},
    }
    (half_written / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    if out.exists():
        shutil.rmtree(out)
    os.replace(half_written, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out} is made: {size / 1e6:.1f} MB. Its scores are still unknown: run evaluate.")


def _calibration_texts() -> list[str]:
    """Draw from our own prompts, of the training side, what activations are measured on: variety is all."""
    own = [prompt.text for prompt in sources.own_prompts() if prompt.side == "train"]
    return random.Random(CALIBRATION_SEED).sample(own, CALIBRATION_TEXTS)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """Read router.json, which train.py leaves beside the weights. Raises BaseError."""
    path = checkpoint / "router.json"
    try:
        return dict(msgspec.json.decode(path.read_bytes()))
    except FileNotFoundError:
        raise BaseError(f"{path} is not there; run train first") from None
    except (OSError, ValueError) as error:
        raise BaseError(f"{path} cannot be read: {error}") from None


def float_graph_of(checkpoint: Path, limits: Limits) -> onnx.ModelProto:
    """Export a checkpoint and fuse it: float32, [CLS] alone after the last attention."""
    # Both import torch, which the reading of a manifest should not wait for.
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    from optimum.exporters.onnx import main_export

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main_export(
            str(checkpoint),
            output=folder,
            task="text-classification",
            dtype="fp32",
            opset=17,
            do_validation=False,
            no_post_process=True,
        )
        config = json.loads((checkpoint / "config.json").read_text())
        # opt_level 0: the fusions alone, nothing that knows this processor.
        fused = optimize_model(
            str(Path(folder) / "model.onnx"),
            "bert",
            num_heads=config["num_attention_heads"],
            hidden_size=config["hidden_size"],
            opt_level=0,
            optimization_options=FusionOptions("bert"),
        )
    logging.disable(logging.NOTSET)
    folded = integer_graph.fold_segments(fused.model, limits.tokens_max + 2)
    return integer_graph.keep_first_token_last(folded)


def _ranges(model: onnx.ModelProto, rows: Sequence[Sequence[int]]) -> dict[str, integer_graph.Range]:
    """Run the float graph over calibration rows and note what each activation does."""
    names = integer_graph.multiplied(model)
    probe = session(integer_graph.with_outputs(model, names).SerializeToString())
    ranges = {name: integer_graph.Range() for name in names}
    for row in tqdm(rows, desc="calibrating", unit="text"):
        # Alone, so that no padding is counted.
        for name, values in zip(names, probe.run(names, padded([row])), strict=True):
            ranges[name].add(values)
    return ranges


def _run(path: Path, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    integer = session(path.read_bytes())  # one thread: sums in one order, whatever the machine
    return np.concatenate([integer.run(["logits"], padded([row]))[0] for row in rows])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
