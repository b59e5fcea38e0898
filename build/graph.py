"""A BERT's float ONNX graph → the small INT8 graph that is served.

Read `quantised` first: it is the list of what is done, in order. The graph that
comes in is the one ONNX Runtime's own BERT fusions leave (Attention, MatMul,
BiasGelu, SkipLayerNormalization); the one that goes out computes the same with
integer products. Knows nothing of tasks, texts or files.

Why written out here, and not by the general quantiser: activations are U8 with one
fixed scale per tensor, so no neighbour in a batch can move a query's numbers;
weights are S8 with a scale per column, in 7 bits, so that the pairwise sums of a
processor without VNNI cannot overflow 16 bits and every processor computes the
same; the embedding table is INT8 too; and after the last attention only [CLS] is
computed, since nothing else is read. docs/decisions/0003 has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MS = "com.microsoft"
WEIGHT_MAX = 63  # 7 bits: 2 * 255 * 63 < 2**15
EMBEDDING_MAX = 127  # looked up, never multiplied as integers: all 8 bits
CLIPS = np.linspace(0.5, 1.0, 26)


class Range:
    """The values that one activation takes, kept as a histogram that grows with them."""

    BINS = 4096

    def __init__(self) -> None:
        self.edge = 1e-6
        self.counts = np.zeros(2 * self.BINS)

    def add(self, values: NDArray[np.float32]) -> None:
        edge = float(np.abs(values).max(initial=0.0))
        if edge > self.edge:
            centres = self._centres()
            self.edge = edge * 1.05
            self.counts = np.histogram(centres, 2 * self.BINS, (-self.edge, self.edge), weights=self.counts)[
                0
            ]
        self.counts += np.histogram(values, 2 * self.BINS, (-self.edge, self.edge))[0]

    def scale_and_zero(self) -> tuple[float, int]:
        """Choose the U8 scale and zero point that lose least, in the mean square.

        A few far values may be clipped where that makes all others finer.
        """
        centres = self._centres()
        seen = np.flatnonzero(self.counts)
        low, high = min(0.0, centres[seen[0]]), max(0.0, centres[seen[-1]])
        best = (np.inf, 1.0, 0)
        for clip_low in CLIPS:
            for clip_high in CLIPS:
                scale = (high * clip_high - low * clip_low) / 255
                zero = int(np.clip(round(-low * clip_low / scale), 0, 255))
                steps = np.clip(np.round(centres / scale) + zero, 0, 255)
                error = float((self.counts * ((steps - zero) * scale - centres) ** 2).sum())
                if error < best[0]:
                    best = (error, scale, zero)
        # Four digits: the last bits differ between processors, and the graph's bytes should not.
        return float(f"{best[1]:.4g}"), best[2]

    def _centres(self) -> NDArray[np.float64]:
        edges = np.linspace(-self.edge, self.edge, 2 * self.BINS + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def fold_segments(model: onnx.ModelProto, tokens_max: int) -> onnx.ModelProto:
    """Return a copy that reads no token_type_ids and holds just the positions that are served.

    Every query is one segment, so the segment's embedding is a constant of the positions.
    """
    model = _copy(model)
    weights = _weights(model)
    embed = _only(model, "EmbedLayerNormalization")
    ids, _, word, position, segment, gamma, beta, _ = embed.input
    positions = weights[position][:tokens_max] + weights[segment][0]
    _put(model, "positions", positions)
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.INT32),
        helper.make_node("Gather", [word, "input_ids"], ["word"]),
        helper.make_node("Shape", ["input_ids"], ["token_count"], start=1, end=2),
        helper.make_node("Slice", ["positions", "first", "token_count", "first"], ["position"]),
        helper.make_node(
            "SkipLayerNormalization", ["word", "position", gamma, beta], [embed.output[0]],
            domain=MS, epsilon=_attribute(embed, "epsilon"),
        ),
    ]  # fmt: skip
    _put(model, "first", np.array([0], dtype=np.int64))
    casts = {ids, embed.input[1], embed.input[7]}
    others = [n for n in model.graph.node if n is not embed and not casts & set(n.output)]
    for node in others:
        for i, name in enumerate(node.input):
            if name == embed.output[1]:
                node.input[i] = "mask"
    _replace_nodes(model, [*nodes, *others])
    kept = [i for i in model.graph.input if i.name != "token_type_ids"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def keep_first_token_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that, after the last attention, computes the [CLS] token alone.

    The classifier reads no other, and the feed-forward of a layer is two thirds of its work.
    """
    model = _copy(model)
    last = [node for node in model.graph.node if node.op_type == "Attention"][-1]
    attended, skip = last.output[0], last.input[0]
    nodes = []
    after = False
    for node in model.graph.node:
        if after:
            for i, name in enumerate(node.input):
                if name in (attended, skip):
                    node.input[i] = f"{name}:first"
        nodes.append(node)
        if node is last:
            after = True
            nodes += [
                helper.make_node("Gather", [name, "first"], [f"{name}:first"], axis=1)
                for name in (attended, skip)
            ]
    _replace_nodes(model, nodes)
    return model


