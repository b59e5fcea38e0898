"""A model folder small enough to be made inside a test, and as real to `handler.model` as the shipped one.

An embedding per letter, averaged: different words, different answers, in a few
microseconds. The graph's protobuf is written by hand, because that takes thirty
lines and the `onnx` package a dependency.
"""

import hashlib
import random
import string
import struct
from pathlib import Path

import msgspec
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TASKS = [
    "classification", "summarization", "information_extraction", "closed_qa",
    "creative_writing", "brainstorming", "open_qa", "general_qa", "coding", "reasoning",
]  # fmt: skip
LETTERS = string.ascii_lowercase + string.digits
FLOAT, INT64 = 1, 7  # onnx.TensorProto.DataType


def make(folder: Path, *, seed: int = 0) -> Path:
    """Write a model into `folder`; another seed is another model."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    (folder / "model.onnx").write_bytes(_graph(len(vocabulary), seed))
    manifest = {
        "format": 1,
        "name": "tiny",
        "tasks": TASKS,
        "policy": {task: "fast" if i < 4 else "slow" for i, task in enumerate(TASKS)},
        "temperature": 1.0,
        "limits": {
            "head_tokens_max": 96, "tail_tokens_max": 32, "head_chars_max": 768, "tail_chars_max": 256,
        },
        "files": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("model.onnx", "tokenizer.json")
        },
        "golden": [{"text": "golden", "probabilities": [0.1] * len(TASKS)}],
        "golden_tolerance": 1.0,
    }  # fmt: skip
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder


def _tokenizer(vocabulary: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _graph(words: int, seed: int) -> bytes:
    dice = random.Random(seed)
    weights = [dice.gauss(0, 3) for _ in range(words * len(TASKS))]
    graph = b"".join(
        [
            _node("Gather", ["W", "input_ids"], "each"),
            _node("Cast", ["attention_mask"], "mask", to=FLOAT),
            _node("Unsqueeze", ["mask", "last"], "weight"),
            _node("Mul", ["each", "weight"], "counted"),
            _node("ReduceSum", ["counted", "tokens"], "sum", keepdims=0),
            _node("ReduceSum", ["mask", "tokens"], "count", keepdims=1),
            _node("Div", ["sum", "count"], "logits"),
            _field(2, b"tiny"),
            _tensor("W", FLOAT, [words, len(TASKS)], struct.pack(f"<{len(weights)}f", *weights)),
            _tensor("last", INT64, [1], struct.pack("<q", 2)),
            _tensor("tokens", INT64, [1], struct.pack("<q", 1)),
            _value(11, "input_ids", INT64, ["batch", "token"]),
            _value(11, "attention_mask", INT64, ["batch", "token"]),
            _value(12, "logits", FLOAT, ["batch", len(TASKS)]),
        ]
    )
    return _number(1, 9) + _field(7, graph) + _field(8, _number(2, 18))


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _node(kind: str, inputs: list[str], output: str, **attributes: int) -> bytes:
    content = b"".join(_field(1, name.encode()) for name in inputs)
    content += _field(2, output.encode()) + _field(4, kind.encode())
    for name, number in attributes.items():
        content += _field(5, _field(1, name.encode()) + _number(3, number) + _number(20, 2))
    return _field(1, content)


def _tensor(name: str, kind: int, shape: list[int], raw: bytes) -> bytes:
    dims = b"".join(_number(1, size) for size in shape)
    return _field(5, dims + _number(2, kind) + _field(8, name.encode()) + _field(9, raw))


def _value(field: int, name: str, kind: int, shape: list[int | str]) -> bytes:
    dims = b"".join(
        _field(1, _number(1, size) if isinstance(size, int) else _field(2, size.encode())) for size in shape
    )
    return _field(field, _field(1, name.encode()) + _field(2, _field(1, _number(1, kind) + _field(2, dims))))
