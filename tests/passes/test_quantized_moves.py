"""Quantized tensors that are moved, joined and looked up as bytes: the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, DType, TensorType, f32, i8, i32, u8
from bessemer.compiler.passes.quantization.move_quantization import move_quantization
from bessemer.compiler.passes.quantization.tabulate_bytes import tabulate_bytes
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.onnxruntime_sessions import session_of
from tests.pass_runs import N, changed

Scheme = tuple[float, float]
"""Scale and zero point."""


class _Net:
    """A graph on bytes, with quantization as the ONNX reader writes it."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.b = GraphBuilder("g")

    def bytes(self) -> Value:
        return self.b.input(f"x{len(self.b.inputs)}", TensorType(self.dtype, (N, 4, 4, 3)))

    def number(self, like: Value, number: float) -> Value:
        scalar = self.b.constant(np.array(number, np.float32))
        return self.b.apply("broadcast_to", scalar, shape=like.type.shape)

    def real(self, x: Value, scheme: Scheme) -> Value:
        steps = self.b.apply("cast", x, dtype=f32)
        steps = self.b.apply("sub", steps, self.number(steps, scheme[1]))
        return self.b.apply("mul", steps, self.number(steps, scheme[0]))

    def quantized(self, x: Value, scheme: Scheme) -> Value:
        steps = self.b.apply("round", self.b.apply("div", x, self.number(x, scheme[0])))
        steps = self.b.apply("add", steps, self.number(steps, scheme[1]))
        return self.b.apply("cast", steps, dtype=self.dtype)


