"""Statements of the loop language, compiled: loops, branches, locals, local arrays, failures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bessemer.compiler.codegen.kernels.cpu import emit_kernel
from bessemer.compiler.codegen.values import Pointer
from bessemer.compiler.codegen.writer import Scope, Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, functions, loops
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.expr import Buffer, index_value
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import DTYPES, DType, boolean, f32, f64, i64
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE, CompiledKernel, assembly, compiles_for_arm, targets_in_turn

SIZES = (0, 1, 7, 16, 17, 33)
N, M = dims.symbol("n"), dims.symbol("m")
X = Buffer("x", f32, (N,))


def kernel_of(builder: KernelBuilder, *buffers: Buffer, outputs: int = 1) -> Kernel:
    names = dims.total(size for b in buffers for size in b.shape)
    symbols = tuple(sorted({"n", "m"} & dims.symbol_names(names)))
    return Kernel("kernel", buffers, outputs, symbols, builder.block())


# Loops


@targets_in_turn
def test_a_parallel_loop_runs_the_part_it_is_given(target: Target) -> None:
    builder = KernelBuilder()
    with builder.loop(N, "parallel") as i:
        builder.store(X, (i,), expr.convert(index_value(i + 1), f32))
    compiled = CompiledKernel(kernel_of(builder, X), target)
    (result,) = compiled([np.zeros(9, np.float32)], {"n": 9}, part=(3, 6)).arrays
    assert result.tolist() == [0, 0, 0, 4, 5, 6, 0, 0, 0]


@targets_in_turn
def test_a_loop_of_no_iterations_reads_nothing(target: Target) -> None:
    table, out = Buffer("table", f32, (M, 1 << 40)), Buffer("out", f32, (1,))
    builder = KernelBuilder()
    total = builder.define(expr.constant(0, f32))
    with builder.loop(N), builder.loop(M) as j:
        total.accumulate("add", table[j, 1 << 39])
    builder.store(out, (0,), total.value)
    kernel = Kernel("kernel", (table, out), 1, ("n", "m"), builder.block())
    arrays = [np.zeros(0, np.float32), np.ones(1, np.float32)]
    assert CompiledKernel(kernel, target)(arrays, {"n": 5, "m": 0}).arrays[1] == 0


@targets_in_turn
def test_an_unrolled_loop_counts_at_compile_time(target: Target) -> None:
    out = Buffer("out", i64, (3, 4))
    builder = KernelBuilder()
    with builder.loop(3) as i, builder.loop(4, "unroll") as j:
        builder.store(out, (i, j), index_value(i * 10 + (j + 1) // 2))
    compiled = CompiledKernel(kernel_of(builder, out), target)
    (result,) = compiled([np.zeros((3, 4), np.int64)]).arrays
    assert result.tolist() == [[i * 10 + (j + 1) // 2 for j in range(4)] for i in range(3)]


def fibonacci(builder: KernelBuilder, out: Buffer) -> None:
    """Writes the Fibonacci numbers below 100, and how many there are."""
    a = builder.define(expr.constant(0, i64))
    b = builder.define(expr.constant(1, i64))
    count = builder.define(expr.constant(0, i64))
    with builder.repeat_while(a.value < 100):
        builder.store(out, (count.index,), a.value)
        following = builder.define(a.value + b.value)
        a.set(b.value)
        b.set(following.value)
        count.set(count.value + 1)
    builder.store(out, (15,), count.value)


@targets_in_turn
def test_a_while_loop(target: Target) -> None:
    out = Buffer("out", i64, (16,))
    builder = KernelBuilder()
    fibonacci(builder, out)
    kernel = kernel_of(builder, out)
    assert compiles_for_arm(kernel)
    (result,) = CompiledKernel(kernel, target)([np.zeros(16, np.int64)]).arrays
    assert result[:12].tolist() == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
    assert result[15] == 12


@targets_in_turn
@pytest.mark.parametrize("kind", ["serial", "vector"])
def test_branches_change_locals(kind: loops.LoopKind, target: Target) -> None:
    out = Buffer("out", f32, (M, N))
    builder = KernelBuilder()
    with builder.loop(M) as row, builder.loop(N, kind, 8) as i:
        value = builder.define(X[i])
        with builder.when(expr.less(row, 2)):
            value.set(value.value * 2.0)
            with builder.when(expr.less(row, 1)):
                value.set(value.value + 1.0)
        with builder.otherwise():
            value.set(-value.value)
        builder.store(out, (row, i), value.value)
    kernel = kernel_of(builder, X, out)
    compiled = CompiledKernel(kernel, target)
    for n in SIZES:
        x = np.arange(n, dtype=np.float32)
        arrays = compiled([x, np.zeros((4, n), np.float32)], {"n": n, "m": 4}).arrays
        np.testing.assert_array_equal(arrays[1], [x * 2 + 1, x * 2, -x, -x])


# Accumulation


REDUCTIONS = [
    (name, dtype)
    for name in functions.REDUCTIONS
    for dtype in DTYPES.values()
    if dtype.is_integer or (name in ("and", "or")) == (dtype is boolean)
]


@targets_in_turn
@pytest.mark.parametrize(("name", "dtype"), REDUCTIONS, ids=str)
def test_reductions_in_vector_loops(
    name: str, dtype: DType, target: Target, rng: np.random.Generator
) -> None:
    """In one vector and in four."""
    x, out = Buffer("x", dtype, (N,)), Buffer("out", dtype, (2,))
    builder = KernelBuilder()
    for place, interleave in enumerate((1, 4)):
        total = builder.define(out[place])
        with builder.loop(N, "vector", 8, interleave) as i:
            total.accumulate(name, x[i])
        builder.store(out, (place,), total.value)
    kernel = kernel_of(builder, x, out)
    compiled = CompiledKernel(kernel, target)
    for n in (*SIZES, 100):
        data = rng.integers(0, 2 if dtype is boolean else 3, n).astype(dtype.numpy)
        start = np.ones(2, dtype.numpy)
        (expected,) = run_kernel(kernel, [data, start], {"n": n}).outputs
        np.testing.assert_array_equal(compiled([data, start], {"n": n}).arrays[1], expected)


@targets_in_turn
def test_a_product_is_summed_in_several_vectors_at_once(
    target: Target, rng: np.random.Generator
) -> None:
    y, out = Buffer("y", f32, (N,)), Buffer("out", f32, (1,))
    builder = KernelBuilder()
    total = builder.define(expr.constant(0, f32))
    with builder.loop(N, "vector", 16, 4) as i:
        total.accumulate("add", X[i] * y[i])
    builder.store(out, (0,), total.value)
    compiled = CompiledKernel(kernel_of(builder, X, y, out), target)
    for n in (*SIZES, 1000):
        a, b = rng.standard_normal((2, n)).astype(np.float32)
        result = compiled([a, b, np.zeros(1, np.float32)], {"n": n}).arrays[2]
        exact = a.astype(np.float64) @ b
        assert abs(result[0] - exact) <= 1e-6 * np.abs(a * b).sum() + 1e-30


@targets_in_turn
def test_the_largest_is_nan_if_one_is(target: Target) -> None:
    out = Buffer("out", f32, (2,))
    builder = KernelBuilder()
    highest = builder.define(expr.neutral("max", f32))
    lowest = builder.define(expr.neutral("min", f32))
    with builder.loop(N, "vector", 8, 2) as i:
        highest.accumulate("max", X[i])
        lowest.accumulate("min", X[i])
    builder.store(out, (0,), highest.value)
    builder.store(out, (1,), lowest.value)
    compiled = CompiledKernel(kernel_of(builder, X, out), target)
    for place in range(21):
        x = np.arange(21, dtype=np.float32)
        assert compiled([x, np.zeros(2, np.float32)], {"n": 21}).arrays[1].tolist() == [20, 0]
        x[place] = np.nan
        assert np.isnan(compiled([x, np.zeros(2, np.float32)], {"n": 21}).arrays[1]).all()


@targets_in_turn
@pytest.mark.parametrize("lanes", [0, 1, 4, 16])
def test_locals_of_a_vector_loop_have_a_value_for_each_lane(
    lanes: int, target: Target, rng: np.random.Generator
) -> None:
    """A matrix times a vector: the columns are lanes, the sum runs in an inner serial loop."""
    matrix, out = Buffer("matrix", f32, (M, N)), Buffer("out", f32, (N,))
    weights = Buffer("weights", f64, (M,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", lanes, 2) as j:
        total = builder.define(expr.constant(0, f64))
        steps = builder.define(expr.constant(0, i64))
        with builder.loop(M) as k:
            total.accumulate("add", expr.convert(matrix[k, j], f64) * weights[k])
            steps.set(steps.value + 1)
        builder.store(out, (j,), expr.convert(total.value * expr.convert(steps.value, f64), f32))
    compiled = CompiledKernel(kernel_of(builder, matrix, weights, out), target)
    for n in SIZES:
        a, w = rng.standard_normal((5, n)).astype(np.float32), rng.standard_normal(5)
        result = compiled([a, w, np.zeros(n, np.float32)], {"n": n, "m": 5}).arrays[2]
        np.testing.assert_allclose(result, (w @ a.astype(np.float64)) * 5, 1e-5, 1e-6)


# Memory of the kernel's own, symbols, failures


@targets_in_turn
def test_a_local_array_lives_for_a_block(target: Target) -> None:
    out = Buffer("out", f32, (3, 20))
    builder = KernelBuilder()
    with builder.loop(3, "parallel") as row:
        row_sums = builder.allocate(f32, (20,))
        with builder.loop(20, "vector", 8) as i:
            builder.store(row_sums, (i,), expr.convert(index_value(row + i), f32))
        with builder.loop(19) as i:
            builder.store(row_sums, (i + 1,), row_sums[i] + row_sums[i + 1])
        with builder.loop(20, "vector", 8) as i:
            builder.store(out, (row, i), row_sums[19 - i])
    (result,) = CompiledKernel(kernel_of(builder, out), target)(
        [np.zeros((3, 20), np.float32)]
    ).arrays
    sums = np.array([np.cumsum(np.arange(20) + row) for row in range(3)], np.float32)
    np.testing.assert_array_equal(result, sums[:, ::-1])


@targets_in_turn
def test_a_kernel_sets_a_dimension_and_reports_its_first_failure(target: Target) -> None:
    kept = Buffer("kept", f32, (dims.symbol("k"),))
    builder = KernelBuilder()
    count = builder.define(expr.constant(0, i64))
    with builder.loop(N) as i, builder.when(X[i] > 0.0):
        builder.store(kept, (count.index,), X[i])
        count.set(count.value + 1)
    builder.set_dim("k", count.value)
    builder.fail_if(expr.binary("eq", count.value, 0), "nothing is left")
    kernel = Kernel("kernel", (X, kept), 1, ("n", "k"), builder.block())
    compiled = CompiledKernel(kernel, target)
    x = np.array([-1, 2, 0, 3, -4], np.float32)
    outcome = compiled([x, np.zeros(5, np.float32)], {"n": 5, "k": 5})
    assert outcome.symbols["k"] == 2
    assert outcome.arrays[1][:2].tolist() == [2, 3]
    assert outcome.failure == ""
    assert compiled([-x, x], {"n": 0, "k": 0}).failure == "nothing is left"


@targets_in_turn
def test_a_prefetch_changes_nothing(target: Target) -> None:
    builder, written = KernelBuilder(), Buffer("written", f32, (N,))
    with builder.loop(N) as i:
        builder.append(loops.Prefetch(X, i + 1000, 2))
        builder.append(loops.Prefetch(written, i + 1000, 2))
        builder.store(written, (i,), X[i] + 1.0)
    kernel = kernel_of(builder, X, written)
    text = assembly(kernel, target)
    assert "prefetcht1" in text
    assert ("prefetchw" in text) == bool(target.hints), "where another core has lines to be written"
    arrays = [np.zeros(3, np.float32), np.zeros(3, np.float32)]
    assert CompiledKernel(kernel, target)(arrays, {"n": 3}).arrays[1].tolist() == [1, 1, 1]


# What is written once


def test_what_a_loop_does_not_change_is_outside_of_it() -> None:
    scale, out = Buffer("scale", f32, (M,)), Buffer("out", f32, (M, N))
    builder = KernelBuilder()
    with builder.loop(M) as row, builder.loop(N, "vector", 16) as i:
        builder.store(out, (row, i), X[i] * expr.unary("exp", scale[row]))
    text = emit_kernel(kernel_of(builder, X, scale, out), x86.AVX512).text
    inner = next(part for part in text.split("\nloop")[1:] if "store <16 x float>" in part)
    body = inner[: inner.index("br i1")]
    assert "exp" not in body
    assert "load float" not in body
    assert body.count("mul nsw i64") == 1


def test_what_a_loop_writes_is_read_in_it_again(rng: np.random.Generator) -> None:
    builder = KernelBuilder()
    with builder.loop(N - 1) as i:
        builder.store(X, (0,), X[0] + X[i + 1])
        builder.store(X, (i + 1,), X[0])
    compiled = CompiledKernel(kernel_of(builder, X), HERE[0])
    x = rng.integers(0, 9, 10).astype(np.float32)
    (result,) = compiled([x], {"n": 10}).arrays
    assert result.tolist() == [x.sum(), *np.cumsum(x)[1:]]


def test_an_address_of_a_loop_is_written_again_where_it_is_wanted_in_front_of_it() -> None:
    w = Writer()
    scope = Scope("loop", before=w.place())
    pointer = Pointer("%base", 0, 72)
    with w.scope(scope):
        inside = w.at(pointer)
        outside = w.at(pointer, 0)
        assert w.at(pointer) == outside
    first, second = w.text().splitlines()
    assert first.startswith(f"  {outside} = ")
    assert second.startswith(f"  {inside} = ")


# What no schedule may write


def branch_by_lane(builder: KernelBuilder, i: dims.Dim, local: Local) -> None:
    with builder.when(X[i] > 0.0):
        builder.store(X, (i,), local.value)


def assignment_to_outer(builder: KernelBuilder, i: dims.Dim, local: Local) -> None:
    local.set(X[i])


def array_in_lanes(builder: KernelBuilder, i: dims.Dim, local: Local) -> None:
    builder.allocate(f32, (4,))


def fragment_in_lanes(builder: KernelBuilder, i: dims.Dim, local: Local) -> None:
    builder.append(loops.Fragment("sums", 1, 16, f32))


def extent_by_lane(builder: KernelBuilder, i: dims.Dim, local: Local) -> None:
    with builder.loop(i) as j:
        builder.store(X, (j,), local.value)


@pytest.mark.parametrize(
    "write",
    [branch_by_lane, assignment_to_outer, array_in_lanes, fragment_in_lanes, extent_by_lane],
)
def test_a_vector_loop_that_is_none_is_a_bug_of_ours(
    write: Callable[[KernelBuilder, dims.Dim, Local], None],
) -> None:
    builder = KernelBuilder()
    local = builder.define(expr.constant(0, f32))
    with builder.loop(N, "vector", 8) as i:
        write(builder, i, local)
    with pytest.raises(InternalError):
        emit_kernel(kernel_of(builder, X), x86.AVX2)


def test_a_symbolic_loop_cannot_be_unrolled() -> None:
    builder = KernelBuilder()
    with builder.loop(N, "unroll") as i:
        builder.store(X, (i,), 0.0)
    with pytest.raises(InternalError, match="unrolled"):
        emit_kernel(kernel_of(builder, X), x86.AVX2)
