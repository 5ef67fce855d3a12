"""Products of quantized tensors: what the passes make of them is exact, and runs on 8 bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import bessemer
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.loops import FragmentMac
from bessemer.compiler.ir.types import Array, DType, TensorType, f32, i8, i32, u8
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.ops.composite import composite
from bessemer.compiler.ops.composite.composite_quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
)
from bessemer.compiler.options import Options
from bessemer.compiler.passes.convolution.fold_batch_norm import fold_batch_norm
from bessemer.compiler.passes.quantization.multiply_quantized import multiply_quantized
from bessemer.compiler.passes.quantization.narrow_integers import narrow_integers
from bessemer.compiler.passes.quantization.tabulate_bytes import tabulate_bytes
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import Case, N, changed, lines

Zero = int | str | None


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    low, high = (0, 255) if dtype is u8 else (-128, 127)
    return rng.integers(low, high, shape, dtype.numpy, endpoint=True)


def _centered(c: Case, x: Value, zero: Zero, constant: bool = False) -> Value:
    """x - zero in 32 bits; a zero point that is a string is an input of the network."""
    wide = c.cast(x, "i32")
    if zero is None:
        return wide
    if isinstance(zero, int):
        return c.of("sub", wide, zero)
    given = c.cast(c.b.input(zero, TensorType(x.type.dtype, (1,))), "i32")
    return c.of("sub", wide, composite.broadcast_to(c.b, given, x.type.shape))


MATMULS = [
    (u8, 7, i8, 0),
    (u8, "zero", i8, 0),
    (u8, "zero", i8, 5),
    (u8, "zero", u8, 128),
    (u8, "zero", u8, 100),
    (i8, -3, i8, 0),
    (i8, "zero", i8, 9),
    (i8, None, u8, 0),
    (u8, None, u8, None),
]


@pytest.mark.parametrize("weights", ["constant", "computed"])
@pytest.mark.parametrize("types", MATMULS, ids=lambda types: "-".join(str(part) for part in types))
def test_zero_points_become_corrections(
    types: tuple[DType, Zero, DType, Zero], weights: str, rng: np.random.Generator
) -> None:
    a_type, a_zero, b_type, b_zero = types
    c = Case()
    a = _centered(c, c.x(2, 5, 9, dtype=a_type), a_zero)
    if weights == "constant":
        given = c.b.constant(_numbers(rng, (9, 6), b_type))
    else:
        given = c.x(9, 6, dtype=b_type)
    product = c.of("matmul", a, _centered(c, given, b_zero))
    graph = c.b.finish([product])
    steps = [fold_constants, simplify] if weights == "constant" else [simplify]
    result = changed(graph, [*steps, narrow_integers], rng)
    products = [node for node in result.nodes if node.operator.name == "matmul"]
    assert [node.attributes for node in products] == [{"dtype": i32}]
    signs = {value.type.dtype for value in products[0].inputs}
    assert signs == {u8, i8}


@pytest.mark.parametrize("zero", [None, 3, "zero", "dynamic"])
@pytest.mark.parametrize("b_zero", [0, 77])
def test_the_border_of_a_convolution_holds_the_zero_point(
    zero: Zero, b_zero: int, rng: np.random.Generator
) -> None:
    c = Case()
    if zero == "dynamic":
        steps, _, point = dynamic_quantize_linear(c.b, c.x(1, 6, 5, 3))
        wide = c.cast(steps, "i32")
        point = c.cast(point, "i32")
        x = c.of("sub", wide, composite.broadcast_to(c.b, point, wide.type.shape))
    else:
        x = _centered(c, c.x(1, 6, 5, 3, dtype=u8), zero)
    w = c.b.constant(_numbers(rng, (3, 3, 3, 4), u8).astype(np.int32) - b_zero)
    attributes = {"strides": (1, 2), "dilations": (1, 1), "low": (1, 1), "high": (1, 0)}
    y = c.of("conv", x, w, groups=1, **attributes)
    result = changed(c.b.finish([y]), [simplify, narrow_integers, remove_dead], rng)
    first = next(node for node in result.nodes if node.operator.name == "conv")
    assert {value.type.dtype for value in first.inputs} == {u8, i8}


@pytest.mark.parametrize("zero", [3, "zero"])
@pytest.mark.parametrize(("taps", "is_exact"), [(16, True), (17, False)])
def test_short_sums_of_channels_apart_are_floats(
    zero: Zero, taps: int, is_exact: bool, rng: np.random.Generator
) -> None:
    """If all bytes and weights were 255, 256 products would be the most that float32 can hold."""
    c = Case()
    x = _centered(c, c.x(1, 20, 18, 3, dtype=u8), zero)
    w = c.b.constant(np.full((16, taps, 1, 3), 255, np.int32))
    around = {"strides": (1, 2), "dilations": (1, 1), "low": (1, 1), "high": (1, 0)}
    graph = c.b.finish([c.of("conv", x, w, groups=3, **around)])
    result = changed(graph, [simplify, narrow_integers, remove_dead], rng)
    (convolution,) = [node for node in result.nodes if node.operator.name == "conv"]
    assert convolution.output.type.dtype is (f32 if is_exact else i32)


def test_a_zero_point_of_the_other_type_of_bytes_leaves_sums_of_integers(
    rng: np.random.Generator,
) -> None:
    """Bytes less a zero point below 0 reach 383, so 16 products may be more than float32 holds."""
    c = Case()
    wide = c.cast(c.x(1, 20, 18, 3, dtype=u8), "i32")
    zero = c.cast(c.b.input("zero", TensorType(i8, (1,))), "i32")
    x = c.of("sub", wide, composite.broadcast_to(c.b, zero, wide.type.shape))
    w = c.b.constant(np.full((16, 16, 1, 3), 255, np.int32))
    around = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    graph = c.b.finish([c.of("conv", x, w, groups=3, **around)])
    result = changed(graph, [simplify, narrow_integers, remove_dead], rng)
    (convolution,) = [node for node in result.nodes if node.operator.name == "conv"]
    assert convolution.output.type.dtype is i32


def test_a_known_image_may_need_a_border_that_is_no_byte(rng: np.random.Generator) -> None:
    """As 8-bit integers, its numbers have a zero point below them."""
    c = Case()
    x = c.b.constant(rng.integers(100, 250, (1, 5, 6, 2)).astype(np.int32))
    w = c.cast(c.x(3, 3, 2, 4, dtype=i8), "i32")
    ones = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    graph = c.b.finish([c.of("conv", x, w, groups=1, **ones)])
    changed(graph, [narrow_integers, remove_dead], rng)


def test_windows_of_a_size_that_is_not_known_stay(rng: np.random.Generator) -> None:
    c = Case()
    x, w = c.cast(c.x(1, 5, 6, 2, dtype=u8), "i32"), c.cast(c.x(N, N, 2, 4, dtype=u8), "i32")
    ones = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    graph = c.b.finish([c.of("conv", x, w, groups=1, **ones)])
    assert changed(graph, [narrow_integers], rng) is graph


def _quantized_network(scales: Array) -> Callable[[np.random.Generator], Graph]:
    def build(rng: np.random.Generator) -> Graph:
        c = Case()
        x = c.x(4, 8, dtype=u8)
        scale = c.b.constant(np.array(0.25, np.float32))
        real = dequantize_linear(c.b, x, scale, c.b.constant(np.array(3, np.uint8)))
        steps = c.b.constant(_numbers(rng, (8, 6), i8))
        zeros = c.b.constant(np.zeros(scales.shape, np.int8))
        weights = dequantize_linear(c.b, steps, c.b.constant(scales), zeros, axis=1)
        return c.b.finish([c.of("matmul", real, weights)])

    return build


@pytest.mark.parametrize("columns", [(), (6,)])
def test_dequantized_weights_are_multiplied_as_integers(
    columns: tuple[int, ...], rng: np.random.Generator
) -> None:
    scales = rng.uniform(0.5, 2, columns).astype(np.float32)
    graph = _quantized_network(np.asarray(scales))(rng)
    steps = [multiply_quantized, fold_constants, simplify, narrow_integers, remove_dead]
    result = changed(graph, steps, rng, 1e-6)
    assert any("matmul(%" in line and "dtype=i32" in line for line in lines(result))


def test_channels_apart_are_multiplied_as_whole_numbers(rng: np.random.Generator) -> None:
    c = Case()
    scale = c.b.constant(np.array(0.3, np.float32))
    x = dequantize_linear(
        c.b, c.x(1, 6, 5, 8, dtype=u8), scale, c.b.constant(np.array(7, np.uint8))
    )
    steps = c.b.constant(_numbers(rng, (3, 3, 1, 8), i8))
    scales = c.b.constant(rng.uniform(0.5, 2, 8).astype(np.float32))
    weights = dequantize_linear(c.b, steps, scales, c.b.constant(np.zeros(8, np.int8)), axis=3)
    one = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    graph = c.b.finish([c.of("conv", x, weights, groups=8, **one)])
    passes = [multiply_quantized, fold_constants, simplify, fold_batch_norm, remove_dead]
    result = changed(graph, passes, rng, 1e-6)
    (conv,) = [node for node in result.nodes if node.operator.name == "conv"]
    kept = result.constants[conv.inputs[1]]
    assert conv.output.type.dtype is f32 and (kept == np.rint(kept)).all()


def test_a_product_of_two_computed_tensors_stays_one_of_floats(rng: np.random.Generator) -> None:
    c = Case()
    scale = c.b.constant(np.array(0.25, np.float32))
    left, right = (dequantize_linear(c.b, c.x(4, 4, dtype=u8), scale) for _ in range(2))
    graph = c.b.finish([c.of("matmul", left, right)])
    assert multiply_quantized(graph) is graph


@pytest.mark.parametrize("x_zero", [127.5, 300.0, -5.0, 3.0])
@pytest.mark.parametrize("w_zero", [0.5, 1000.0, 3.0])
def test_only_zero_points_that_are_bytes_are_multiplied_as_such(
    x_zero: float, w_zero: float, rng: np.random.Generator
) -> None:
    c = Case()

    def number(like: Value, number: float) -> Value:
        scalar = c.b.constant(np.array(number, np.float32))
        return composite.broadcast_to(c.b, scalar, like.type.shape)

    def real(steps: Value, zero: float) -> Value:
        wide = c.cast(steps, "f32")
        return c.of("mul", c.of("sub", wide, number(wide, zero)), number(wide, 0.5))

    x = real(c.x(4, 8, dtype=u8), x_zero)
    weights = real(c.b.constant(_numbers(rng, (8, 6), u8)), w_zero)
    graph = c.b.finish([c.of("matmul", x, weights)])
    steps = [multiply_quantized, fold_constants, simplify, narrow_integers, remove_dead]
    result = changed(graph, steps, rng, 1e-6)
    is_exact = any("dtype=i32" in line for line in lines(result) if "matmul" in line)
    assert is_exact == (x_zero == w_zero == 3)


def test_a_scale_may_be_a_byte(rng: np.random.Generator) -> None:
    c = Case()
    wide, scale = c.cast(c.x(4, 8, dtype=u8), "f32"), c.cast(c.x(1, dtype=u8), "f32")
    x = c.of("mul", wide, composite.broadcast_to(c.b, scale, wide.type.shape))
    steps = c.cast(c.b.constant(_numbers(rng, (8, 6), i8)), "f32")
    half = composite.broadcast_to(c.b, c.b.constant(np.array(0.5, np.float32)), steps.type.shape)
    graph = c.b.finish([c.of("matmul", x, c.of("mul", steps, half))])
    changed(graph, [multiply_quantized, fold_constants, simplify, remove_dead], rng, 1e-6)


def test_unsigned_bytes_become_signed_without_a_table(rng: np.random.Generator) -> None:
    """A table was asked for each byte of a transposed matrix: 18 times as slow."""
    c = Case()
    left, right = (c.cast(c.x(8, 16, dtype=u8), "i32") for _ in range(2))
    turned = c.of("transpose", right, permutation=(1, 0))
    graph = c.b.finish([c.of("matmul", left, turned)])
    result = changed(graph, [narrow_integers, tabulate_bytes, remove_dead], rng)
    assert "gather" not in {node.operator.name for node in result.nodes}


@pytest.mark.parametrize("target", ["x86_64-avx2", "host"])
@pytest.mark.parametrize("rows", [1, 37])
def test_compiled_products_are_exact(target: str, rows: int, rng: np.random.Generator) -> None:
    c = Case()
    a = _centered(c, c.x(rows, 45, dtype=u8), "zero")
    w = _numbers(rng, (45, 50), u8)
    product = c.of("matmul", a, _centered(c, c.b.constant(w), 100))
    x, zero = _numbers(rng, (rows, 45), u8), np.array([93], np.uint8)
    model = bessemer.compile(c.b.finish([product]), target=target)
    found = model.run({"x0": x, "zero": zero})[0]
    expected = (x.astype(np.int32) - 93) @ (w.astype(np.int32) - 100)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("operator", ["matmul", "conv"])
@pytest.mark.parametrize("dtype", [u8, i8])
def test_bytes_in_planes_are_put_in_order_before_groups_are_multiplied(
    operator: str, dtype: DType, rng: np.random.Generator
) -> None:
    """Neighbouring channels, which transposes have moved apart, are multiplied four at a time."""
    b = GraphBuilder("planes")
    x = b.input("x", TensorType(dtype, (24, 63) if operator == "matmul" else (1, 24, 7, 9)))
    weights = _numbers(rng, (24, 40) if operator == "matmul" else (1, 1, 24, 40), i8)
    w = b.constant(weights)
    if operator == "matmul":
        y = b.apply("matmul", b.apply("transpose", x, permutation=(1, 0)), w, dtype=i32)
    else:
        last = b.apply("transpose", x, permutation=(0, 2, 3, 1))
        around = {"dilations": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
        y = b.apply("conv", last, w, strides=(1, 1), dtype=i32, **around)
    graph = b.finish([y])
    kernels = kernels_of(build(graph, Options(target="x86_64-avx512")).program.steps)
    kinds = [{type(statement) for statement in walk(kernel.body)} for kernel in kernels]
    assert [FragmentMac in kind for kind in kinds] == [False, True]
    array = _numbers(rng, x.type.static_shape, dtype)
    (found,) = bessemer.compile(graph).run({"x": array})
    expected = array.reshape(24, 63).T.astype(np.int64) @ weights.reshape(24, 40)
    np.testing.assert_array_equal(found.reshape(63, 40), expected)


@pytest.mark.parametrize("dtype", [u8, i8])
def test_bytes_in_planes_are_put_in_order_for_windows_with_gaps(
    dtype: DType, rng: np.random.Generator
) -> None:
    """Their neighbours along a row are not in the same window."""
    b = GraphBuilder("gaps")
    x = b.input("x", TensorType(dtype, (1, 24, 7, 9)))
    weights = _numbers(rng, (3, 3, 24, 40), i8)
    last = b.apply("transpose", x, permutation=(0, 2, 3, 1))
    around = {"dilations": (2, 2), "low": (0, 0), "high": (0, 0), "groups": 1}
    y = b.apply("conv", last, b.constant(weights), strides=(1, 1), dtype=i32, **around)
    model = bessemer.compile(b.finish([y]))
    array = _numbers(rng, x.type.static_shape, dtype)
    expected = np.zeros((3, 5, 40), np.int64)
    for i, j in np.ndindex(3, 3):
        seen = array[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 5].astype(np.int64)
        expected += np.einsum("chw,co->hwo", seen, weights[i, j].astype(np.int64))
    np.testing.assert_array_equal(model.run({"x": array})[0][0], expected)
    steps = build(b.finish([y]), Options(target="x86_64-avx512")).program.steps
    kinds = [{type(statement) for statement in walk(kernel.body)} for kernel in kernels_of(steps)]
    assert [FragmentMac in kind for kind in kinds] == [False, True]


@pytest.mark.parametrize("operator", ["matmul", "conv"])
@pytest.mark.parametrize("dtype", [u8, i8])
def test_bytes_in_planes_are_put_in_order_before_they_are_added_to_sums(
    operator: str, dtype: DType, rng: np.random.Generator
) -> None:
    """An epilogue that reads vectors of neighbours has no instruction for bytes far apart."""
    b = GraphBuilder("residual")
    is_conv = operator == "conv"
    x = b.input("x", TensorType(u8, (1, 7, 9, 24) if is_conv else (63, 24)))
    z = b.input("z", TensorType(dtype, (1, 40, 7, 9) if is_conv else (40, 63)))
    weights = _numbers(rng, (1, 1, 24, 40) if is_conv else (24, 40), i8)
    w, around = b.constant(weights), {"low": (0, 0), "high": (0, 0), "dilations": (1, 1)}
    if is_conv:
        sums = b.apply("conv", x, w, dtype=i32, strides=(1, 1), groups=1, **around)
    else:
        sums = b.apply("matmul", x, w, dtype=i32)
    order = (0, 2, 3, 1) if is_conv else (1, 0)
    other = b.apply("cast", b.apply("transpose", z, permutation=order), dtype=f32)
    graph = b.finish([b.apply("add", b.apply("cast", sums, dtype=f32), other)])
    kernels = kernels_of(build(graph, Options(target="x86_64-avx512")).program.steps)
    kinds = [{type(statement) for statement in walk(kernel.body)} for kernel in kernels]
    assert [FragmentMac in kind for kind in kinds] == [False, True]
    left, right = _numbers(rng, x.type.static_shape, u8), _numbers(rng, z.type.static_shape, dtype)
    (found,) = bessemer.compile(graph).run({"x": left, "z": right})
    expected = left.reshape(63, 24).astype(np.int64) @ weights.reshape(24, 40)
    np.testing.assert_array_equal(found.reshape(63, 40), expected + right.reshape(40, 63).T)
