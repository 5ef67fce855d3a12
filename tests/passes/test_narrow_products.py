"""Products with weights of few bits, against onnxruntime (MatMulNBits) and onnx's evaluator."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.ops.contractions.nibbles import (
    pack_blocks,
    pack_units,
    unpack_blocks,
    unpack_units,
)
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.nvptx import SM80
from bessemer.compiler.targets.x86 import AVX512
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.device_runs import assert_close, run_compiled
from tests.onnx_check import operators
from tests.onnxruntime_sessions import session_of


def _n_bits(
    depth: int, columns: int, block: int, bits: int = 4, half: bool = False, level: int = 0,
    **more: Array,
) -> onnx.ModelProto:  # fmt: skip
    """A MatMulNBits of an accuracy level; `more` are its further inputs by name."""
    rng = np.random.default_rng(depth)
    blocks = -(-depth // block)
    dtype = np.float16 if half else np.float32
    given = {
        "B": rng.integers(0, 256, (columns, blocks, block * bits // 8), np.uint8),
        "scales": rng.uniform(0.01, 0.1, columns * blocks).astype(dtype),
        **more,
    }
    order = ("B", "scales", "zero_points", "g_idx", "bias")
    last = max(order.index(name) for name in given)
    names = [name if name in given else "" for name in order[: last + 1]]
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits,
        block_size=block, accuracy_level=level,
    )  # fmt: skip
    code = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "narrow",
        [helper.make_tensor_value_info("x", code, ["rows", depth])],
        [helper.make_tensor_value_info("y", code, ["rows", columns])],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _zeros(depth: int, columns: int, block: int, bits: int = 4) -> Array:
    in_a_column = math.ceil(math.ceil(depth / block) * bits / 8)
    return np.random.default_rng(9).integers(0, 256, columns * in_a_column, np.uint8)


_CASES = [
    pytest.param(_n_bits(64, 40, 32), 1e-5, marks=pytest.mark.slow),
    (_n_bits(96, 150, 16, zero_points=_zeros(96, 150, 16)), 1e-5),
    pytest.param(
        _n_bits(100, 33, 32, bias=np.linspace(-9, 9, 33, dtype=np.float32)),
        1e-5,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        _n_bits(64, 32, 32, bits=8, zero_points=_zeros(64, 32, 32, 8)),
        1e-5,
        marks=pytest.mark.slow,
    ),
    (_n_bits(300, 40, 32, zero_points=_zeros(300, 40, 32)), 1e-5),
    (_n_bits(32, 128, 16, half=True, zero_points=_zeros(32, 128, 16)), 4e-3),
]


@pytest.mark.parametrize(("model", "tolerance"), _CASES)
def test_products_with_few_bits_are_those_of_onnxruntime(
    model: onnx.ModelProto, tolerance: float
) -> None:
    session = session_of(model)
    compiled = bessemer.compile(model, cache=False)
    wide = model.graph.input[0].type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(wide.elem_type)
    for rows in (1, 6, 29):  # tiles of every height
        shape = rows, wide.shape.dim[1].dim_value
        x = np.random.default_rng(rows).standard_normal(shape).astype(dtype)
        (wanted,) = session.run(None, {"x": x})
        (y,) = compiled.run({"x": x})
        assert y.dtype == wanted.dtype
        np.testing.assert_allclose(y, wanted, rtol=tolerance, atol=tolerance * abs(wanted).max())


_ROUNDED = {
    "four bits": (_n_bits(96, 150, 32, level=4), True),
    "zero points": (_n_bits(96, 150, 16, level=4, zero_points=_zeros(96, 150, 16)), True),
    "a long depth": (_n_bits(1280, 40, 64, level=4), True),
    "eight bits": (_n_bits(64, 40, 32, bits=8, level=4), True),
    "a part of a block": (_n_bits(100, 40, 32, level=4), False),
    "eight bits with zero points": (
        _n_bits(64, 40, 32, bits=8, level=4, zero_points=_zeros(64, 40, 32, 8)),
        True,
    ),
    "a long block": (_n_bits(4096, 8, 4096, level=4), False),
    "another level": (_n_bits(96, 150, 32, level=1), False),
}


@pytest.mark.parametrize("name", _ROUNDED)
def test_activations_become_bytes_where_the_level_allows_it(name: str) -> None:
    model, is_rounded = _ROUNDED[name]
    graph = read = read_onnx(model)
    target = replace(AVX512, has_dot_int8=True)
    for step in passes_of(Options(), target):
        graph = step(graph)
    kernels = {launch.kernel.name for launch in launches(build_program(graph, target).steps)}
    assert any(kernel.startswith("matmul_rounded") for kernel in kernels) is is_rounded
    compiled = bessemer.compile(model, cache=False)
    for rows in (0, 1, 2, 3, 29):
        depth = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        x = np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32)
        (exact,) = run_graph(read, {"x": x})
        (y,) = compiled.run({"x": x})
        # A row's rounding errors are those of 1 / 254 of the largest of a block, here some 1 / 80.
        bound = (1 / 80 if is_rounded else 1e-5) * abs(exact).max(initial=0)
        np.testing.assert_allclose(y, exact, rtol=0, atol=bound)
        if rows and is_rounded:
            ours, theirs = (
                abs(r - exact).mean() for r in (y, session_of(model).run(None, {"x": x})[0])
            )
            assert ours < 1.2 * theirs or theirs == 0


@pytest.mark.parametrize("largest", [1e-37, 3e-37, 1e-36, 1e-35])
def test_blocks_of_next_to_nothing_are_zeros(largest: float) -> None:
    x = np.ones((4, 96), np.float32)
    x[:, 32:64] = np.resize([largest, 0], 32)
    model = _n_bits(96, 40, 32, level=4)
    (wanted,) = session_of(_n_bits(96, 40, 32)).run(None, {"x": x})
    (y,) = bessemer.compile(model, threads=1, cache=False).run({"x": x})
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1 / 80 * abs(wanted).max())


def test_strict_arithmetic_rounds_no_activations() -> None:
    model = _n_bits(96, 150, 32, level=4)
    x = np.random.default_rng(0).standard_normal((4, 96)).astype(np.float32)
    (wanted,) = run_graph(read_onnx(model), {"x": x})
    (y,) = bessemer.compile(model, precision="strict", cache=False).run({"x": x})
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * abs(wanted).max())


def test_weights_are_decoded_once_for_many_rows() -> None:
    model = _n_bits(128, 128, 32)  # a depth that is decoded as a whole

    def decodings(rows: int) -> int:
        graph = as_graph(model, dims={"rows": rows})
        for step in passes_of(Options(), AVX512):
            graph = step(graph)
        kernels = kernels_of(build_program(graph, AVX512).steps)
        return "".join(map(print_kernel, kernels)).count("bits(f32")

    assert decodings(40) == 2
    assert decodings(12) == 2
    assert decodings(13) == 2


def test_an_order_of_the_depth_is_followed() -> None:
    groups = np.tile(np.arange(2, dtype=np.int32), 16)
    model, plain = _n_bits(32, 7, 16, g_idx=groups), _n_bits(32, 7, 16)
    packed = numpy_helper.to_array(plain.graph.initializer[0]).reshape(7, 16)
    units = np.stack([packed & 15, packed >> 4], axis=-1).reshape(7, 32).astype(np.float64) - 8
    scales = numpy_helper.to_array(plain.graph.initializer[1]).reshape(7, 2)
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    (y,) = run_graph(read_onnx(model), {"x": x})
    np.testing.assert_allclose(y, x @ (units * scales[:, groups]).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "axis", "block", "is_turned"),
    [
        (ml_dtypes.int4, 0, 16, False),
        (ml_dtypes.uint4, 1, 16, True),
        (ml_dtypes.int4, 0, 0, True),
        (ml_dtypes.uint2, 1, 0, False),
        (np.int8, 0, 32, False),
        (np.int8, 1, 0, False),
        (np.uint8, 0, 0, True),
        (np.uint8, 1, 16, True),
    ],
)
def test_products_take_dequantized_weights_as_they_are(
    dtype: Any, axis: int, block: int, is_turned: bool
) -> None:
    rng = np.random.default_rng(2)
    depth, columns = 80, 40
    shape = (columns, depth) if is_turned else (depth, columns)
    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]  # ml_dtypes' own
    spread = list(shape)
    spread[axis] = -(-spread[axis] // block) if block else spread[axis]
    scales = spread if block else [shape[axis]]
    constants = {
        "w": rng.integers(info.min, info.max + 1, shape).astype(dtype),
        "scale": rng.uniform(0.1, 0.3, scales).astype(np.float32),
        "zero": rng.integers(info.min, info.max + 1, scales).astype(dtype),
    }
    graph = helper.make_graph(
        [
            helper.make_node(
                "DequantizeLinear", list(constants), ["real"], axis=axis, block_size=block
            ),
            helper.make_node("Gemm", ["x", "real"], ["y"], transB=int(is_turned)),
        ],
        "dequantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, columns])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    read = read_onnx(model)
    assert "matmul_blocks" in operators(read)
    x = rng.standard_normal((5, depth)).astype(np.float32)
    wanted: Any
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(run_graph(read, {"x": x})[0], wanted, rtol=1e-4, atol=1e-3)


def _by_bytes(rows: int | str, of_bytes: bool = False) -> onnx.ModelProto:
    """A product with weights of bytes that have a scale for each column; the activations may be
    made `of_bytes`, too."""
    rng = np.random.default_rng(5)
    constants: dict[str, Array] = {
        "w": rng.integers(-128, 128, (48, 40)).astype(np.int8),
        "scale": rng.uniform(0.1, 0.3, 40).astype(np.float32),
        "one": np.array(0.02, np.float32),
        "zero": np.array(120, np.uint8),
    }
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["real"], axis=1)]
    if of_bytes:
        nodes.append(helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["bytes"]))
        nodes.append(helper.make_node("DequantizeLinear", ["bytes", "one", "zero"], ["given"]))
    nodes.append(helper.make_node("MatMul", ["given" if of_bytes else "x", "real"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "bytes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 40])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


@pytest.mark.parametrize(("rows", "of_bytes", "is_narrow"), [
    ("n", False, True), (16, False, True), (64, False, False), (16, True, False),
])  # fmt: skip
def test_weights_of_bytes_are_decoded_for_few_rows(
    rows: int | str, of_bytes: bool, is_narrow: bool
) -> None:
    model, rng = _by_bytes(rows, of_bytes), np.random.default_rng(5)
    assert ("matmul_blocks" in operators(read_onnx(model))) is is_narrow
    compiled = bessemer.compile(model, threads=1, cache=False)
    for count in (1, 5, 40) if rows == "n" else (rows,):
        x = rng.standard_normal((int(count), 48)).astype(np.float32)
        wanted: Any
        (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
        (y,) = compiled.run({"x": x})
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("model", "depth"), [
    (_by_bytes("n"), 48), (_n_bits(32, 40, 32, bits=8, zero_points=_zeros(32, 40, 32, 8)), 32),
])  # fmt: skip
def test_products_with_bytes_are_those_of_floats_on_a_gpu(
    model: onnx.ModelProto, depth: int
) -> None:
    graph = read_onnx(model)
    x = np.random.default_rng(7).standard_normal((5, depth)).astype(np.float32)
    (wanted,) = run_graph(graph, {"x": x})
    made = build_for_device(graph, Options(), SM80)
    assert not any(kernel.name.startswith("matmul_blocks") for kernel in made.kernels)
    (y,) = run_compiled(made, [x])
    assert_close(y, wanted)


def test_weights_of_four_bits_stay_so() -> None:
    compiled = bessemer.compile(_n_bits(256, 256, 32), cache=False)
    scales = 256 * 256 // 32 * 4
    assert compiled.signature.weights_bytes <= 256 * 256 // 2 + scales + 256


def test_packing_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    for width in (4, 8):
        units = rng.integers(0, 1 << width, (45, 7), np.uint8)
        np.testing.assert_array_equal(unpack_units(pack_units(units, width), 45, width), units)
    scales = rng.standard_normal((45, 3))
    np.testing.assert_array_equal(unpack_blocks(pack_blocks(scales), 45), scales)
