"""Every expression of the loop language, compiled: the same numbers as NumPy and the definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.functions import BINARY, COMPARISONS
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.interpreter import arithmetic
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import (
    DTYPES,
    FLOATS,
    INTEGERS,
    Array,
    DType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i32,
    i64,
    u8,
)
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE, CompiledKernel, compiles_for_arm

SIZES = (0, 1, 7, 16, 17, 33)
N = dims.symbol("n")

on_each_target = pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)


def pointwise(
    sources: Sequence[DType],
    results: dict[str, Callable[..., Expression]],
    lanes: int,
    interleave: int = 1,
) -> Kernel:
    """A kernel that computes functions of elements: n elements of each source and result."""
    inputs = [Buffer(f"in{k}", dtype, (N,)) for k, dtype in enumerate(sources)]
    builder = KernelBuilder()
    outputs = []
    with builder.loop(N, "vector", lanes, interleave) as i:
        elements = [buffer[i] for buffer in inputs]
        for name, function in results.items():
            value = function(*elements)
            outputs.append(Buffer(name, value.dtype, (N,)))
            builder.store(outputs[-1], (i,), value)
    return Kernel("kernel", (*inputs, *outputs), len(outputs), ("n",), builder.block())


def check(
    kernel: Kernel,
    target: Target,
    inputs: Sequence[Array],
    expected: dict[str, Callable[..., Array]],
    tolerance: float = 0.0,
    sizes: Sequence[int] = SIZES,
) -> None:
    """Compares the kernel's results on the first n elements, for several n, with functions."""
    compiled = CompiledKernel(kernel, target)
    with np.errstate(all="ignore"):
        whole = {name: function(*inputs) for name, function in expected.items()}
    for n in sizes:
        outputs = [np.zeros(n, b.dtype.numpy) for b in kernel.buffers[len(inputs) :]]
        outcome = compiled([*(array[:n] for array in inputs), *outputs], {"n": n})
        for buffer, result in zip(kernel.buffers[len(inputs) :], outcome.arrays[len(inputs) :]):
            wanted = whole[buffer.name][:n]
            message = f"{buffer.name}, n = {n}"
            if buffer.dtype.is_float:
                actual, exact = result.astype(np.float64), wanted.astype(np.float64)
                least = 2.0**-126 if buffer.dtype in (f32, bf16) else 1e-300  # flushed or not
                np.testing.assert_allclose(actual, exact, tolerance, least, err_msg=message)
            else:
                np.testing.assert_array_equal(result, wanted, message)


FLOAT_EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, math.inf, -math.inf, math.nan]


def samples(dtype: DType, rng: np.random.Generator, count: int = 40) -> Array:
    """Edges of a type and random numbers of all sizes."""
    if dtype.is_float:
        edges = [*FLOAT_EDGES, float(np.asarray(60000.7).astype(dtype.numpy))]
        normal = rng.standard_normal(count) * 3.0
        return np.concatenate([edges, normal])[:count].astype(dtype.numpy)
    if dtype is boolean:
        return np.asarray(np.arange(count) % 3 == 0)
    low, high = (int(dtype.lowest), int(dtype.highest))
    edges = [0, 1, low, high, 2, 3, low + 1, high - 1, 7, 5]
    edges += [-1, -2, -3, -7] if low < 0 else [9, 11]
    wide = rng.integers(low, high, 10, dtype.numpy, endpoint=True)
    small = rng.integers(max(low, -9), 9, count).astype(dtype.numpy)
    return np.concatenate([np.array(edges, dtype.numpy), wide, small])[:count]


def pairs(dtype: DType, rng: np.random.Generator) -> tuple[Array, Array]:
    """Every sample with a few others."""
    left = np.concatenate([samples(dtype, rng)] * 6)
    return left, np.concatenate([np.roll(samples(dtype, rng), k) for k in range(6)])


def each(function: Callable[..., object], result: DType) -> Callable[..., Array]:
    """A function of the language's values, on arrays."""

    def whole(*arrays: Array) -> Array:
        return np.array([function(*row) for row in zip(*arrays)], result.numpy)

    return whole


