"""Pools of images with one channel, whose first axes have windows of one element: what they become,
and the numbers of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.x86 import AVX512
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnxruntime_sessions import session_of


def _pool(operator: str, shape: list[Any], **attributes: Any) -> onnx.ModelProto:
    """A pool of a three-dimensional image that an Unsqueeze has made of a picture's channels."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["x", "axes"], ["deep"]),
            helper.make_node(operator, ["deep"], ["pooled"], **attributes),
            helper.make_node("Squeeze", ["pooled", "axes"], ["y"]),
        ],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [axes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("operator", "attributes", "rank"), [
    ("MaxPool", {"kernel_shape": [1, 3, 3]}, 4),
    ("MaxPool", {"kernel_shape": [1, 3, 2], "strides": [4, 1, 2], "pads": [0, 1, 0, 0, 1, 1]}, 4),
    ("MaxPool", {"kernel_shape": [1, 1, 3], "strides": [2, 3, 1], "ceil_mode": 1}, 3),
    ("AveragePool", {"kernel_shape": [1, 3, 3], "strides": [1, 2, 2], "ceil_mode": 1}, 4),
    ("LpPool", {"kernel_shape": [1, 2, 2], "p": 2}, 4),
    ("MaxPool", {"kernel_shape": [2, 3, 3]}, 5),
    ("MaxPool", {"kernel_shape": [1, 1, 1], "strides": [2, 3, 1]}, 5),
])  # fmt: skip
def test_axes_with_windows_of_one_element_are_channels(
    operator: str, attributes: dict[str, Any], rank: int, rng: np.random.Generator
) -> None:
    if operator == "LpPool":
        attributes = {**attributes, "strides": [1, 1, 1]}
    model = _pool(operator, ["n", 7, 9, "w"], **attributes)
    read = read_onnx(model)
    inputs = [node.inputs[0] for node in read.walk() if node.operator.name.endswith("_pool")]
    assert all(value.type.rank == rank for value in inputs)
    compiled = bessemer.compile(model, threads=2, cache=False)
    session = session_of(model)
    for count, width in ((1, 11), (3, 8)):
        x = rng.standard_normal((count, 7, 9, width)).astype(np.float32)
        (wanted,) = session.run(None, {"x": x})
        (y,) = compiled.run({"x": x})
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_channels_that_a_transpose_brings_together_are_put_in_order_before_a_pool(
    pool: str, rng: np.random.Generator
) -> None:
    """A convolution reads them last; windows that read them where they lay took ten times as
    long."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[2, 32, 9, 17] x, float[20, 32, 1, 1] w) => (float[2, 20, 9, 17] y) {{
            p = {pool}<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)
            y = Conv(p, w) }}"""
    )
    graph = read_onnx(model)
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    kernels = {k.name: k for k in kernels_of(build_program(graph, AVX512).steps)}
    (name,) = (name for name in kernels if "pool" in name)
    assert " in 0..32 by 16" in print_kernel(kernels[name])
    inputs = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("x", (2, 32, 9, 17)), ("w", (20, 32, 1, 1)))
    }
    (found,) = bessemer.compile(model, cache=False).run(inputs)
    (expected,) = session_of(model).run(None, inputs)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_windows_that_share_pixels_compute_no_function_again(
    pool: str, rng: np.random.Generator
) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[2, 16, 9, 17] x) => (float[2, 16, 9, 17] y) {{
            gate = Sigmoid(x)
            swish = Mul(x, gate)
            y = {pool}<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(swish) }}"""
    )
    graph = read_onnx(model)
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    kernels = kernels_of(build_program(graph, AVX512).steps)
    assert any("sigmoid" in kernel.name for kernel in kernels)
    assert not any("sigmoid" in kernel.name and "pool" in kernel.name for kernel in kernels)
    x = rng.standard_normal((2, 16, 9, 17)).astype(np.float32)
    (found,) = bessemer.compile(model, cache=False).run({"x": x})
    (wanted,) = session_of(model).run(None, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
