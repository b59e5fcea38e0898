"""The shipped integers give the same sums with VNNI and without.

A processor without VNNI multiplies a pair of unsigned activations by a pair of signed
weights and adds both products in 16 bits, cutting what does not fit (`vpmaddubsw`). Weights
of seven bits leave nothing to cut.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

SHIPPED = Path(__file__).resolve().parents[2] / "models/quantized/model.onnx"
ACTIVATION_MAX = 255


def pair_products(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
    """Add products by pairs along the depth: (row, depth) × (depth, column) → (row, depth / 2, column)."""
    products = activations.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    return np.asarray(products[:, 0::2] + products[:, 1::2], dtype=np.int32)


def without_vnni(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
    """Multiply matrices as AVX2 does: pairs added in 16 bits that saturate, then in 32."""
    return np.asarray(
        np.clip(pair_products(activations, weights), -(2**15), 2**15 - 1).sum(axis=1), dtype=np.int32
    )


def with_vnni(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
    """Multiply matrices in 32 bits throughout."""
    return np.asarray(activations.astype(np.int32) @ weights.astype(np.int32))


@pytest.fixture(scope="module")
def shipped_weights() -> list[NDArray[np.int8]]:
    """Every weight of the shipped graph that integers are multiplied by, (depth, column)."""
    graph = onnx.load(SHIPPED).graph
    names = {n.input[1] for n in graph.node if n.op_type in ("QAttention", "MatMulIntegerToFloat")}
    found = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in names]
    assert len(found) == len(names)
    return found


def test_no_pair_of_shipped_weights_can_leave_16_bits(shipped_weights: list[NDArray[np.int8]]) -> None:
    for weight in shipped_weights:
        wide = weight.astype(np.int32)
        # The worst that any activations can do to a pair: full where the sign helps, none where it hurts.
        highest = ACTIVATION_MAX * (np.maximum(wide[0::2], 0) + np.maximum(wide[1::2], 0))
        lowest = ACTIVATION_MAX * (np.minimum(wide[0::2], 0) + np.minimum(wide[1::2], 0))
        assert highest.max() < 2**15
        assert lowest.min() >= -(2**15)


def test_both_kinds_of_processor_multiply_the_shipped_weights_alike(
    shipped_weights: list[NDArray[np.int8]],
) -> None:
    rng = np.random.default_rng(6)
    for weight in shipped_weights:
        # Half the values at their greatest: what strains 16 bits most.
        activations = np.where(
            rng.random((2, weight.shape[0])) < 0.5, 255, rng.integers(0, 256, (2, weight.shape[0]))
        ).astype(np.uint8)
        np.testing.assert_array_equal(without_vnni(activations, weight), with_vnni(activations, weight))


def test_weights_of_eight_bits_would_differ_between_them() -> None:
    activations = np.full((1, 2), 255, dtype=np.uint8)
    weight = np.full((2, 1), 127, dtype=np.int8)

    assert without_vnni(activations, weight) != with_vnni(activations, weight)