def multiplied(model: onnx.ModelProto) -> list[str]:
    """Name the activations that weights are multiplied with: those that need a range."""
    weights = _weights(model)
    return sorted(
        {
            node.input[0]
            for node in model.graph.node
            if node.op_type == "Attention" or (node.op_type == "MatMul" and node.input[1] in weights)
        }
    )


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that also gives out the named float activations, for calibration."""
    model = _copy(model)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return model


def quantised(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the INT8 graph: embedding table, attention projections and every MatMul.

    ranges  of each activation that `multiplied` names, from calibration

    The pooler and the classifier stay float: they are one row per query, and what is
    lost there is lost in the answer.
    """
    model = _copy(model)
    weights = _weights(model)
    # A bias that waits for its product in the next norm is added by the product itself.
    biases = {
        node.input[0]: node.input[4]
        for node in model.graph.node
        if node.op_type == "SkipLayerNormalization" and len(node.input) > 4
    }
    nodes: list[onnx.NodeProto] = []
    steps: set[str] = set()

    def integers(name: str) -> list[str]:
        """Emit the rounding of one activation, once, and return [value, scale, zero]."""
        if name not in steps:
            steps.add(name)
            scale, zero = ranges[name].scale_and_zero()
            _put(model, f"{name}:scale", np.float32(scale))
            _put(model, f"{name}:zero", np.uint8(zero))
            nodes.append(
                helper.make_node("QuantizeLinear", [name, f"{name}:scale", f"{name}:zero"], [f"{name}:u8"])
            )
        return [f"{name}:u8", f"{name}:scale", f"{name}:zero"]

    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids":
            nodes += _integer_embedding(model, node, weights)
        elif node.op_type == "Attention":
            value, scale, zero = integers(node.input[0])
            weight, weight_scale, weight_zero = _integer_weight(model, node.input[1], weights)
            _, _, bias, mask = node.input
            nodes.append(
                helper.make_node(
                    "QAttention",
                    [value, weight, bias, scale, weight_scale, mask, zero, weight_zero],
                    list(node.output),
                    domain=MS,
                    num_heads=_attribute(node, "num_heads"),
                    mask_filter_value=_attribute(node, "mask_filter_value"),
                )
            )
        elif node.op_type == "MatMul" and node.input[1] in weights:
            value, scale, zero = integers(node.input[0])
            weight, weight_scale, weight_zero = _integer_weight(model, node.input[1], weights)
            bias = biases.get(node.output[0], "")
            nodes.append(
                helper.make_node(
                    "MatMulIntegerToFloat",
                    [value, weight, scale, weight_scale, zero, weight_zero, bias],
                    list(node.output),
                    domain=MS,
                )
            )
        elif node.op_type == "SkipLayerNormalization":
            nodes += _plain_norm(node)
        else:
            nodes.append(node)
    _replace_nodes(model, nodes)
    _drop_unused(model)
    return model


def _plain_norm(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Write a fused sum-and-norm as two nodes again.

    The fused kernel takes 33 us for 16 tokens, the two 6 us. It is Sum and not Add because
    ONNX Runtime would fuse an Add back when it loads the graph.
    """
    value, skip, gamma, beta = node.input[:4]
    return [
        helper.make_node("Sum", [value, skip], [f"{node.output[0]}:sum"]),
        helper.make_node(
            "LayerNormalization",
            [f"{node.output[0]}:sum", gamma, beta],
            list(node.output),
            axis=-1,
            epsilon=_attribute(node, "epsilon"),
        ),
    ]


def _integer_weight(
    model: onnx.ModelProto, name: str, weights: Mapping[str, NDArray[np.float32]]
) -> list[str]:
    """Store a (row, column) weight as S8 with a scale per column; return [value, scale, zero]."""
    weight = weights[name]
    scale = np.abs(weight).max(axis=0) / WEIGHT_MAX
    scale[scale == 0] = 1.0
    _put(model, f"{name}:s8", np.round(weight / scale).astype(np.int8))
    _put(model, f"{name}:scale", scale.astype(np.float32))
    _put(model, f"{name}:zero", np.zeros(weight.shape[1], dtype=np.int8))
    return [f"{name}:s8", f"{name}:scale", f"{name}:zero"]


def _integer_embedding(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Mapping[str, NDArray[np.float32]]
) -> list[onnx.NodeProto]:
    """Store the (token, hidden) table as S8 with a scale per token, and look both up."""
    name, ids = node.input
    table = weights[name]
    scale = np.abs(table).max(axis=1, keepdims=True) / EMBEDDING_MAX
    scale[scale == 0] = 1.0
    _put(model, f"{name}:s8", np.round(table / scale).astype(np.int8))
    _put(model, f"{name}:scale", scale.astype(np.float32))
    return [
        helper.make_node("Gather", [f"{name}:s8", ids], ["word:s8"]),
        helper.make_node("Gather", [f"{name}:scale", ids], ["word:scale"]),
        helper.make_node("Cast", ["word:s8"], ["word:steps"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["word:steps", "word:scale"], list(node.output)),
    ]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _only(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    node: onnx.NodeProto
    (node,) = (node for node in model.graph.node if node.op_type == op_type)
    return node


def _attribute(node: onnx.NodeProto, name: str) -> int | float:
    found: int | float
    (found,) = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    return found


def _put(model: onnx.ModelProto, name: str, value: NDArray[np.generic] | np.generic) -> None:
    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _drop_unused(model: onnx.ModelProto) -> None:
    """Forget the float weights that the integers stand for."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
