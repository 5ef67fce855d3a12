"""Inverses and determinants of matrices of any size, against NumPy's in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import bessemer
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import floats


def _model(operator: str, x: Array, shape: list[Any]) -> onnx.ModelProto:
    domain = "com.microsoft" if operator == "Inverse" else ""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], domain=domain)],
        "matrices",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), shape)],
        [onnx.ValueInfoProto(name="y")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _matrices(*shape: int) -> Array:
    """Far from singular, with zeros on the diagonal, so that rows must change places."""
    turned = np.roll(np.eye(shape[-1], dtype=np.float32), 1, axis=0)
    rows = floats(*shape) / 4
    made: Array = (rows - rows * np.eye(shape[-1], dtype=np.float32) + 3 * turned).astype(
        np.float32
    )
    return made


@pytest.mark.parametrize(
    ("x", "tolerance"),
    [
        (_matrices(3, 3), 1e-6),
        (_matrices(2, 3, 6, 6), 1e-6),
        (_matrices(2, 5, 5).astype(np.float64), 1e-12),
        (_matrices(2, 4, 4).astype(np.float16), 2e-3),
    ],
)
def test_inverses(x: Array, tolerance: float) -> None:
    (ours,) = run_graph(read_onnx(_model("Inverse", x, list(x.shape))), {"x": x})
    assert ours.dtype == x.dtype
    np.testing.assert_allclose(ours, np.linalg.inv(x.astype(np.float64)), atol=tolerance)


def test_determinants_of_many_rows() -> None:
    x = _matrices(3, 6, 6)
    (ours,) = run_graph(read_onnx(_model("Det", x, list(x.shape))), {"x": x})
    np.testing.assert_allclose(ours, np.linalg.det(x.astype(np.float64)), rtol=1e-5)


def test_determinants_of_singular_matrices_are_zero() -> None:
    x = _matrices(3, 5, 5)
    x[0, :, 1] = 0
    x[1, 3] = 0
    (ours,) = run_graph(read_onnx(_model("Det", x, list(x.shape))), {"x": x})
    np.testing.assert_allclose(ours, np.linalg.det(x.astype(np.float64)), rtol=1e-5)


@pytest.mark.slow
def test_one_compilation_inverts_matrices_of_all_sizes() -> None:
    compiled = bessemer.compile(_model("Inverse", floats(1), ["n", "rows", "rows"]), cache=False)
    for count, rows in ((1, 3), (4, 9), (2, 1)):
        x = _matrices(count, rows, rows)
        (ours,) = compiled.run({"x": x})
        np.testing.assert_allclose(ours, np.linalg.inv(x.astype(np.float64)), atol=1e-5)