FLOAT_FUNCTIONS = ("exp", "log", "sin", "tanh", "erf", "sigmoid", "sqrt", "rsqrt", "expm1")
EXACT_UNARY = ("floor", "ceil", "round", "trunc", "neg", "abs", "isnan", "isinf")


@on_each_target
@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_float_functions_of_one_operand(
    dtype: DType, lanes: int, target: Target, rng: np.random.Generator
) -> None:
    names = (*FLOAT_FUNCTIONS, *EXACT_UNARY)
    kernel = pointwise([dtype], {n: lambda x, n=n: expr.unary(n, x) for n in names}, lanes)

    def reference(name: str) -> Callable[[Array], Array]:
        def whole(x: Array) -> Array:
            values = [arithmetic.from_memory(element, dtype) for element in x]
            results = [arithmetic.unary(name, dtype, value) for value in values]
            kind = boolean if name in ("isnan", "isinf") else dtype
            return np.array([arithmetic.to_memory(r, kind) for r in results], kind.numpy)

        return whole

    tolerance = {f32: 5e-7, f64: 1e-15, f16: 1e-3, bf16: 8e-3}[dtype]
    expected = {name: reference(name) for name in names}
    check(kernel, target, [samples(dtype, rng)], expected, tolerance)


@on_each_target
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("dtype", [f32, f64, f16], ids=str)
def test_whether_both_of_two_are_numbers(
    dtype: DType, lanes: int, target: Target, rng: np.random.Generator
) -> None:
    left, right = pairs(f32, rng)[0], pairs(dtype, rng)[1]
    assert np.isnan(left).any() and np.isnan(right).any()
    both = {"both": lambda x, y: ~expr.unary("isnan", x) & ~expr.unary("isnan", y)}
    expected = {"both": lambda x, y: ~(np.isnan(x) | np.isnan(y))}
    check(pointwise([f32, dtype], both, lanes), target, [left, right], expected)


@on_each_target
@pytest.mark.parametrize("dtype", (*INTEGERS, boolean), ids=str)
def test_integer_functions_of_one_operand(
    dtype: DType, target: Target, rng: np.random.Generator
) -> None:
    names = ["not"] if dtype is boolean else ["neg", "abs", "not"]
    kernel = pointwise([dtype], {n: lambda x, n=n: expr.unary(n, x) for n in names}, 8)
    functions = {"neg": np.negative, "abs": np.abs, "not": np.invert}
    check(kernel, target, [samples(dtype, rng)], {name: functions[name] for name in names})


@on_each_target
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("dtype", (*INTEGERS, boolean, f32, f64), ids=str)
def test_functions_of_two_operands(
    dtype: DType, lanes: int, target: Target, rng: np.random.Generator
) -> None:
    left, right = pairs(dtype, rng)
    bitwise = ("and", "or", "xor", "shl", "shr")
    names = [name for name in BINARY if not (dtype.is_float and name in bitwise)]
    if dtype is boolean:
        names = ["and", "or", "xor", "add", "mul", "min", "max", *COMPARISONS]
    if dtype.is_float:
        names.remove("pow")
    kernel = pointwise(
        [dtype, dtype], {n: lambda x, y, n=n: expr.binary(n, x, y) for n in names}, lanes
    )

    def reference(name: str) -> Callable[[Array, Array], Array]:
        def one(a: Array, b: Array) -> object:
            x, y = arithmetic.from_memory(a, dtype), arithmetic.from_memory(b, dtype)
            return arithmetic.binary(name, dtype, x, y)

        return each(one, boolean if name in COMPARISONS else dtype)

    check(
        kernel, target, [left, right], {n: reference(n) for n in names}, sizes=(*SIZES, len(left))
    )


@on_each_target
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_powers(dtype: DType, target: Target, rng: np.random.Generator) -> None:
    left, right = pairs(dtype, rng)
    constants = (1.0, 2.0, 3.0, -1.0, 0.5, 2.25)
    results = {f"by{c}": lambda x, y, c=c: expr.binary("pow", x, c) for c in constants}
    kernel = pointwise([dtype, dtype], {"pow": lambda x, y: expr.binary("pow", x, y), **results}, 8)
    exact: dict[str, Callable[..., Array]] = {
        f"by{c}": lambda x, y, c=c: np.power(x.astype(np.float64), np.full(x.shape, c)).astype(
            dtype.numpy
        )
        for c in constants
    }
    exact["pow"] = lambda x, y: np.power(x.astype(np.float64), y).astype(dtype.numpy)
    check(kernel, target, [left, right], exact, 1e-6 if dtype is f32 else 1e-14)


