"""Loads and stores of vector loops: every stride, guard and mask gives what a serial loop gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.kernels.cpu import emit_kernel
from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Dim, Size
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer, Expression, index_value
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import Array, DType, bf16, boolean, f16, f32, f64, i8, i32, i64, u8
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import CompiledKernel, assembly, compiles_for_arm, targets_in_turn

SIZES = (0, 1, 7, 16, 17, 33)
N, M = dims.symbol("n"), dims.symbol("m")


def numbers(dtype: DType, size: int) -> Array:
    """1, 2, 3, ... in a type that may wrap."""
    return (np.arange(size) % 113 + 1).astype(dtype.numpy)


def compare(compiled: CompiledKernel, arrays: list[Array], **symbols: int) -> None:
    """The compiled kernel leaves in its last buffer what the interpreted one leaves."""
    expected = run_kernel(compiled.kernel, arrays, symbols).outputs[-1]
    actual = compiled(arrays, symbols).arrays[-1]
    np.testing.assert_array_equal(actual, expected, str(symbols))


# Strides: an index of the lane i, and how long the buffer must be for n lanes.

ACCESSES: dict[str, Callable[[Dim], Size]] = {
    "next": lambda i: i + 2,
    "same": lambda i: M,
    "every second": lambda i: 2 * i + 1,
    "every third": lambda i: 3 * i,
    "every fourth": lambda i: 4 * i + 3,
    "far": lambda i: 7 * i,
    "backwards": lambda i: N - 1 - i,
    "far backwards": lambda i: 5 * N - 5 - 5 * i,
    "by a symbol": lambda i: M * i,
    "divided": lambda i: i // 3,
    "in rows": lambda i: dims.floordiv(i, M) * 4 + dims.mod(i, M),
    "halved": lambda i: i // 2 + M,
    "wrapped": lambda i: (i + M) % 5,
}


@targets_in_turn
@pytest.mark.parametrize("dtype", [f16, f32, f64, i8, i32, boolean], ids=str)
@pytest.mark.parametrize("name", ACCESSES)
def test_loads_at_every_stride(name: str, dtype: DType, target: Target) -> None:
    x, out = Buffer("x", dtype, (1000,)), Buffer("out", dtype, (N,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", 16) as i:
        builder.store(out, (i,), x[ACCESSES[name](i)])
    kernel = Kernel("kernel", (x, out), 1, ("n", "m"), builder.block())
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        index = [evaluate_named(_at(name, i), {"n": n, "m": 3}) for i in range(n)]
        # The buffer ends with the last element that is read: nothing may be read behind it.
        data = numbers(dtype, 1 + max(index, default=0))
        result = compiled([data, np.zeros(n, dtype.numpy)], {"n": n, "m": 3}).arrays[1]
        np.testing.assert_array_equal(result, data[index])


@targets_in_turn
@pytest.mark.parametrize("dtype", [f32, f64, i8], ids=str)
@pytest.mark.parametrize("guard", ["none", "by index", "by data"])
@pytest.mark.parametrize("count", [58, 24, 7])
def test_loads_of_halves_in_turn(count: int, guard: str, dtype: DType, target: Target) -> None:
    """Channels that are shuffled: the first of each half, then the second of each."""
    x, out = Buffer("x", dtype, (2 * count,)), Buffer("out", dtype, (count,))
    flags = Buffer("flags", boolean, (count,))
    builder = KernelBuilder()
    with builder.loop(count, "vector", 64 if dtype is i8 else 16) as i:
        place = i // 2 + count * (i % 2)
        holds = None if guard == "none" else GUARDS[guard](i, flags[i])
        builder.store(out, (i,), x[place] if holds is None else expr.load(x, (place,), holds))
    compiled = CompiledKernel(Kernel("k", (x, flags, out), 1, (), builder.block()), target)
    flag = np.arange(count) % 3 == 1
    holds_at = np.ones(count, np.bool_) if guard == "none" else _holding(guard, count, flag)
    lanes = np.arange(count)
    places = lanes // 2 + count * (lanes % 2)
    # The buffer ends with the last element that is read: nothing may be read behind it.
    data = numbers(dtype, 1 + places[holds_at].max())
    wanted = [data[place] if holds_at[k] else 0 for k, place in enumerate(places)]
    result = compiled([data, flag, np.ones(count, dtype.numpy)]).arrays[2]
    np.testing.assert_array_equal(result, np.array(wanted, dtype.numpy))


def _at(name: str, i: int) -> Size:
    probe = dims.Symbol("probe")
    size = ACCESSES[name](dims.atom(probe))
    return dims.substitute(size, {probe: i})


@targets_in_turn
@pytest.mark.parametrize("dtype", [f16, f32, f64, i8, i32, boolean], ids=str)
@pytest.mark.parametrize("name", ["next", "every second", "backwards", "by a symbol", "far"])
def test_stores_at_every_stride(name: str, dtype: DType, target: Target) -> None:
    x, out = Buffer("x", dtype, (N,)), Buffer("out", dtype, (250,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", 16) as i:
        builder.store(out, (ACCESSES[name](i),), x[i])
    compiled = CompiledKernel(Kernel("kernel", (x, out), 1, ("n", "m"), builder.block()), target)
    for n in SIZES:
        compare(compiled, [numbers(dtype, n), np.zeros(250, dtype.numpy)], n=n, m=3)


@targets_in_turn
@pytest.mark.parametrize("m", [1, 3, 7, 10_007, (1 << 47) + 3])
def test_quotients_of_indices_by_a_size_are_whole(m: int, target: Target) -> None:
    out, far = Buffer("out", i64, (64,)), 1 << 48
    first = far // m * m - 32  # quotients that end in the vectors, and one behind them
    builder = KernelBuilder()
    with builder.loop(64, "vector", 16) as i:
        builder.store(out, (i,), index_value(dims.floordiv(i + first, M)))
    compiled = CompiledKernel(Kernel("kernel", (out,), 0, ("m",), builder.block()), target)
    (found,) = compiled([np.zeros(64, np.int64)], {"m": m}).arrays
    assert found.tolist() == [(first + i) // m for i in range(64)]


@targets_in_turn
def test_stores_of_several_lanes_to_one_place_are_in_order(target: Target) -> None:
    x, out = Buffer("x", f32, (N,)), Buffer("out", f32, (20,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", 8) as i:
        builder.store(out, (19,), x[i])
        builder.store(out, (i // 4,), x[i])
        builder.store(out, (18,), x[0])
    kernel = Kernel("kernel", (x, out), 1, ("n",), builder.block())
    assert compiles_for_arm(kernel)
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        compare(compiled, [numbers(f32, n), np.zeros(20, np.float32)], n=n)


@targets_in_turn
@pytest.mark.parametrize("dtype", [f32, i64, bf16], ids=str)
@pytest.mark.parametrize("lanes", [1, 16])
def test_addresses_from_data(dtype: DType, lanes: int, target: Target) -> None:
    table, picks = Buffer("table", dtype, (8, M)), Buffer("picks", i64, (N,))
    out = Buffer("out", dtype, (N,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", lanes) as i:
        row = expr.as_index(picks[i])
        builder.store(out, (i,), table[row, i % M])
    kernel = Kernel("kernel", (table, picks, out), 1, ("n", "m"), builder.block())
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        data = numbers(dtype, 40).reshape(8, 5)
        rows = np.arange(n) * 3 % 8
        result = compiled([data, rows, np.zeros(n, dtype.numpy)], {"n": n, "m": 5}).arrays[2]
        np.testing.assert_array_equal(result, data[rows, np.arange(n) % 5])


# Guards

GUARDS: dict[str, Callable[[Dim, Expression], Expression]] = {
    "inside": lambda i, flag: expr.within(i - 3, M),
    "below": lambda i, flag: expr.less(i, M),
    "above": lambda i, flag: expr.less(M, i),
    "same for all": lambda i, flag: expr.less(M, 5),
    "by index": lambda i, flag: expr.binary("eq", expr.index_value(i % 2), 0),
    "by data": lambda i, flag: flag,
}


@targets_in_turn
@pytest.mark.parametrize("dtype", [f32, i64, bf16, u8], ids=str)
@pytest.mark.parametrize("name", GUARDS)
def test_a_guarded_load_reads_zero_and_touches_nothing(
    name: str, dtype: DType, target: Target
) -> None:
    strides = (0, 1, 2, 3, -1, 7)
    x, flags = Buffer("x", dtype, (N,)), Buffer("flags", boolean, (N,))
    outs = [Buffer(f"out{k}", dtype, (N,)) for k in range(len(strides))]
    builder = KernelBuilder()
    for stride, out in zip(strides, outs, strict=True):
        with builder.loop(N, "vector", 8) as i:
            # Far outside of the buffer, where the guard is false for all of the lanes.
            away = 1 << 40 if name == "same for all" else 0
            index = stride * i + (N if stride < 0 else 0) + away
            value = expr.load(x, (index,), GUARDS[name](i, flags[i]))
            builder.store(out, (i,), value)
    kernel = Kernel("kernel", (x, flags, *outs), len(outs), ("n", "m"), builder.block())
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        flag = np.arange(n) % 3 == 1
        holds = _holding(name, n, flag)
        data = numbers(dtype, 1 + 7 * n)
        before = [np.ones(n, dtype.numpy) for _ in outs]
        results = compiled([data, flag, *before], {"n": n, "m": 9}).arrays[2:]
        for stride, result in zip(strides, results, strict=True):
            places = [stride * i + (n if stride < 0 else 0) for i in range(n)]
            wanted = [data[place] if holds[i] else 0 for i, place in enumerate(places)]
            np.testing.assert_array_equal(result, np.array(wanted, dtype.numpy), f"{stride}")


@targets_in_turn
@pytest.mark.parametrize("dtype", [f32, u8], ids=str)
@pytest.mark.parametrize("index", [lambda i: i // 4, lambda i: i % 4], ids=["each", "again"])
@pytest.mark.parametrize("name", GUARDS)
def test_a_guarded_load_for_several_lanes(
    name: str, index: Callable[[Any], Any], dtype: DType, target: Target
) -> None:
    x, out = Buffer("x", dtype, (N,)), Buffer("out", dtype, (N,))
    flags, begin = Buffer("flags", boolean, (N,)), dims.symbol("begin")
    builder = KernelBuilder()
    with builder.loop(N, "vector", 16) as i:
        value = expr.load(x, (begin + index(i),), GUARDS[name](i, flags[i]))
        builder.store(out, (i,), value)
    kernel = Kernel("k", (x, flags, out), 1, ("n", "m", "begin"), builder.block())
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        flag = np.arange(n) % 3 == 1
        holds = _holding(name, n, flag)
        data = numbers(dtype, 1 + max((index(i) for i in range(n) if holds[i]), default=0))
        wanted = [data[index(i)] if holds[i] else 0 for i in range(n)]
        # Far outside of the buffer, where the guard is false for all of the lanes.
        symbols = {"n": n, "m": 9, "begin": 0 if any(holds) else 1 << 40}
        result = compiled([data, flag, np.ones(n, dtype.numpy)], symbols).arrays[2]
        np.testing.assert_array_equal(result, np.array(wanted, dtype.numpy))
    if name == "by data":
        nothing = np.zeros(33, np.bool_)
        symbols = {"n": 33, "m": 9, "begin": 1 << 40}
        arrays = [numbers(dtype, 1), nothing, np.ones(33, dtype.numpy)]
        np.testing.assert_array_equal(compiled(arrays, symbols).arrays[2], np.zeros(33))


def _holding(name: str, n: int, flag: Array) -> Array:
    i = np.arange(n)
    holding: dict[str, Array] = {
        "inside": (i >= 3) & (i < 12),
        "below": i < 9,
        "above": i > 9,
        "same for all": np.zeros(n, np.bool_),
        "by index": i % 2 == 0,
        "by data": flag,
    }
    return holding[name]


@targets_in_turn
@pytest.mark.parametrize("dtype", [f32, i64, bf16, u8], ids=str)
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("name", GUARDS)
def test_a_guarded_store(name: str, stride: int, dtype: DType, target: Target) -> None:
    x, out = Buffer("x", dtype, (N,)), Buffer("out", dtype, (stride * N,))
    flags = Buffer("flags", boolean, (N,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", 8) as i:
        builder.store(out, (stride * i,), x[i], GUARDS[name](i, flags[i]))
    kernel = Kernel("kernel", (x, flags, out), 1, ("n", "m"), builder.block())
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        data, flag = numbers(dtype, n), np.arange(n) % 3 == 1
        before = np.full(stride * n, 7, dtype.numpy)
        wanted = before.copy()
        wanted[::stride] = np.where(_holding(name, n, flag), data, before[::stride])
        result = compiled([data, flag, before], {"n": n, "m": 9}).arrays[2]
        np.testing.assert_array_equal(result, wanted)


@targets_in_turn
def test_a_load_before_the_buffer_under_a_false_guard(target: Target) -> None:
    """A column of a padded image: the address is one that no process has."""
    x, out = Buffer("x", f32, (4, N)), Buffer("out", f32, (6, N))
    builder = KernelBuilder()
    with builder.loop(6) as row, builder.loop(N, "vector", 8) as i:
        far = (row - 1) * (1 << 44) + i
        inside = expr.binary("eq", expr.index_value(row), 1)
        builder.store(out, (row, i), expr.load(Buffer("x", f32, (1 << 50,)), (far,), inside))
    kernel = Kernel("kernel", (x, out), 1, ("n",), builder.block())
    data = np.arange(76, dtype=np.float32).reshape(4, 19)
    result = CompiledKernel(kernel, target)([data, np.ones((6, 19), np.float32)], {"n": 19})
    np.testing.assert_array_equal(result.arrays[1][1], data[0])
    assert not result.arrays[1][[0, 2, 3, 4, 5]].any()


# The instructions that are meant


def assembly_of(target: Target, index: Callable[[Dim], Size], dtype: DType = f32) -> str:
    x, out = Buffer("x", dtype, (1000,)), Buffer("out", dtype, (64,))
    builder = KernelBuilder()
    with builder.loop(64, "vector", 16) as i:
        builder.store(out, (i,), x[index(i)])
    return assembly(Kernel("kernel", (x, out), 1, (), builder.block()), target)


def test_neighbours_are_one_instruction() -> None:
    assert assembly_of(x86.AVX512, lambda i: i).count("vmovups") == 2


def test_small_strides_are_shuffled_not_gathered() -> None:
    text = assembly_of(x86.AVX512, lambda i: 2 * i)
    assert "vgather" not in text
    assert "vpermt2ps" in text or "vshufps" in text


@pytest.mark.parametrize(
    "index",
    [lambda i: 2 * i, lambda i: i // 2, lambda i: i // 2 + 32 * (i % 2)],
    ids=["apart", "repeated", "in turn"],
)
def test_neighbours_are_shuffled_under_a_mask_too(index: Callable[[Dim], Size]) -> None:
    x, out = Buffer("x", f32, (64,)), Buffer("out", f32, (24,))
    builder = KernelBuilder()
    with builder.loop(24, "vector", 16) as i:
        builder.store(out, (i,), x[index(i)])
    text = assembly(Kernel("kernel", (x, out), 1, (), builder.block()), x86.AVX512)
    assert "vgather" not in text and "%k1" in text


def test_known_extents_have_no_remainder() -> None:
    assert "%k1" not in assembly_of(x86.AVX512, lambda i: i)


@targets_in_turn
@pytest.mark.parametrize("dtype", [f16, bf16, f32, f64], ids=str)
def test_elements_keep_their_bits_on_the_way_through_registers(
    dtype: DType, target: Target
) -> None:
    x, out = Buffer("x", dtype, (N,)), Buffer("out", dtype, (N,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", 8) as i:
        builder.store(out, (i,), x[i])
    compiled = CompiledKernel(Kernel("kernel", (x, out), 1, ("n",), builder.block()), target)
    edges = np.array([0, -0.0, 1e-8, 6e-5, 65504, np.inf, -np.inf, 1e-40, 3e38, 1.001])
    with np.errstate(over="ignore"):
        data = edges.astype(dtype.numpy)
    result = compiled([data, np.ones_like(data)], {"n": 10}).arrays[1]
    assert result.tobytes() == data.tobytes()


def test_code_for_indices_from_data_is_the_same_each_time() -> None:
    """Expressions lie in sets by their addresses, which differ from time to time."""

    def text(axes: tuple[int, int]) -> str:
        x, y = Buffer("x", f32, (5, 7)), Buffer("y", f32, (64,))
        places = Buffer("places", i64, (2, 64))
        builder = KernelBuilder()
        with builder.loop(64, kind="vector", lanes=16) as i:
            found = {axis: expr.checked(places[axis, i], x.shape[axis]) for axis in axes}
            builder.store(y, (i,), x[found[0], found[1]])
        kernel = Kernel("pick", (x, places, y), 1, (), builder.block())
        return emit_kernel(kernel, x86.AVX512).text

    texts = set()
    for _ in range(10):
        texts |= {text((0, 1)), text((1, 0))}
        expr.forget_interned()
    assert len(texts) == 1
