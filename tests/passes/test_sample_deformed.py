"""Deformable convolutions as what their taps read, times the weights: equal numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.passes.convolution.sample_deformed import sample_deformed
from tests.pass_runs import N, changed


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("groups", "offset_groups"), [(1, 1), (1, 2), (2, 1), (2, 4), (4, 2)])
def test_it_is_a_product(
    groups: int, offset_groups: int, masked: bool, rng: np.random.Generator
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (N, 5, 6, 8)))
    w = b.input("w", TensorType(f32, (3, 2, 8 // groups, 12)))
    offsets = b.input("o", TensorType(f32, (N, 3, 3, 12 * offset_groups)))
    mask = [b.input("m", TensorType(f32, (N, 3, 3, 6 * offset_groups)))] * masked
    window: dict[str, Any] = {"strides": (2, 2), "dilations": (1, 1), "low": (1, 0), "high": (1, 1)}
    groups_of = {"groups": groups, "offset_groups": offset_groups}
    y = b.apply("deform_conv", x, w, offsets, *mask, **window, **groups_of)
    result = changed(b.finish([y]), [sample_deformed], rng, rtol=1e-6)
    names = [node.operator.name for node in result.nodes]
    assert "deform_conv" not in names and names.count("matmul") == 1


def test_channels_are_the_vectors(rng: np.random.Generator) -> None:
    """Compiled, with 16 channels and more, channels first as in the file."""
    names = ["x", "w", "o", "b", "m"]
    node = helper.make_node("DeformConv", names, ["y"], pads=[1, 1, 1, 1], offset_group=2)
    shapes = {"x": [2, 32, 3, 4], "o": [2, 36, 3, 4], "m": [2, 18, 3, 4]}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    weights = {
        "w": rng.standard_normal((2, 32, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(2).astype(np.float32),
    }
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2, 3, 4])
    graph = helper.make_graph([node], "g", infos, [out], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    (reference,) = ReferenceEvaluator(model).run(None, feed)
    expected = np.asarray(reference)
    (found,) = bessemer.compile(model).run(feed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
