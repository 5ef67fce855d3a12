"""Weights that a file gives by their places: sparse initializers and sparse constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bessemer.compiler.errors import CompileError
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats

_VALUES = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
_PLACES = (0, 7, 19)
_PAIRS = (0, 0, 1, 2, 3, 4)


def _sparse(places: tuple[int, ...], *shape: int) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("places", TensorProto.INT64, shape, places)
    return helper.make_sparse_tensor(_VALUES, indices, [4, 5])


def _model(weight: onnx.SparseTensorProto, constant: onnx.SparseTensorProto) -> onnx.ModelProto:
    """x · w + x · v: w is an initializer, v a node."""
    nodes = [helper.make_node("Constant", [], ["v"], sparse_value=constant)]
    nodes += [helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "wv"]
    nodes.append(helper.make_node("Add", ["xw", "xv"], ["y"]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])
    graph = helper.make_graph(nodes, "sparse", [given], [onnx.ValueInfoProto(name="y")])
    graph.sparse_initializer.append(weight)
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_places_are_of_the_flattened_tensor_or_one_for_each_axis() -> None:
    model = _model(_sparse(_PLACES, 3), _sparse(_PAIRS, 3, 2))
    (y,) = agrees(model, {"x": floats(3, 4)})
    dense = np.zeros(20, np.float32)
    dense[[0, 7, 19]] = 2, 4, 6
    np.testing.assert_allclose(y, floats(3, 4) @ dense.reshape(4, 5), rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (_sparse((0, 7, 20), 3), "outside of its shape"),
        (_sparse((0, -1, 2), 3), "outside of its shape"),
        (_sparse((0, 0, 1, 5, 3, 4), 3, 2), "outside of its shape"),
        (_sparse((0, 7), 2), "make no sparse tensor"),
    ],
)
def test_places_that_are_not_in_the_tensor_are_refused(
    weight: onnx.SparseTensorProto, message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        read_onnx(_model(weight, _sparse(_PLACES, 3)))
