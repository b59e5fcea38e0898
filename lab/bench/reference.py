"""A three-layer MiniLM, quantised as most would ship one: the same for everybody who compares.

Its weights are random: time does not depend on them. Dynamic INT8 with signed
weights by channel, the tokenizer and the limits of the model that we ship.
"""

import hashlib
import sys
from pathlib import Path

import msgspec
import onnx
from onnx import helper

from handler.model import FORMAT, GRAPH, MANIFEST, TOKENIZER
from lab.launch import MODEL, ROOT

LAYERS = 3


def write(folder: Path) -> Path:
    """Make the model folder. Takes the tools of `build/`, and some seconds."""
    sys.path.insert(0, str(ROOT / "build"))  # its modules are run as files
    from router_training import speed

    shipped = msgspec.json.decode((MODEL / MANIFEST).read_bytes())
    graph = onnx.load_from_string(speed.minilm(LAYERS, tasks=len(shipped["tasks"])))
    # Ours gives ids and mask alone; the token types of a single sentence are zeros.
    graph.graph.node.insert(0, helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"]))
    graph.graph.input.remove(next(given for given in graph.graph.input if given.name == "token_type_ids"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    (folder / TOKENIZER).write_bytes((MODEL / TOKENIZER).read_bytes())
    manifest = {
        **{name: shipped[name] for name in ("tasks", "policy", "limits")},
        "format": FORMAT,
        "name": "reference",
        "temperature": 1.0,
        "files": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (GRAPH, TOKENIZER)
        },
        # What random weights say does not matter, and dynamic scales make it depend on the batch.
        "golden": [
            {"text": "a golden query", "probabilities": [1 / len(shipped["tasks"])] * len(shipped["tasks"])}
        ],
        "golden_tolerance": 1.0,
    }
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return folder
