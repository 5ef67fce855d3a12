"""Weights of bytes that a file writes out as Cast, Sub and Mul, against onnx's evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder.network import Input
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer
from tests.onnx_check import operators


def _dequantizing(constants: dict[str, Array], reader: onnx.NodeProto) -> onnx.ModelProto:
    """A network that casts weights of bytes and multiplies them, for a node that reads `real`."""
    centered = "zero" in constants
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT)]
    if centered:
        nodes.append(helper.make_node("Sub", ["wide", "zero"], ["centered"]))
    scaled = ["centered" if centered else "wide", "scale"]
    nodes.append(helper.make_node("Mul", scaled if centered else scaled[::-1], ["real"]))
    x = TensorProto.INT64 if reader.op_type == "Gather" else TensorProto.FLOAT
    shape: list[str | int | None] = (
        ["n"] if reader.op_type == "Gather" else ["n", len(constants["w"])]
    )
    graph = helper.make_graph(
        [*nodes, reader],
        "dequantizing",
        [helper.make_tensor_value_info("x", x, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(("scale", "zero", "is_narrow"), [
    ((), None, True), ((1,), (1, 1), True), ((1, 40), None, True), ((40,), (1, 40), True),
    ((1, 40), (), True), ((48, 1), None, False), ((1, 40), (48, 1), False), ((48, 40), None, False),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_products_take_weights_that_are_cast_and_multiplied(
    dtype: Any, scale: tuple[int, ...], zero: tuple[int, ...] | None, is_narrow: bool
) -> None:
    rng = np.random.default_rng(11)
    constants: dict[str, Array] = {
        "w": rng.integers(0, 127, (48, 40)).astype(dtype),
        "scale": np.asarray(rng.uniform(0.1, 0.3, scale), np.float32),
    }
    if zero is not None:
        constants["zero"] = np.asarray(rng.uniform(60, 64, zero), np.float32)
    model = _dequantizing(constants, helper.make_node("MatMul", ["x", "real"], ["y"]))
    assert ("matmul_blocks" in operators(read_onnx(model))) is is_narrow
    compiled = bessemer.compile(model, threads=2, cache=False)
    for rows in (1, 5, 40):
        x = rng.standard_normal((rows, 48)).astype(np.float32)
        wanted: Any
        (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
        np.testing.assert_allclose(compiled.run({"x": x})[0], wanted, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("scale", "zero", "is_of_rows"), [
    ((), None, True), ((48, 1), None, True), ((1, 40), None, False), ((), (1,), True),
    ((48, 1), (), True), ((), (48, 1), True), ((48, 1), (48, 1), True), ((), (1, 40), False),
])  # fmt: skip
def test_only_rows_that_are_looked_up_become_floats(
    scale: tuple[int, ...], zero: tuple[int, ...] | None, is_of_rows: bool
) -> None:
    rng = np.random.default_rng(12)
    constants: dict[str, Array] = {
        "w": rng.integers(-128, 128, (48, 40)).astype(np.int8),
        "scale": np.asarray(rng.uniform(0.1, 0.3, scale), np.float32),
    }
    if zero is not None:
        constants["zero"] = np.asarray(rng.integers(-9, 9, zero), np.float32)
    model = _dequantizing(constants, helper.make_node("Gather", ["real", "x"], ["y"]))
    read = read_onnx(model)
    casts = [node for node in read.walk() if node.operator.name == "cast"]
    gathered = [node for node in casts if node.outputs[0].type.shape[0] != 48]
    assert bool(gathered) is is_of_rows
    x = np.array([3, 47, 0, 3])
    wanted: Any
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    (y,) = bessemer.compile(model, threads=1, cache=False).run({"x": x})
    np.testing.assert_array_equal(y, wanted)


def test_integers_are_multiplied_as_integers() -> None:
    """Sums of bytes times a factor that float32 cannot hold."""
    rng = np.random.default_rng(13)
    weights = rng.integers(-100, 100, (48, 40)).astype(np.int8)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Mul", ["wide", "scale"], ["real"]),
        helper.make_node("MatMul", ["x", "real"], ["y"]),
    ]
    given: dict[str, Array] = {"w": weights, "scale": np.array(40001, np.int32)}
    graph = helper.make_graph(
        nodes,
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.INT32, ["n", 48])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    x = rng.integers(-50, 50, (3, 48)).astype(np.int32)
    (y,) = bessemer.compile(model, threads=1, cache=False).run({"x": x})
    np.testing.assert_array_equal(y, x @ (weights.astype(np.int32) * 40001))


def test_a_scale_is_trained() -> None:
    rng = np.random.default_rng(14)
    weights = rng.integers(-100, 100, (48, 40)).astype(np.int8)
    scale = rng.uniform(0.001, 0.002, (1, 40)).astype(np.float32)
    reader = helper.make_node("MatMul", ["x", "real"], ["y"])
    model = _dequantizing({"w": weights, "scale": scale}, reader)
    network = network_from_onnx(model)
    assert list(network.parameters) == ["scale"]
    labels = [Input("label", ("n",), "i64")]
    trainer = Trainer(network, cross_entropy, labels, optimizer=SGD(1e-5), threads=1)
    x, label = rng.standard_normal((5, 48)).astype(np.float32), rng.integers(0, 40, 5)
    trainer.step({"x": x, "label": label})
    shares = np.exp(x @ (weights * scale))
    slopes = shares / shares.sum(axis=1, keepdims=True) - np.eye(40)[label]
    wanted = scale - 1e-5 * (weights * (x.T @ slopes / 5)).sum(axis=0, keepdims=True)
    np.testing.assert_allclose(trainer.network.arrays()["scale"], wanted, rtol=1e-4)
