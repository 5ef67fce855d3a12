"""Fragments, compiled: matrix products of every tile shape, with masked columns and epilogues."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.ir import dims, expr, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, fragment_element
from bessemer.compiler.ir.loops import Kernel, Store
from bessemer.compiler.ir.types import Array, DType, bf16, f32, f64, i8, i32
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import CompiledKernel, assembly, compiles_for_arm, targets_in_turn

M, N, K = dims.symbol("m"), dims.symbol("n"), dims.symbol("k")


def product(
    rows: int,
    columns: int,
    depth: Size,
    limit: Size,
    dtype: DType = f32,
    source: DType | None = None,
    unroll: int = 1,
    stride: Size | None = None,
) -> Kernel:
    """relu(bias + a @ b) * scale[column] for one tile; b is padded to `columns`."""
    given = source or dtype
    width = depth if stride is None else stride
    a, b = Buffer("a", given, (rows, width)), Buffer("b", given, (depth, columns))
    bias, scale = Buffer("bias", dtype, (limit,)), Buffer("scale", dtype, (limit,))
    out = Buffer("out", dtype, (rows, limit))
    builder = KernelBuilder()
    builder.append(loops.Fragment("sums", rows, columns, dtype))
    column = dims.Symbol("column", columns)
    at = dims.atom(column)
    builder.append(loops.FragmentFill("sums", column, bias[at], limit))
    steps = depth if unroll == 1 else depth // unroll
    with builder.loop(steps) as outer, builder.loop(unroll, "unroll") as inner:
        k = outer * unroll + inner
        offsets = tuple(r * width + k for r in range(rows))
        builder.append(loops.FragmentMac("sums", tuple(range(rows)), a, offsets, b, k * columns))
    stores = tuple((_store(out, r, at, scale, dtype),) for r in range(rows))
    builder.append(loops.FragmentStore("sums", column, limit, stores))
    symbols = ("k", "n", "m")
    return Kernel("kernel", (a, b, bias, scale, out), 1, symbols, builder.block())


def _store(out: Buffer, row: int, column: Size, scale: Buffer, dtype: DType) -> Store:
    total = expr.binary("max", fragment_element("sums", row, dtype), 0)
    return Store(out, (row, column), total * scale[column])


def check(
    kernel: Kernel, target: Target, rows: int, columns: int, depth: int, limit: int, stride: int
) -> None:
    """Compares with the product in float64 (or in wrapping integers)."""
    rng = np.random.default_rng(rows * 1000 + columns + limit)
    a, b, bias, scale, _ = kernel.buffers

    def some(buffer: Buffer, *shape: int) -> Array:
        if buffer.dtype.is_float:
            return rng.standard_normal(shape).astype(buffer.dtype.numpy)
        return rng.integers(-100, 100, shape).astype(buffer.dtype.numpy)

    arrays = [some(a, rows, stride), some(b, depth, columns), some(bias, limit), some(scale, limit)]
    out = np.zeros((rows, limit), bias.dtype.numpy)
    sizes = {"k": depth, "n": limit, "m": stride}
    result = CompiledKernel(kernel, target)([*arrays, out], sizes).arrays[4]
    wide = np.float64 if bias.dtype.is_float else np.int64
    left, right, add, times = (array.astype(wide) for array in arrays)
    exact = np.maximum(left[:, :depth] @ right[:, :limit] + add, 0) * times
    np.testing.assert_allclose(result, exact, 1e-4 if bias.dtype is f32 else 1e-12, 1e-4)


@targets_in_turn
@pytest.mark.parametrize("limit", ["full", "known", "symbol"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (2, 16), (6, 16), (14, 32), (3, 24), (5, 7)])
def test_a_tile_of_a_product(rows: int, columns: int, limit: str, target: Target) -> None:
    limits: dict[str, Size] = {"full": columns, "known": columns - 2, "symbol": N}
    known = limits[limit]
    kernel = product(rows, columns, K, known)
    assert compiles_for_arm(kernel)
    for extent in (columns, columns - 2, 1) if limit == "symbol" else (known,):
        assert isinstance(extent, int)
        check(kernel, target, rows, columns, 9, extent, 9)


@targets_in_turn
@pytest.mark.parametrize(
    ("dtype", "source"), [(f64, f64), (i32, i32), (i32, i8), (f32, bf16)], ids=str
)
def test_element_types(dtype: DType, source: DType, target: Target) -> None:
    for limit in (16, N):
        check(product(3, 16, 5, limit, dtype, source), target, 3, 16, 5, 16, 5)


@targets_in_turn
def test_no_depth_leaves_the_fill(target: Target) -> None:
    check(product(2, 16, K, 16), target, 2, 16, 0, 16, 0)


@targets_in_turn
@pytest.mark.parametrize("unroll", [1, 2, 4])
@pytest.mark.parametrize("stride", [12, 100, M], ids=str)
def test_strides_and_unrolling(stride: Size, unroll: int, target: Target) -> None:
    kernel = product(6, 16, 12, 16, unroll=unroll, stride=stride)
    check(kernel, target, 6, 16, 12, 16, stride if isinstance(stride, int) else 40)


@targets_in_turn
def test_rows_left_out_and_added_under_a_condition(target: Target) -> None:
    a, b, out = Buffer("a", f32, (8,)), Buffer("b", f32, (K, 16)), Buffer("out", f32, (3, 16))
    builder = KernelBuilder()
    builder.append(loops.Fragment("sums", 3, 16, f32))
    column = dims.Symbol("column", 16)
    builder.append(loops.FragmentFill("sums", column, expr.constant(1, f32), 16))
    with builder.loop(K) as k:
        with builder.when(expr.less(k, 2)):
            builder.append(loops.FragmentMac("sums", (0, 2), a, (k, k + 3), b, k * 16))
        with builder.otherwise():
            builder.append(loops.FragmentMac("sums", (1,), a, (k,), b, k * 16))
    at = dims.atom(column)
    stores = tuple((Store(out, (r, at), fragment_element("sums", r, f32)),) for r in range(3))
    builder.append(loops.FragmentStore("sums", column, 16, stores))
    kernel = Kernel("kernel", (a, b, out), 1, ("k",), builder.block())
    left = np.arange(8, dtype=np.float32)
    right = np.arange(64, dtype=np.float32).reshape(4, 16)
    result = CompiledKernel(kernel, target)([left, right, np.zeros((3, 16), np.float32)], {"k": 4})
    rows = [left[0:2] @ right[0:2], left[2:4] @ right[2:4], left[3:5] @ right[0:2]]
    np.testing.assert_array_equal(result.arrays[2], np.array(rows) + 1)


@targets_in_turn
@pytest.mark.parametrize("limit", [16, N], ids=str)
def test_two_fragments_in_one_store(limit: Size, target: Target) -> None:
    out = Buffer("out", f32, (2, limit))
    builder = KernelBuilder()
    column = dims.Symbol("column", 16)
    at = dims.atom(column)
    for name, scale in (("low", 1.0), ("high", 100.0)):
        builder.append(loops.Fragment(name, 2, 16, f32))
        value = expr.convert(expr.index_value(at), f32) * scale
        builder.append(loops.FragmentFill(name, column, value, limit))
    both = [fragment_element("low", r, f32) + fragment_element("high", 1, f32) for r in range(2)]
    stores = tuple((Store(out, (r, at), both[r]),) for r in range(2))
    builder.append(loops.FragmentStore("low", column, limit, stores))
    kernel = Kernel("kernel", (out,), 1, ("n",), builder.block())
    n = limit if isinstance(limit, int) else 11
    (result,) = CompiledKernel(kernel, target)([np.zeros((2, n), np.float32)], {"n": n}).arrays
    np.testing.assert_array_equal(result, [np.arange(n) * 101.0] * 2)


@pytest.mark.parametrize(("target", "rows"), [(x86.AVX512, 12), (x86.AVX2, 6)], ids=str)
def test_sums_stay_in_registers(target: Target, rows: int) -> None:
    lanes = target.lanes(f32)
    text = assembly(product(rows, 2 * lanes, 512, 2 * lanes, unroll=4), target)
    register = "%zmm" if lanes == 16 else "%ymm"
    inner = next(part for part in text.split("\n.LBB") if part.count("vfmadd") == rows * 2 * 4)
    body = inner[: inner.index("\n\tj")]
    assert "(%rsp)" not in text
    assert sum(register in line for line in body.splitlines()) <= rows * 2 * 4 + (rows + 2) * 4
    assert body.count("\n\tadd") + body.count("\n\tlea") + body.count("\n\tinc") <= 4
