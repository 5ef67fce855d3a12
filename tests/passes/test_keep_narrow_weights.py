"""Weights that 16 bits hold are kept in 16 bits, and no bit of a result changes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.ir.types import Array, f32
from bessemer.compiler.passes.precision.keep_narrow_weights import keep_narrow_weights
from tests.pass_runs import Case, N, changed

_DEPTH, _COLUMNS = 131, 128


def _weights(dtype: type) -> Array:
    numbers = np.random.default_rng(3).standard_normal((_DEPTH, _COLUMNS))
    return np.asarray(numbers.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "dtype", "kept"),
    [
        (1, np.float16, "f16"),
        (N, ml_dtypes.bfloat16, "bf16"),
        (3, np.float32, "f32"),
        (65, np.float16, "f32"),
    ],
)
def test_weights_without_more_digits_are_kept_narrow(rows: int, dtype: type, kept: str) -> None:
    c = Case()
    product = c.of("matmul", c.x(rows, _DEPTH), c.b.constant(_weights(dtype)))
    graph = changed(c.b.finish([product]), [keep_narrow_weights], np.random.default_rng(0))
    (node,) = (node for node in graph.nodes if node.operator.name == "matmul")
    assert node.inputs[1].type.dtype.name == kept
    assert node.output.type.dtype is f32


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_products_with_narrow_weights_have_the_same_bits(dtype: type) -> None:
    weights = _weights(dtype)
    # The digit that is one too many is in the column that is not compared.
    wide = np.concatenate((weights, np.full((_DEPTH, 1), 1 / 3, np.float32)), axis=1)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _DEPTH])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    constants = [numpy_helper.from_array(a, name) for a, name in ((weights, "v"), (wide, "w"))]
    nodes = [helper.make_node("MatMul", ["x", a], [b]) for a, b in (("v", "y"), ("w", "z"))]
    graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
    model = bessemer.compile(helper.make_model(graph))
    assert model.signature.weights_bytes < weights.nbytes + wide.nbytes
    for rows in (1, 5, 40):
        x = np.random.default_rng(rows).standard_normal((rows, _DEPTH)).astype(np.float32)
        narrow, plain = model.run({"x": x})
        np.testing.assert_array_equal(narrow, plain[:, :_COLUMNS])
