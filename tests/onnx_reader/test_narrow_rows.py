"""Rows of constants of few bits: only they become floats, as onnxruntime makes them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnxruntime_sessions import session_of


@pytest.mark.parametrize(("dtype", "block"), [(np.uint8, 16), (ml_dtypes.int4, 32)])
def test_rows_of_quantized_tables_are_those_of_onnxruntime(dtype: Any, block: int) -> None:
    rng = np.random.default_rng(3)
    is_packed = dtype is np.uint8
    units = rng.integers(0, 256, (20, 32), np.uint8)
    table = units if is_packed else rng.integers(-8, 8, (20, 64)).astype(dtype)
    constants = {
        "table": table,
        "scales": rng.uniform(0.1, 1, (20, 64 // block)).astype(np.float32),
        "zeros": units[:, : 32 // block] if is_packed else table[:, : 64 // block],
    }
    node = helper.make_node(
        "GatherBlockQuantized", ["table", "rows", "scales", "zeros"], ["y"],
        domain="com.microsoft", block_size=block,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [2, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "n", 64])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = session_of(model)
    rows = rng.integers(0, 20, (2, 5))
    (y,) = run_graph(read_onnx(model), {"rows": rows})
    np.testing.assert_allclose(y, session.run(None, {"rows": rows})[0], rtol=1e-6)


def test_rows_of_a_table_with_the_shape_of_weights_are_those_of_onnxruntime() -> None:
    """A table of rows has blocks where it is the last product's weights, too."""
    rng = np.random.default_rng(5)
    constants = {
        "weights": rng.integers(0, 256, (256, 8, 16), np.uint8),
        "shape": np.array([256, 128]),
        "scales": rng.uniform(0.1, 1, (256, 8)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["weights", "shape"], ["table"]),
            helper.make_node(
                "GatherBlockQuantized", ["table", "rows", "scales"], ["y"],
                domain="com.microsoft", block_size=32,
            ),
        ],
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    rows = rng.integers(0, 256, 5)
    (y,) = run_graph(read_onnx(model), {"rows": rows})
    wanted = session_of(model).run(None, {"rows": rows})[0]
    np.testing.assert_allclose(y, wanted, rtol=1e-6)


@pytest.mark.parametrize(("axis", "block"), [(0, 0), (1, 16), (None, 0)])
def test_only_the_rows_wanted_become_floats(axis: int | None, block: int) -> None:
    rng = np.random.default_rng(4)
    shape = {0: [20], 1: [20, 2], None: []}[axis]
    constants = {
        "table": rng.integers(-8, 8, (20, 32)).astype(ml_dtypes.int4),
        "scale": rng.uniform(0.1, 1, shape).astype(np.float32),
    }
    given: dict[str, Any] = {} if axis is None else {"axis": axis, "block_size": block}
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", list(constants), ["real"], **given),
            helper.make_node("Gather", ["real", "rows"], ["y"]),
        ],
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [7, 32])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    rows = rng.integers(0, 20, 7)
    wanted: Any
    (wanted,) = ReferenceEvaluator(model).run(None, {"rows": rows})
    read = remove_dead(read_onnx(model))
    np.testing.assert_allclose(run_graph(read, {"rows": rows})[0], wanted, rtol=1e-6)
    assert all(value.type.shape != (20, 32) for node in read.nodes for value in node.outputs)
