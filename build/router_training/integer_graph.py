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
GELU_LOW = -0.2  # its least value is -0.17; under a token's greatest value of 1 that is clipped
GELU_TOP_MIN = 0.05  # a token whose units all stay shut must not divide by nothing
EMBEDDING_MAX = 127  # looked up, never multiplied as integers: all 8 bits

Weights = Mapping[str, NDArray[np.float32]]


class Range:
    """The least and the greatest value that each channel of one activation takes."""

    def __init__(self) -> None:
        # Zero is always in range: it is what integers must hit exactly.
        self.low: NDArray[np.floating] = np.zeros(1, dtype=np.float32)
        self.high: NDArray[np.floating] = np.zeros(1, dtype=np.float32)

    def add(self, values: NDArray[np.float32]) -> None:
        """Widen by values (…, channel)."""
        rows = values.reshape(-1, values.shape[-1])
        self.low = np.minimum(self.low, rows.min(axis=0))
        self.high = np.maximum(self.high, rows.max(axis=0))

    def evened(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Find the factor by channel (channel,) that makes the activation as even as its weight.

        A few channels of a norm's output run 15 times as far as the rest and would leave
        them a handful of steps. Dividing a channel here and multiplying its row of the
        weight changes nothing but the rounding (Xiao et al. 2023, "SmoothQuant").
        """
        reach = np.maximum(np.maximum(-self.low, self.high), 1e-5)
        factor = np.sqrt(reach / np.maximum(np.abs(weight).max(axis=1), 1e-5))
        return np.asarray(factor / np.exp(np.log(factor).mean()), dtype=np.float32)

    def divided(self, factor: NDArray[np.float32]) -> Range:
        """Return the range of the activation divided by factor (channel,)."""
        found = Range()
        found.low, found.high = self.low / factor, self.high / factor
        return found

    def scale_and_zero(self) -> tuple[float, int]:
        """Return the U8 scale and zero point of the whole activation."""
        low, high = float(self.low.min()), float(self.high.max())
        # Four digits: the last bits differ between processors, and the graph's bytes should not.
        scale = float(f"{max((high - low) / 255, 1e-6):.4g}")
        return scale, int(np.clip(round(-low / scale), 0, 255))


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
    # A number and no list: the token's axis is gone from here on.
    _put(model, "cls", np.array(0, dtype=np.int64))
    first = {attended: f"{attended}:first", skip: f"{skip}:first"}
    nodes = []
    after = False
    for node in model.graph.node:
        if after and node.op_type == "Gather":  # the pooler's own choice of [CLS]
            first[node.output[0]] = node.input[0]
            continue
        if after:
            for i, name in enumerate(node.input):
                node.input[i] = first.get(name, name)
        nodes.append(node)
        if node is last:
            after = True
            nodes += [
                helper.make_node("Gather", [name, "cls"], [first[name]], axis=1) for name in (attended, skip)
            ]
    _replace_nodes(model, _without_idle(nodes, model))
    return model


def multiplied(model: onnx.ModelProto) -> list[str]:
    """Name the activations that weights are multiplied with by one fixed scale: they need a range."""
    weights = _weights(model)
    return sorted(
        {
            node.input[0]
            for node in model.graph.node
            if node.op_type == "Attention" or (node.op_type == "MatMul" and node.input[1] in weights)
        }
        - {_scaled_by_token(model)}
    )


def _scaled_by_token(model: onnx.ModelProto) -> str:
    """Name the one activation that each token scales for itself: what the first GELU gives out.

    A few tokens reach ten times as far as the rest there, in a few channels, which no factor
    by channel mends: with one scale for all, this one rounding cost more than all others
    together (docs/decisions/0003). In the GELUs above it, one scale costs nothing.
    """
    name: str = next(node.output[0] for node in model.graph.node if node.op_type == "BiasGelu")
    return name


def even_attended(
    model: onnx.ModelProto, ranges: Mapping[str, Range]
) -> tuple[onnx.ModelProto, dict[str, Range]]:
    """Return a copy whose attentions give out channels of even reach, and the ranges that fit it.

    What an attention gives out is linear in its values, so the factors that would even it
    out go into the value's columns: nothing is left to do when a query is scored.
    """
    model, ranges = _copy(model), dict(ranges)
    weights = _weights(model)
    maker = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        source = maker.get(node.input[0]) if node.op_type == "MatMul" else None
        if source is not None and source.op_type == "Gather":  # [CLS] alone, after the last one
            source = maker[source.input[0]]
        if source is None or source.op_type != "Attention":
            continue
        value, weight = node.input
        _, projection, bias, _ = source.input
        factor = ranges[value].evened(weights[weight])
        # Queries and keys stay as they are.
        columns = np.concatenate([np.ones(2 * len(factor), dtype=np.float32), factor])
        _set(model, projection, weights[projection] / columns)
        _set(model, bias, weights[bias] / columns)
        _set(model, weight, weights[weight] * factor[:, None])
        ranges[value] = ranges[value].divided(factor)
    return model, ranges


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that also gives out the named float activations, for calibration."""
    model = _copy(model)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return model


def quantised(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the INT8 graph: embedding table, attention projections and every MatMul.

    ranges  of each activation that `multiplied` names, from calibration

    Norms' outputs are evened out before they are rounded, attentions' by `even_attended`,
    GELUs' not at all. The pooler and the classifier stay float: they are one row per query, and what is
    lost there is lost in the answer.

    The graph gives out `hidden` too, (batch, hidden) float32: the mean over a query's tokens of the states
    that the last attention reads. Who does not ask for it pays nothing.
    """
    model, ranges = even_attended(model, ranges)
    weights = _weights(model)
    norms = {n.output[0] for n in model.graph.node if n.op_type == "SkipLayerNormalization"}
    by_token = _scaled_by_token(model)
    last = [node for node in model.graph.node if node.op_type == "Attention"][-1]
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == "input_ids":
            nodes += _integer_embedding(model, node, weights)
        elif node.op_type == "Attention":
            integer = _integer_attention_of_first if node is last else _integer_attention
            nodes += integer(model, node, weights, ranges)
            if node is last:
                nodes += _mean_state(model, node)
        elif node.op_type == "MatMul" and node.input[1] in weights:
            if node.input[0] == by_token:
                nodes += _integer_product_by_token(model, node, weights)
            elif node.input[0] in norms:
                nodes += _integer_product(model, node, weights, ranges)
            else:
                nodes += _plain_integer_product(model, node, weights, ranges)
        elif node.op_type == "SkipLayerNormalization":
            nodes += _plain_norm(node)
        else:
            nodes.append(node)
    _replace_nodes(model, nodes)
    _drop_unused(model)
    return model


def _integer_attention(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights, ranges: Mapping[str, Range]
) -> list[onnx.NodeProto]:
    value, weight, bias, mask = node.input
    return [
        *_evened_steps(model, value, weight, weights, ranges),
        helper.make_node(
            "QAttention",
            [
                *(f"{value}:u8", f"{weight}:s8", bias, f"{value}:scale", f"{weight}:scale"),
                *(mask, f"{value}:zero", f"{weight}:zero"),
            ],
            list(node.output),
            domain=MS,
            num_heads=_attribute(node, "num_heads"),
            mask_filter_value=_attribute(node, "mask_filter_value"),
        ),
    ]


def _integer_attention_of_first(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights, ranges: Mapping[str, Range]
) -> list[onnx.NodeProto]:
    """Let [CLS] alone attend, to all: nobody asks what the other tokens would have seen."""
    value, weight, bias, mask = node.input
    steps = _evened_steps(model, value, weight, weights, ranges)
    evened = weights[weight] * ranges[value].evened(weights[weight])[:, None]
    for name, part in zip(("query", "key", "value"), np.split(evened, 3, axis=1), strict=True):
        _put_weight(model, f"{weight}:{name}", part)
    _put(model, "first", np.array([0], dtype=np.int64))
    parts = [f"{weight}:{name}:product" for name in ("query", "key", "value")]
    return [
        *steps,
        helper.make_node("Gather", [f"{value}:u8", "first"], [f"{value}:first:u8"], axis=1),
        _product(f"{value}:first", f"{weight}:query", parts[0], value),
        _product(value, f"{weight}:key", parts[1]),
        _product(value, f"{weight}:value", parts[2]),
        helper.make_node(
            "MultiHeadAttention",
            [*parts, bias, mask],
            list(node.output),
            domain=MS,
            num_heads=_attribute(node, "num_heads"),
            mask_filter_value=_attribute(node, "mask_filter_value"),
        ),
    ]


def _mean_state(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Give out the mean of an attention's input over the tokens that are no padding, as `hidden`.

    Of its rounded steps, whose sums are whole numbers under 2**24 and so exact in float32 in any
    order: padding moves nothing.
    """
    value = node.input[0]
    _put(model, "of_tokens", np.array([1], dtype=np.int64))
    width = len(_weights(model)[f"{value}:even"])
    model.graph.output.append(
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch_size", width])
    )
    return [
        helper.make_node("Cast", [f"{value}:u8"], ["steps"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["read"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["read", "of_tokens"], ["read:row"]),
        helper.make_node("MatMul", ["read:row", "steps"], ["steps:row"]),
        helper.make_node("Squeeze", ["steps:row", "of_tokens"], ["steps:sum"]),
        helper.make_node("ReduceSum", ["read", "of_tokens"], ["read:count"]),
        helper.make_node("Div", ["steps:sum", "read:count"], ["steps:mean"]),
        helper.make_node("Cast", [f"{value}:zero"], ["steps:zero"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["steps:mean", "steps:zero"], ["steps:moved"]),
        helper.make_node("Mul", ["steps:moved", f"{value}:scale"], ["steps:evened"]),
        helper.make_node("Div", ["steps:evened", f"{value}:even"], ["hidden"]),
    ]


def _integer_product(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights, ranges: Mapping[str, Range]
) -> list[onnx.NodeProto]:
    """Multiply in integers with one fixed scale for the activation."""
    value, weight = node.input
    return [
        *_evened_steps(model, value, weight, weights, ranges),
        _product(value, weight, node.output[0]),
    ]


def _plain_integer_product(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights, ranges: Mapping[str, Range]
) -> list[onnx.NodeProto]:
    """Multiply in integers with one fixed scale for the activation, which is even enough as it is."""
    value, weight = node.input
    _put_scale(model, value, *ranges[value].scale_and_zero())
    _put_weight(model, weight, weights[weight])
    return [_rounding(value, value), _product(value, weight, node.output[0])]


def _evened_steps(
    model: onnx.ModelProto, value: str, weight: str, weights: Weights, ranges: Mapping[str, Range]
) -> list[onnx.NodeProto]:
    """Even out an activation's channels, round it, and store its weight evened the other way."""
    factor = ranges[value].evened(weights[weight])
    _put(model, f"{value}:even", 1 / factor)
    _put_scale(model, value, *ranges[value].divided(factor).scale_and_zero())
    _put_weight(model, weight, weights[weight] * factor[:, None])
    return [
        helper.make_node("Mul", [value, f"{value}:even"], [f"{value}:evened"]),
        _rounding(value, f"{value}:evened"),
    ]


def _integer_product_by_token(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights
) -> list[onnx.NodeProto]:
    """Multiply a GELU's output in integers, each token scaled by its own greatest value."""
    value, weight = node.input
    _put_scale(model, value, (1 - GELU_LOW) / 255, round(-GELU_LOW / (1 - GELU_LOW) * 255))
    _put(model, "top_min", np.float32(GELU_TOP_MIN))
    _put_weight(model, weight, weights[weight])
    output = node.output[0]
    return [
        helper.make_node("ReduceMax", [value], [f"{value}:greatest"], axes=[-1], keepdims=1),
        helper.make_node("Max", [f"{value}:greatest", "top_min"], [f"{value}:top"]),
        helper.make_node("Div", [value, f"{value}:top"], [f"{value}:evened"]),
        _rounding(value, f"{value}:evened"),
        _product(value, weight, f"{output}:share"),
        helper.make_node("Mul", [f"{output}:share", f"{value}:top"], [output]),
    ]


def _rounding(value: str, evened: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [evened, f"{value}:scale", f"{value}:zero"], [f"{value}:u8"])


def _product(value: str, weight: str, output: str, scale_of: str | None = None) -> onnx.NodeProto:
    """Multiply stored integers: (…, row) U8 by (row, column) S8 gives (…, column) float32.

    scale_of  the activation whose scale and zero point it has, if not its own
    """
    known = scale_of or value
    return helper.make_node(
        "MatMulIntegerToFloat",
        [
            *(f"{value}:u8", f"{weight}:s8", f"{known}:scale"),
            *(f"{weight}:scale", f"{known}:zero", f"{weight}:zero"),
        ],
        [output],
        domain=MS,
    )


def _plain_norm(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Write a fused sum-and-norm as two nodes again: value + skip (+ bias), then the norm.

    The fused kernel takes 33 us for 16 tokens, the two 6 us. It is Sum and not Add because
    ONNX Runtime would fuse an Add back when it loads the graph.
    """
    value, skip, gamma, beta, *bias = node.input
    total = f"{node.output[0]}:sum"
    return [
        helper.make_node("Sum", [value, skip, *bias], [total]),
        helper.make_node(
            "LayerNormalization",
            [total, gamma, beta],
            list(node.output),
            axis=-1,
            epsilon=_attribute(node, "epsilon"),
        ),
    ]


def _put_weight(model: onnx.ModelProto, name: str, weight: NDArray[np.float32]) -> None:
    """Store a (row, column) weight as S8 with a scale and a zero point per column."""
    scale = np.abs(weight).max(axis=0) / WEIGHT_MAX
    scale[scale == 0] = 1.0
    _put(model, f"{name}:s8", np.round(weight / scale).astype(np.int8))
    _put(model, f"{name}:scale", scale.astype(np.float32))
    _put(model, f"{name}:zero", np.zeros(weight.shape[1], dtype=np.int8))


def _integer_embedding(
    model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights
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


def _put_scale(model: onnx.ModelProto, value: str, scale: float, zero: int) -> None:
    """Store the U8 scale and zero point of an activation."""
    _put(model, f"{value}:scale", np.float32(scale))
    _put(model, f"{value}:zero", np.uint8(zero))


def _set(model: onnx.ModelProto, name: str, value: NDArray[np.float32]) -> None:
    """Store another value under a name that is there."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def _replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _without_idle(nodes: Iterable[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Leave out constants that no node reads any more: ONNX Runtime complains of them at every load."""
    nodes = list(nodes)
    read = {name for node in nodes for name in node.input} | {given.name for given in model.graph.output}
    return [node for node in nodes if node.op_type != "Constant" or read & set(node.output)]


def _drop_unused(model: onnx.ModelProto) -> None:
    """Forget the float weights that the integers stand for."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
