"""A toy model folder, made in milliseconds: what the tests of loading and serving run on.

A word that is a task's name speaks for that task and for no other; every other
word speaks for none. Its scores are the mean over the words, so what a query's
neighbours say never counts, and neither does the order of its words.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from handler.model import FORMAT, GRAPH, MANIFEST, TOKENIZER

FAST = ("classification", "summarization", "information_extraction", "closed_qa")
SLOW = ("creative_writing", "brainstorming", "open_qa", "general_qa", "coding", "reasoning")
TASKS = (*FAST, *SLOW)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *TASKS)
# One task word among a handful of others must still be sure of itself.
WEIGHT = 40.0

LIMITS = {"head_tokens_max": 6, "tail_tokens_max": 3, "head_chars_max": 300, "tail_chars_max": 100}


def make_toy(folder: Path, **changes: Any) -> Path:
    """Write a sound model folder; `changes` replace members of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH).write_bytes(toy_graph())
    (folder / TOKENIZER).write_bytes(toy_tokenizer())
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": "toy",
        "tasks": list(TASKS),
        "policy": {task: "fast" if task in FAST else "slow" for task in TASKS},
        "temperature": 1.0,
        "limits": LIMITS,
        "files": {name: _sha256(folder / name) for name in (GRAPH, TOKENIZER)},
        "golden": [_golden(task) for task in ("summarization", "coding")],
        "golden_tolerance": 1e-3,
    }
    _write(folder, manifest | changes)
    return folder


def change(folder: Path, **changes: Any) -> None:
    """Replace members of a folder's manifest, whether or not the result can be served."""
    _write(folder, msgspec.json.decode((folder / MANIFEST).read_bytes()) | changes)


def accept_files(folder: Path) -> None:
    """Make a manifest vouch for the bytes that its folder holds now."""
    files = msgspec.json.decode((folder / MANIFEST).read_bytes())["files"]
    change(folder, files={name: _sha256(folder / name) for name in files})


def toy_graph(*, weight: float = WEIGHT) -> bytes:
    """(batch, token) ids and mask → the mean of the real tokens' rows, (batch, task) logits."""
    table = np.zeros((len(WORDS), len(TASKS)), dtype=np.float32)
    for column, task in enumerate(TASKS):
        table[WORDS.index(task), column] = weight
    batch_of_tokens = ["batch", "token"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["real", "last_axis"], ["real_column"]),
            helper.make_node("Mul", ["rows", "real_column"], ["real_rows"]),
            helper.make_node("ReduceSum", ["real_rows", "token_axis"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["real", "token_axis"], ["count"], keepdims=1),
            helper.make_node("Div", ["sum", "count"], ["logits"]),
            helper.make_node("Identity", ["logits"], ["hidden"]),
        ],
        "toy",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, batch_of_tokens),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, batch_of_tokens),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(TASKS)])
            for name in ("logits", "hidden")
        ],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2]), "last_axis"),
            numpy_helper.from_array(np.array([1]), "token_axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def toy_tokenizer(words: tuple[str, ...] = WORDS) -> bytes:
    """One token a word, between [CLS] and [SEP]; with padding and truncation that nobody asked for."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))],
    )
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(max_length=5)
    content: bytes = tokenizer.to_str().encode()
    return content


def toy_probabilities(task: str, *, words: int = 1) -> list[float]:
    """What the toy says of `words` words, one of them `task`."""
    logits = [WEIGHT / (words + 2) if name == task else 0.0 for name in TASKS]  # [CLS] and [SEP] count
    odds = np.exp(logits)
    return [float(p) for p in odds / odds.sum()]


def _golden(task: str) -> dict[str, Any]:
    return {"text": task.title(), "probabilities": toy_probabilities(task)}


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