def expected_cast(source: DType, target: DType) -> Callable[[Array], Array]:
    def one(element: Array) -> object:
        value = arithmetic.from_memory(element, source)
        return arithmetic.to_memory(arithmetic.cast(value, source, target), target)

    return each(one, target)


@on_each_target
@pytest.mark.parametrize("source", DTYPES.values(), ids=str)
def test_casts_between_all_types(source: DType, target: Target, rng: np.random.Generator) -> None:
    array = samples(source, rng)
    if source.is_float:
        big = np.array([3e9, -3e9, 300.0, -300.0, 127.5, 255.9, 1e19, -1e19, 70000.0])
        array[12:21] = big.astype(source.numpy)
    kernel = pointwise(
        [source], {t.name: lambda x, t=t: expr.convert(x, t) for t in DTYPES.values()}, 8
    )
    check(kernel, target, [array], {t.name: expected_cast(source, t) for t in DTYPES.values()})


@on_each_target
def test_a_cast_rounds_and_arithmetic_on_16_bits_does_not(target: Target) -> None:
    x = np.array([1.0, 3.0, 257.0, 1e-3], np.float32)
    kernel = pointwise(
        [f32],
        {
            "rounded": lambda v: expr.convert(expr.convert(v + 0.001, bf16), f32),
            "late": lambda v: expr.convert((expr.convert(v, bf16) + 0.001) * 100, f32),
        },
        4,
    )
    bf = bf16.numpy
    check(
        kernel,
        target,
        [x],
        {
            "rounded": lambda v: (v + np.float32(0.001)).astype(bf).astype(np.float32),
            "late": lambda v: (v.astype(bf).astype(np.float32) + _bf(0.001)) * _bf(100),
        },
        sizes=(4,),
    )


def _bf(number: float) -> np.float32:
    return np.float32(np.asarray(number).astype(bf16.numpy))


@on_each_target
def test_values_of_several_widths_in_one_vector_loop(
    target: Target, rng: np.random.Generator
) -> None:
    kernel = pointwise(
        [u8, f32, i64, boolean],
        {
            "mixed": lambda a, b, c, d: (
                expr.convert(a, f32) * b + expr.select(d, expr.convert(c, f32), 0.5)
            ),
            "wide": lambda a, b, c, d: expr.convert(b, f64) + expr.convert(a, f64),
            "narrow": lambda a, b, c, d: a + expr.convert(c, u8),
        },
        16,
        2,
    )
    inputs = [samples(dtype, rng, 100) for dtype in (u8, f32, i64, boolean)]
    check(
        kernel,
        target,
        inputs,
        {
            "mixed": lambda a, b, c, d: (
                a.astype(np.float32) * b + np.where(d, c.astype(np.float32), np.float32(0.5))
            ),
            "wide": lambda a, b, c, d: b.astype(np.float64) + a,
            "narrow": lambda a, b, c, d: a + c.astype(np.uint8),
        },
        sizes=(*SIZES, 100),
    )


INDEX_FORMULAS: dict[str, Callable[[Size, Size], Size]] = {
    "linear": lambda i, m: 3 * i + 2 * m - 5,
    "divided": lambda i, m: (i + 1) // 3,
    "rest": lambda i, m: (2 * i + 5) % 7,
    "by_symbol": lambda i, m: (i + 2) // m,
    "rest_by_symbol": lambda i, m: (i * 3) % m,
    "below_zero": lambda i, m: (i - 9) // 4,
    "rest_below_zero": lambda i, m: (i - 9) % 5,
    "symbol_below_zero": lambda i, m: (i - 9) // m,
    "smaller": lambda i, m: dims.minimum(i, 2 * m),
    "larger": lambda i, m: dims.maximum(i - 3, m),
    "square": lambda i, m: i * i - m * i,
}