ONE, OTHER = (0.037, 11), (0.051, 7)
POOL = {"kernel": (2, 2), "strides": (2, 2), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
WIDER = {"low": (0, 1, 1, 0), "high": (0, 0, 1, 0), "mode": "constant", "value": 0}


def _operators(graph: Graph) -> list[str]:
    return [node.operator.name for node in graph.nodes]


@pytest.mark.parametrize("dtype", [u8, i8])
def test_what_moves_bytes_moves_no_floats(dtype: DType, rng: np.random.Generator) -> None:
    net = _Net(dtype)
    x = net.real(net.bytes(), ONE)
    x = net.b.apply("max_pool", x, **POOL)
    x = net.b.apply("pad", x, **WIDER)
    x = net.b.apply("transpose", x, permutation=(0, 3, 1, 2))
    graph = net.b.finish([net.quantized(x, ONE)])
    result = changed(graph, [move_quantization, remove_dead], rng)
    assert _operators(result) == ["max_pool", "pad", "transpose"]


@pytest.mark.parametrize("dtype", [u8, i8])
def test_the_nearest_of_bytes_are_bytes(dtype: DType, rng: np.random.Generator) -> None:
    net = _Net(dtype)
    x = net.real(net.bytes(), ONE)
    larger = {"shape": (N, 8, 7, 3), "scales": (), "mode": "nearest", "coordinate": "asymmetric"}
    x = net.b.apply("resize", x, **larger)
    graph = net.b.finish([net.quantized(x, ONE)])
    result = changed(graph, [move_quantization, remove_dead], rng)
    assert _operators(result) == ["resize"]


@pytest.mark.parametrize(
    "more", [{"mode": "linear"}, {"coordinate": "tf_crop_and_resize"}], ids=str
)
def test_new_numbers_are_not_made_of_bytes(more: dict[str, str]) -> None:
    net = _Net(u8)
    attributes: dict[str, Any] = {"shape": (N, 8, 7, 3), "scales": (), "mode": "nearest", **more}
    if "coordinate" in more:
        attributes["roi"] = (0.0, 0.0, 0.0, 0.0, 1.0, 1.5, 1.0, 1.0)
    resized = net.b.apply("resize", net.real(net.bytes(), ONE), **attributes)
    graph = net.b.finish([net.quantized(resized, ONE)])
    assert move_quantization(graph) is graph


@pytest.mark.parametrize("dtype", [u8, i8])
def test_parts_are_quantized_before_they_are_joined(dtype: DType, rng: np.random.Generator) -> None:
    net = _Net(dtype)
    parts = [net.real(net.bytes(), ONE), net.real(net.bytes(), OTHER)]
    whole = net.b.apply("concat", *parts, axis=3)
    graph = net.b.finish([net.quantized(whole, ONE)])
    result = changed(graph, [move_quantization, remove_dead], rng)
    assert _operators(result)[-1] == "concat"
    assert {value.type.dtype for value in result.nodes[-1].inputs} == {dtype}
    assert result.nodes[-1].inputs[0] is result.inputs[0]


def test_parts_of_one_scale_are_joined_as_bytes(rng: np.random.Generator) -> None:
    net = _Net(u8)
    whole = net.b.apply("concat", *[net.real(net.bytes(), ONE) for _ in range(2)], axis=1)
    result = changed(net.b.finish([whole]), [move_quantization, remove_dead], rng)
    (joined,) = [node for node in result.nodes if node.operator.name == "concat"]
    assert joined.output.type.dtype is u8


def test_another_scale_is_not_forgotten(rng: np.random.Generator) -> None:
    net = _Net(u8)
    graph = net.b.finish([net.quantized(net.real(net.bytes(), ONE), OTHER)])
    assert changed(graph, [move_quantization], rng) is graph


def test_a_scale_for_each_channel_is_not_one_for_all(rng: np.random.Generator) -> None:
    net = _Net(u8)
    steps = net.b.apply("cast", net.bytes(), dtype=f32)
    scales = net.b.constant(np.array([0.037, 0.2, 0.5], np.float32))
    spread = net.b.apply("broadcast_to", scales, shape=steps.type.shape)
    real = net.b.apply("mul", steps, spread)
    graph = net.b.finish([net.quantized(real, (0.037, 0))])
    assert changed(graph, [move_quantization], rng) is graph


@pytest.mark.parametrize("zero", [127.5, 300, -5])
def test_a_border_that_no_byte_stands_for_is_one_of_floats(
    zero: float, rng: np.random.Generator
) -> None:
    net = _Net(u8)
    pixels = net.real(net.bytes(), (1 / 127.5, zero))
    graph = net.b.finish([net.b.apply("pad", pixels, **WIDER)])
    assert changed(graph, [move_quantization], rng) is graph


def _swish(net: _Net, x: Value) -> Value:
    real = net.real(x, ONE)
    gate = net.quantized(net.b.apply("sigmoid", real), OTHER)
    return net.quantized(net.b.apply("mul", real, net.real(gate, OTHER)), ONE)


@pytest.mark.parametrize("dtype", [u8, i8])
def test_chains_between_bytes_are_tables(dtype: DType, rng: np.random.Generator) -> None:
    net = _Net(dtype)
    graph = net.b.finish([_swish(net, net.bytes())])
    result = changed(graph, [fold_constants, simplify, tabulate_bytes, remove_dead], rng)
    assert {*_operators(result)} == {"cast", "gather"}


@pytest.mark.parametrize("dtype", [u8, i8])
def test_tables_give_what_they_hold(dtype: DType, rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    table = rng.integers(0, 256, 256).astype(np.uint8).view(dtype.numpy)
    x = b.input("x", TensorType(u8, (N,)))
    place = b.apply("cast", x, dtype=i32)
    y, turned = (b.apply("gather", b.constant(t), place, axis=0) for t in (table, table[::-1]))
    joined = b.apply("concat", y, turned, axis=0)  # whose parts are read under guards
    model = bessemer.compile(b.finish([y, joined], ["y", "joined"]), cache=False)
    for size in (1, 5, 16, 77, 300):
        given = rng.integers(0, 256, size).astype(np.uint8)
        result, both = model.run({"x": given})
        np.testing.assert_array_equal(result, table[given])
        np.testing.assert_array_equal(both, np.concatenate([table[given], table[::-1][given]]))


# Whole networks


def _quantized_network(size: tuple[int, int], kernel: int, signed: bool) -> ModelProto:
    """A convolution of three channels, a swish, a pool, and two more that are joined under another
    scale. Scales are powers of two: nothing is rounded but where the model says so."""
    rng = np.random.default_rng(3)
    kind = np.int8 if signed else np.uint8
    zero = 3 if signed else 120
    made: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def constant(array: Array) -> str:
        made.append(numpy_helper.from_array(array, f"c{len(made)}"))
        return made[-1].name

    def through(x: str, scale: float, at: int = zero) -> str:
        """x quantized and dequantized."""
        parameters = [constant(np.array(scale, np.float32)), constant(np.array(at, kind))]
        steps, real = f"{x}_q{len(nodes)}", f"{x}_d{len(nodes)}"
        nodes.append(helper.make_node("QuantizeLinear", [x, *parameters], [steps]))
        nodes.append(helper.make_node("DequantizeLinear", [steps, *parameters], [real]))
        return real

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def convolution(x: str, channels: int, outputs: int, k: int, stride: int) -> str:
        w = rng.integers(-20, 21, (outputs, channels, k, k)).astype(np.int8)
        scales = 2.0 ** -rng.integers(6, 8, outputs).astype(np.float32)
        given = [constant(w), constant(scales), constant(np.zeros(outputs, np.int8))]
        weights = node("DequantizeLinear", *given, axis=0)
        bias = constant(rng.integers(-64, 64, outputs).astype(np.float32) / 64)
        return node("Conv", x, weights, bias, pads=[k // 2] * 4, strides=[stride] * 2)

    x = through("x", 2**-5)
    x = through(convolution(x, 3, 24, kernel, 2), 2**-2)
    x = through(node("Mul", x, through(node("Sigmoid", x), 2**-8, -128 if signed else 0)), 2**-3)
    x = through(node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 2**-3)
    parts = [through(convolution(x, 24, 16, k, 1), 2**-s) for k, s in ((1, 1), (3, 0))]
    x = through(node("Concat", *parts, axis=1), 2**-1)
    last = through(node("Add", convolution(x, 32, 32, 3, 1), x), 2**0)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        made,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("size", "kernel", "signed"), [((30, 32), 3, False), ((17, 31), 7, False), ((23, 22), 7, True)]
)
def test_a_quantized_network_is_onnxruntimes(
    size: tuple[int, int], kernel: int, signed: bool, rng: np.random.Generator
) -> None:
    model = _quantized_network(size, kernel, signed)
    x = rng.standard_normal((2, 3, *size)).astype(np.float32)
    (expected,) = session_of(model, plain=True).run(None, {"x": x})
    (result,) = bessemer.compile(model, cache=False).run({"x": x})
    assert np.ptp(expected) > 8
    np.testing.assert_array_equal(result, expected)
