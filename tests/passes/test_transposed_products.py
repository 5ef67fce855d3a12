"""Transposed convolutions to few channels as one product for all taps, in planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import bessemer
from bessemer.compiler.device_driver import device_passes
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.options import Options
from bessemer.compiler.passes.convolution.decompose_conv_transpose import (
    decompose_conv_transpose,
    decompose_to_convolutions,
)
from bessemer.compiler.targets.nvptx import SM80
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import expected, floats, node_model, operators


def _model(shape: tuple[int, ...], kernel: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    return node_model(node, [("x", floats(*shape))], 17, [("w", floats(*kernel))])


CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 24, 5, 6), (24, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (
        (2, 48, 4, 5),
        (48, 2, 5, 4),
        {"strides": [3, 2], "pads": [1, 0, 2, 1], "output_padding": [1, 1], "group": 2},
    ),
    ((1, 80, 7), (80, 1, 9), {"strides": [4], "pads": [5, 1]}),
    ((1, 64, 3, 4), (64, 1, 2, 1), {"strides": [3, 2]}),
    ((1, 16, 4, 4), (16, 20, 2, 2), {"strides": [2, 2]}),
    ((1, 32, 3, 4, 2), (32, 2, 3, 3, 3), {"strides": [2, 2, 2], "pads": [1, 1, 1, 1, 1, 1]}),
]
"""Shapes of x and w, and attributes: uneven kernels, groups, one axis, phases without taps, phases
of one tap, three axes."""


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CASES)
def test_sums_of_products_are_those_of_the_windows(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    model, x = _model(shape, kernel, **attributes), floats(*shape)
    graph = decompose_conv_transpose(read_onnx(model))
    assert operators(graph).count("matmul") == 1
    assert not {"conv", "conv_transpose"} & set(operators(graph))
    (theirs,) = expected(model, {"x": x})
    (found,) = run_graph(graph, {"x": x})
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)


def test_compiled_sums_are_the_same_for_any_size() -> None:
    model = _model(*CASES[2][:2], **CASES[2][2])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "samples"
    compiled = bessemer.compile(model, threads=1)
    for samples in (7, 50):
        x = floats(1, 80, samples)
        (theirs,) = expected(model, {"x": x})
        np.testing.assert_allclose(compiled.run([x])[0], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "groups"),
    [((1, 21, 8, 8), (21, 1, 4, 4), 21), ((1, 64, 8, 8), (64, 32, 3, 3), 1)],
)
def test_groups_of_one_channel_and_many_outputs_are_convolutions(
    shape: tuple[int, ...], kernel: tuple[int, ...], groups: int
) -> None:
    model = _model(shape, kernel, strides=[2, 2], pads=[1, 1, 1, 1], group=groups)
    graph = decompose_conv_transpose(read_onnx(model))
    assert "conv" in operators(graph) and "col2im" not in operators(graph)


def test_gpus_compute_convolutions() -> None:
    passes = device_passes(Options(), SM80)
    assert decompose_to_convolutions in passes and decompose_conv_transpose not in passes
    shape, kernel, attributes = CASES[0]
    found = operators(decompose_to_convolutions(read_onnx(_model(shape, kernel, **attributes))))
    assert "conv" in found and "col2im" not in found


def test_a_result_may_be_read_by_a_node_of_several_outputs() -> None:
    shape, kernel, attributes = CASES[0]
    model = _model(shape, kernel, **attributes)
    few = helper.make_tensor("few", onnx.TensorProto.INT64, [1], [2])
    model.graph.initializer.append(few)
    model.graph.node.append(helper.make_node("TopK", ["y", "few"], ["best", "places"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info("best"))
    graph = decompose_conv_transpose(read_onnx(model))
    x = floats(*shape)
    found = run_graph(graph, {"x": x})
    np.testing.assert_allclose(found[0], expected(model, {"x": x})[0], rtol=1e-5, atol=1e-5)