@on_each_target
@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_index_arithmetic(lanes: int, target: Target) -> None:
    m = dims.symbol("m")
    out = Buffer("out", i64, (len(INDEX_FORMULAS), N))
    builder = KernelBuilder()
    with builder.loop(N, "vector", lanes) as i:
        for row, formula in enumerate(INDEX_FORMULAS.values()):
            builder.store(out, (row, i), expr.index_value(formula(i, m)))
    kernel = Kernel("kernel", (out,), 1, ("n", "m"), builder.block())
    compiled = CompiledKernel(kernel, target)
    assert compiles_for_arm(kernel)
    for n in SIZES:
        (result,) = compiled(
            [np.zeros((len(INDEX_FORMULAS), n), np.int64)], {"n": n, "m": 4}
        ).arrays
        for row, formula in enumerate(INDEX_FORMULAS.values()):
            assert result[row].tolist() == [formula(i, 4) for i in range(n)], (row, n)


@on_each_target
@pytest.mark.parametrize("lanes", [4, 16, 64])
@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_masks_from_indices(name: str, lanes: int, target: Target) -> None:
    m = dims.symbol("m")
    out = Buffer("out", boolean, (3, N))
    builder = KernelBuilder()
    with builder.loop(N, "vector", lanes) as i:
        for row, (left, right) in enumerate([(i, m), (m, i), (2 * i, m + i - 1)]):
            condition = expr.binary(name, expr.index_value(left), expr.index_value(right))
            builder.store(out, (row, i), condition)
    compiled = CompiledKernel(Kernel("kernel", (out,), 1, ("n", "m"), builder.block()), target)
    compare = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}[name]
    for m_value in (0, 3, 40, 100):
        (result,) = compiled([np.zeros((3, 70), np.bool_)], {"n": 70, "m": m_value}).arrays
        for column in range(70):
            sides = [(column, m_value), (m_value, column), (2 * column, m_value + column - 1)]
            assert result[:, column].tolist() == [eval(f"{a} {compare} {b}") for a, b in sides]


@on_each_target
@pytest.mark.parametrize("lanes", [1, 8])
def test_a_checked_index_counts_from_the_end_and_reports(lanes: int, target: Target) -> None:
    table, picks = Buffer("table", f32, (5,)), Buffer("picks", i32, (N,))
    out = Buffer("out", f32, (N,))
    builder = KernelBuilder()
    with builder.loop(N, "vector", lanes) as i:
        at = expr.checked(expr.convert(picks[i], i64), 5)
        builder.store(out, (i,), table[at])
    kernel = Kernel("kernel", (table, picks, out), 1, ("n",), builder.block())
    compiled = CompiledKernel(kernel, target)
    values = np.array([10, 11, 12, 13, 14], np.float32)
    good = np.array([0, 4, -1, -5, 2, 3, 1, 0, 0, 1, -2], np.int32)
    outcome = compiled([values, good, np.zeros(11, np.float32)], {"n": 11})
    assert outcome.arrays[2].tolist() == values[good].tolist()
    assert outcome.failure == ""
    bad = np.array([0, 5, 1, -6, 2, 0, 0, 0, 0], np.int32)
    outcome = compiled([values, bad, np.zeros(9, np.float32)], {"n": 9})
    assert outcome.failure == "index out of range"
    assert outcome.arrays[2][:4].tolist() == [10, 14, 11, 10]


@on_each_target
def test_an_index_under_a_false_guard_does_not_fail(target: Target) -> None:
    table, picks, out = (
        Buffer("table", f32, (0,)),
        Buffer("picks", i64, (N,)),
        Buffer("out", f32, (N,)),
    )
    builder = KernelBuilder()
    with builder.loop(N, "vector", 8) as i:
        value = table[expr.checked(picks[i], 0)]
        builder.store(out, (i,), guarded(expr.within(i - 50, 10), value, 7.0))
    kernel = Kernel("kernel", (table, picks, out), 1, ("n",), builder.block())
    arrays: list[Array] = [
        np.zeros(0, np.float32),
        np.zeros(20, np.int64),
        np.zeros(20, np.float32),
    ]
    outcome = CompiledKernel(kernel, target)(arrays, {"n": 20})
    assert outcome.failure == ""
    assert outcome.arrays[2].tolist() == [7.0] * 20
