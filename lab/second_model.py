"""A second model that answers otherwise, made from one that is there: for swaps, shadows and their tests.

`make` turns the last layer's outputs by some places, so that what was *summarization*
is another task: the same cost to run, other answers, and golden queries that prove it.
"""

import hashlib
import shutil
from pathlib import Path

import msgspec

from handler.model import GRAPH, MANIFEST
from lab.launch import MODEL

# Turned by so many places, every fast task of the shipped model is a slow one or its neighbour.
PLACES = 10


def make(folder: Path, *, of: Path = MODEL, places: int = PLACES) -> Path:
    """Write a model folder whose answers are those of another, turned by so many places. Returns it."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    shutil.copytree(of, folder, dirs_exist_ok=True)
    graph = onnx.load(str(of / GRAPH))
    last = next(node for node in graph.graph.node if "logits" in node.output)
    axis = 0 if any(part.name == "transB" and part.i for part in last.attribute) else 1
    for tensor in graph.graph.initializer:
        if tensor.name in last.input:
            values = numpy_helper.to_array(tensor)
            turned = np.roll(values, places, axis=axis if values.ndim == 2 else 0)
            tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    manifest = msgspec.json.decode((of / MANIFEST).read_bytes())
    manifest["name"] = f"{manifest['name']}-turned-{places}"
    manifest["files"][GRAPH] = hashlib.sha256((folder / GRAPH).read_bytes()).hexdigest()
    for golden in manifest["golden"]:
        golden["probabilities"] = np.roll(golden["probabilities"], places).tolist()
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return folder
