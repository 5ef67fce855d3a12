"""Inputs whose sizes are all free, although the weights that they meet say what they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, node_model

_SEQUENCES = floats(4, 2, 7)
_IMAGE = floats(2, 4, 6, 6)
_ROWS = floats(2, 3, 4)
_BYTES = np.random.default_rng(0).integers(0, 255, (2, 4, 3)).astype(np.uint8)
_MEAN, _VARIANCE = floats(4), np.abs(floats(4)) + 1

# What every case is: the operator, its attributes, the free input, and its weights.
_CASES: dict[str, tuple[dict[str, Any], Array, dict[str, Array]]] = {
    "LSTM": ({"hidden_size": 5}, _SEQUENCES, {"w": floats(1, 20, 7), "r": floats(1, 20, 5)}),
    "GRU": ({"hidden_size": 5}, _SEQUENCES, {"w": floats(1, 15, 7), "r": floats(1, 15, 5)}),
    "RNN": ({"hidden_size": 5}, _SEQUENCES, {"w": floats(1, 5, 7), "r": floats(1, 5, 5)}),
    "Conv": ({}, _IMAGE, {"w": floats(5, 4, 3, 3)}),
    "ConvTranspose": ({"group": 2}, _IMAGE, {"w": floats(4, 3, 3, 3)}),
    "BatchNormalization": (
        {}, _IMAGE, {"s": floats(4), "b": floats(4), "m": _MEAN, "v": _VARIANCE},
    ),
    "InstanceNormalization": ({}, _IMAGE, {"s": floats(4), "b": floats(4)}),
    "GroupNormalization": ({"num_groups": 2}, _IMAGE, {"s": floats(4), "b": floats(4)}),
    "LayerNormalization": ({"axis": -2}, _ROWS, {"s": floats(3, 4), "b": floats(4)}),
    "GridSample": ({}, _IMAGE, {"g": np.tanh(floats(2, 5, 3, 2))}),
    "Einsum": ({"equation": "b...j,jk->...bk"}, _ROWS, {"w": floats(4, 5)}),
    "DequantizeLinear": ({"axis": 1}, _BYTES, {"s": np.abs(floats(4))}),
    "ai.onnx.ml::LinearRegressor": (
        {"coefficients": [1.0, 2.0, 3.0], "intercepts": [0.5]}, floats(4, 3), {},
    ),
    "ai.onnx.ml::SVMRegressor": (
        {"coefficients": [1.0, -2.0], "kernel_params": [0.1, 0.0, 3.0], "kernel_type": "RBF",
         "n_supports": 2, "rho": [0.1], "support_vectors": [1.0, 2.0, 3.0, 0.5, 0.0, 1.0]},
        floats(4, 3), {},
    ),
    "com.microsoft::SkipLayerNormalization": (
        {}, _ROWS, {"skip": floats(2, 3, 4), "s": floats(4), "b": floats(4)},
    ),
    "com.microsoft::MatMulNBits": (
        {"K": 32, "N": 4, "bits": 4, "block_size": 32}, floats(2, 32),
        {"w": np.arange(64, dtype=np.uint8).reshape(4, 1, 16), "s": np.abs(floats(4))},
    ),
}  # fmt: skip


_OPSETS = {"": 21, "ai.onnx.ml": 3, "com.microsoft": 1}


def _model(name: str) -> onnx.ModelProto:
    attributes, x, weights = _CASES[name]
    domain, _, operator = name.rpartition("::")
    node = onnx.helper.make_node(operator, ["x", *weights], ["y"], domain=domain, **attributes)
    return node_model(node, [("x", x)], _OPSETS[domain], list(weights.items()))


@pytest.mark.parametrize("name", _CASES)
def test_weights_say_what_a_free_size_is(name: str) -> None:
    model = _model(name)
    for axis, size in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        size.dim_param = f"size{axis}"
    agrees(model, {"x": _CASES[name][1]})


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("BatchNormalization", "xsbmv"),
        ("InstanceNormalization", "xsb"),
        ("GroupNormalization", "b"),
        ("GridSample", "xg"),
    ],
)
def test_free_sizes_of_factors_summands_and_statistics_are_one(name: str, free: str) -> None:
    """As where a tool has made inputs of the weights."""
    attributes, x, weights = _CASES[name]
    node = onnx.helper.make_node(name, ["x", *weights], ["y"], **attributes)
    given = {"x": x, **weights}
    model = node_model(node, list(given.items()), 21)
    for value in model.graph.input:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if value.name in free:
                size.dim_param = f"{value.name}{axis}"
    agrees(model, given)


def test_a_size_that_weights_do_not_fit_is_told() -> None:
    model = _model("LSTM")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 6
    with pytest.raises(CompileError, match=r"axis 2 of .* must be 7, .* it is 6"):
        read_onnx(model)


def test_sums_of_sizes_that_meet_have_a_size_in_common() -> None:
    """A decoder's past keys and values, whose lengths the exporter gave a name each."""
    steps = onnx.parser.parse_graph("""
        steps (float[b, n, 4] q, float[b, n, 4] k, float[b, n, 4] v,
               float[b, p, 4] past_k, float[b, r, 4] past_v) => (float[b, n, 4] y)
        {
            keys = Concat <axis = 1> (past_k, k)
            values = Concat <axis = 1> (past_v, v)
            turned = Transpose <perm = [0, 2, 1]> (keys)
            scores = MatMul (q, turned)
            shares = Softmax <axis = -1> (scores)
            y = MatMul (shares, values)
        }
    """)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(steps, opset_imports=opsets, ir_version=8)
    feed = {name: floats(2, 3, 4) for name in "qkv"}
    feed |= {"past_k": floats(2, 5, 4), "past_v": floats(2, 5, 4)}
    graph = read_onnx(model)
    agrees(model, feed, graph)
    lengths = {value.name: str(value.type.shape[1]) for value in graph.inputs}
    assert lengths["past_k"] == lengths["past_v"] and "check" not in str(graph)
