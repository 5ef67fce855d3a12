"""What exporters write beside ONNX's own operators: sums of truths, and QONNX's quantizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import operators
from tests.onnxruntime_sessions import session_of


def _model(
    node: onnx.NodeProto, kind: int, shape: list[int], constants: dict[str, Array], result: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", result, shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_sum_of_truths_is_one_of_integers() -> None:
    node = helper.make_node("CumSum", ["x", "axis"], ["y"])
    constants = {"axis": np.array(1, np.int64)}
    model = _model(node, TensorProto.BOOL, [2, 5], constants, TensorProto.INT64)
    x = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1]], bool)
    (y,) = run_graph(read_onnx(model), {"x": x})
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, np.cumsum(x, 1))


_STEPS = np.arange(-40, 41, dtype=np.float32) / 8  # all halves are among them

_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "ROUND_TO_ZERO": np.trunc,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}


def _quant(bits: float, scale: float = 0.5, zero: float = 0.0, **attributes: Any) -> Array:
    node = helper.make_node(
        "Quant", ["x", "s", "z", "b"], ["y"], "quantizer",
        domain="qonnx.custom_op.general", **attributes,
    )  # fmt: skip
    numbers = {"s": scale, "z": zero, "b": bits}
    constants = {name: np.array(number, np.float32) for name, number in numbers.items()}
    model = _model(node, TensorProto.FLOAT, [81], constants, TensorProto.FLOAT)
    (y,) = run_graph(read_onnx(model), {"x": _STEPS})
    return np.asarray(y)


@pytest.mark.parametrize("mode", _ROUNDINGS)
def test_a_quantizer_rounds(mode: str) -> None:
    expected = _ROUNDINGS[mode](_STEPS.astype(np.float64) / 0.5) * 0.5
    np.testing.assert_array_equal(_quant(8, rounding_mode=mode), expected)


@pytest.mark.parametrize(
    ("signed", "narrow", "lowest", "highest"),
    [(1, 0, -4, 3), (1, 1, -3, 3), (0, 0, 0, 7), (0, 1, 0, 6)],
)
def test_a_quantizer_keeps_to_its_bits(signed: int, narrow: int, lowest: int, highest: int) -> None:
    found = _quant(3, 0.25, 1.0, signed=signed, narrow=narrow)
    whole = np.clip(_STEPS.astype(np.float64) / 0.25 + 1, lowest, highest).round()
    np.testing.assert_array_equal(found, (whole - 1) * 0.25)


def test_one_signed_bit_is_one_of_two_numbers() -> None:
    np.testing.assert_array_equal(_quant(1), np.where(_STEPS >= 0, 0.5, -0.5))


def test_a_bipolar_quantizer_is_one_of_two_numbers() -> None:
    node = helper.make_node("BipolarQuant", ["x", "s"], ["y"], domain="qonnx.custom_op.general")
    constants = {"s": np.array(0.75, np.float32)}
    model = _model(node, TensorProto.FLOAT, [81], constants, TensorProto.FLOAT)
    (y,) = run_graph(read_onnx(model), {"x": _STEPS})
    np.testing.assert_array_equal(y, np.where(_STEPS >= 0, 0.75, -0.75))


def test_an_unknown_rounding_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"Quant 'quantizer'.*rounding_mode = SOMEHOW"):
        _quant(8, rounding_mode="SOMEHOW")


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_counting_by_the_places_of_ones_is_settled_while_reading(shape: tuple[int, ...]) -> None:
    """So that sizes taken of the places are those of the shape."""

    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node(
            "ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("one", 7, [1], [1])
        ),
        helper.make_node("NonZero", ["ones"], ["places"]),
        helper.make_node("Transpose", ["places"], ["y"]),
    ]
    sizes = [f"d{axis}" for axis in range(len(shape))]
    graph = helper.make_graph(
        nodes,
        "counting",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )
    read = read_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert "nonzero" not in operators(read)
    (y,) = run_graph(read, {"x": np.zeros(shape, np.float32)})
    np.testing.assert_array_equal(y, np.argwhere(np.ones(shape)))


@pytest.mark.parametrize("order", [[0, -1, 1, 2], [-1, -3, -4, -2], [-4, 2, 1, 3]])
def test_axes_of_a_permutation_may_be_counted_from_the_end(order: list[int]) -> None:
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    node = helper.make_node("Transpose", ["x"], ["y"], perm=order)
    wanted = np.transpose(x, order)
    model = _model(node, TensorProto.FLOAT, [2, 3, 4, 5], {}, TensorProto.FLOAT)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (y,) = run_graph(read_onnx(model), {"x": x})
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("order", [[0, -4, 1, 2], [0, -5, 1, 2], [0, 1, 2, 4]])
def test_a_permutation_names_each_axis_once(order: list[int]) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=order)
    with pytest.raises(CompileError, match="is not an order of its axes 0 to 3"):
        read_onnx(_model(node, TensorProto.FLOAT, [2, 3, 4, 5], {}, TensorProto.FLOAT))


@pytest.mark.parametrize("opset", [11, 16, 17])
def test_layer_norms_that_onnxruntime_has_made_are_of_any_operator_set(opset: int) -> None:
    rng = np.random.default_rng(2)
    constants = {name: rng.random(4).astype(np.float32) for name in ("scale", "shift")}
    node = helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["y"], epsilon=1e-3)
    model = _model(node, TensorProto.FLOAT, [2, 3, 4], constants, TensorProto.FLOAT)
    model.opset_import[0].version = opset
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    (wanted,) = session_of(model).run(None, {"x": x})
    (found,) = run_graph(read_onnx(model), {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
