"""Quantization in few instructions: sums of integers by one factor, bit for bit as in onnxruntime,
and numbers of any size to 8 and 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import Array, DType, f32, type_of, u8, u16
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.models_in import as_graph
from tests.onnxruntime_sessions import session_of

CHANNELS = 24


def _network(groups: int, relu: bool, whole: bool, zero: int) -> onnx.ModelProto:
    """A quantized convolution between bytes, as onnxruntime's quantizer writes it. Biases that are
    not `whole` are not multiples of the scale."""
    rng = np.random.default_rng(groups)
    scales = rng.uniform(0.01, 0.02, CHANNELS).astype(np.float32)
    arrays: dict[str, Array] = {
        "one": np.array(0.031, np.float32),
        "zero": np.array(117, np.uint8),
        "weights": rng.integers(-127, 128, (CHANNELS, CHANNELS // groups, 3, 3)).astype(np.int8),
        "scales": scales,
        "biases": rng.integers(-9000, 9000, CHANNELS).astype(np.int32),
        "bias_scales": scales * np.float32(0.031 if whole else 0.0123),
        "many": np.array(0.27, np.float32),
        "out_zero": np.array(zero, np.uint8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["weights", "scales"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["biases", "bias_scales"], ["b"], axis=0),
        helper.make_node("Conv", ["real", "w", "b"], ["sum"], pads=[1] * 4, group=groups),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node(
            "QuantizeLinear", ["positive" if relu else "sum", "many", "out_zero"], ["y"]
        ),
    ]
    if not relu:
        del nodes[4]
    shape = [1, CHANNELS, 9, 10]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _divisions(model: onnx.ModelProto) -> int:
    """How many divisions the passes leave."""
    graph = as_graph(model)
    for step in passes_of(Options(), host_target()):
        graph = step(graph)
    return sum(node.operator.name == "div" for node in graph.nodes)


@pytest.mark.parametrize(
    ("groups", "relu", "zero"), [(1, False, 131), (1, True, 0), (CHANNELS, False, 0)]
)
def test_one_factor_gives_the_bits_of_onnxruntime(groups: int, relu: bool, zero: int) -> None:
    model = _network(groups, relu, True, zero)
    assert _divisions(model) == 0
    x = np.random.default_rng(1).integers(0, 256, (1, CHANNELS, 9, 10)).astype(np.uint8)
    (made,) = bessemer.compile(model, threads=1).run({"x": x})
    (wanted,) = session_of(model).run(None, {"x": x})
    assert len(np.unique(made)) > 50
    np.testing.assert_array_equal(made, wanted)


def test_biases_that_are_no_integers_stay_floats(rng: np.random.Generator) -> None:
    model = _network(1, False, False, 131)
    assert _divisions(model) == 1
    x = rng.integers(0, 256, (1, CHANNELS, 9, 10)).astype(np.uint8)
    (made,) = bessemer.compile(model, threads=1).run({"x": x})
    (wanted,) = session_of(model).run(None, {"x": x})
    assert np.abs(made.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("bias", [5.0, -5.0])
def test_integers_of_any_size_are_not_added_to_in_32_bits(bias: float) -> None:
    b = GraphBuilder("g")
    steps = b.apply("cast", b.input("x", type_of(np.zeros(4, np.int32))), dtype=f32)
    scale, more, unit = (
        b.apply("full", shape=(4,), value=number, dtype=f32) for number in (0.5, bias, 1000.0)
    )
    real = b.apply("add", b.apply("mul", steps, scale), more)
    graph = b.finish([b.apply("round", b.apply("div", real, unit))])
    x = np.array([2**31 - 1, -(2**31), 10_000, -7], np.int32)
    (made,) = bessemer.compile(graph, threads=1, cache=False).run({"x": x})
    np.testing.assert_array_equal(made, np.rint((x * 0.5 + bias) / 1000).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("zero", [0, 100])
def test_numbers_of_any_size_are_cut(dtype: type[np.integer[Any]], zero: int) -> None:
    rng = np.random.default_rng(3)
    scale = np.float32(0.037)
    near = rng.uniform(-40000, 70000, 400) * scale
    ties = (np.arange(-200, 200) + 0.5) * scale
    far = [np.inf, -np.inf, 3e38, -3e38, 1e9, -1e9, 0.0, -0.0]
    x = np.concatenate([near, ties, far]).astype(np.float32)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "quantization",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(x)])],
        [helper.make_tensor_value_info("y", code, [len(x)])],
        [
            numpy_helper.from_array(np.array(scale), "scale"),
            numpy_helper.from_array(np.array(zero, dtype), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    limits = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        steps = np.rint(x / scale)
    wanted = np.clip(steps + zero, limits.min, limits.max).astype(dtype)
    np.testing.assert_array_equal(bessemer.compile(model, threads=1).run({"x": x})[0], wanted)


@pytest.mark.parametrize("dtype", [u8, u16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_numbers_below_all_integers_less_something_are_0(dtype: DType, scale: float) -> None:
    """No zero point of theirs is negative, but what is added to steps may be."""
    x = np.resize(np.array([np.nan, -np.inf, -3e38, -1e10, 0, 4, 40], np.float32), 64)
    b = GraphBuilder("less")
    divisor, summand = (b.constant(np.full(64, number, np.float32)) for number in (scale, -5))
    steps = b.apply("round", b.apply("div", b.input("x", type_of(x)), divisor))
    found = b.apply("cast", b.apply("add", steps, summand), dtype=dtype)
    (made,) = bessemer.compile(b.finish([found]), threads=1).run([x])
    wanted = np.maximum(np.rint(np.nan_to_num(x, nan=0) / scale) - 5, 0)
    np.testing.assert_array_equal(made, wanted.astype(dtype.numpy))
