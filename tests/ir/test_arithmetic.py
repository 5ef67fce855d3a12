"""What numbers are in the loop language: the expressions of its interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.ir import expr, functions
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import (
    Expression,
    as_index,
    binary,
    checked,
    constant,
    convert,
    index_value,
    unary,
)
from bessemer.compiler.ir.interpreter.interpret_loops import OUT_OF_RANGE
from bessemer.compiler.ir.types import (
    Array,
    DType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
    u32,
    u64,
)
from tests.ir.kernel_runs import apply, run, vector


@pytest.mark.parametrize("dtype", [i8, i16, i32, i64, u8, u32, u64], ids=str)
def test_integers_wrap(dtype: DType) -> None:
    info = np.iinfo(dtype.numpy)
    x = np.array([info.max, info.min, 5], dtype.numpy)
    y = np.array([1, 1, 7], dtype.numpy)
    for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
        for left, right in ((x, y), (x, x)):
            with np.errstate(over="ignore"):
                expected = function(left, right)
            actual = apply(lambda a, b, name=name: binary(name, a, b), left, right)
            np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(apply(lambda a: -a, x), np.negative(x))


def test_integer_division_rounds_down_or_to_zero_and_by_zero_gives_zero() -> None:
    x = np.array([7, -7, 7, -7, 3], np.int32)
    y = np.array([2, 2, -2, -2, 0], np.int32)
    expected = {
        "div": [3, -4, -4, 3, 0],
        "mod": [1, 1, -1, -1, 0],
        "trunc_div": [3, -3, -3, 3, 0],
        "fmod": [1, -1, 1, -1, 0],
    }
    for name, wanted in expected.items():
        assert apply(lambda a, b, n=name: binary(n, a, b), x, y).tolist() == wanted, name


def test_the_smallest_integer_divided_by_minus_one_wraps() -> None:
    x, y = np.array([-128], np.int8), np.array([-1], np.int8)
    for name in ("div", "trunc_div"):
        assert apply(lambda a, b, n=name: binary(n, a, b), x, y).tolist() == [-128]


def test_bits() -> None:
    x, y = np.array([0b1100, -16, 1], np.int8), np.array([0b1010, 2, 7], np.int8)
    for name, wanted in {
        "and": [0b1000, 0, 1],
        "or": [0b1110, -14, 7],
        "xor": [0b0110, -14, 6],
        "shr": [0, -4, 0],
        "shl": [0, -64, -128],
    }.items():
        assert apply(lambda a, b, n=name: binary(n, a, b), x, y).tolist() == wanted, name
    unsigned = np.array([0x80], np.uint8)
    assert apply(lambda a: binary("shr", a, 3), unsigned).tolist() == [0x10]
    assert apply(lambda a: ~a, x).tolist() == [~0b1100, 15, -2]


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_float_arithmetic_is_that_of_ieee(dtype: DType) -> None:
    x = np.array([1.1, -5.5, np.inf, np.nan, 0.0, -0.0, 3e38], dtype.numpy)
    y = np.array([3.3, 2.25, -np.inf, 1.0, 0.0, 5.0, 3e38], dtype.numpy)
    names: dict[str, Callable[..., Array]] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "mod": np.mod,
        "fmod": np.fmod,
        "min": np.minimum,
        "max": np.maximum,
    }
    for name, function in names.items():
        with np.errstate(all="ignore"):
            expected = function(x, y)
        actual = apply(lambda a, b, n=name: binary(n, a, b), x, y)
        np.testing.assert_array_equal(actual, expected, err_msg=name)
        assert actual.dtype == dtype.numpy


def test_comparisons_give_booleans_and_nan_is_like_nothing() -> None:
    x, y = np.array([1, 2, np.nan], np.float32), np.array([2, 2, np.nan], np.float32)
    for name, wanted in {
        "lt": [True, False, False],
        "le": [True, True, False],
        "eq": [False, True, False],
        "ne": [True, False, True],
        "ge": [False, True, False],
    }.items():
        result = apply(lambda a, b, n=name: binary(n, a, b), x, y)
        assert result.dtype == np.bool_
        assert result.tolist() == wanted, name
    assert apply(lambda a: unary("isnan", a), x).tolist() == [False, False, True]


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "round": round,
    "exp_nonpositive": math.exp,
}
"""Where the standard library's mathematics has no function of the same name."""


@pytest.mark.parametrize("name", functions.FLOAT_UNARY)
def test_a_function_of_one_number(name: str) -> None:
    x = np.array([1.1, 1.5, 20] if name == "acosh" else [0.1, 0.5, 0.75], np.float32)
    actual = apply(lambda a: unary(name, a), x)
    function = FUNCTIONS.get(name) or getattr(math, name)
    expected = [function(float(value)) for value in x]
    np.testing.assert_allclose(actual, expected, rtol=1e-7)
    assert actual.dtype == np.float32


def test_halves_round_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert apply(lambda a: unary("round", a), x).tolist() == [0, 2, 2, 0, -2]


def test_powers() -> None:
    x, y = np.array([2, -1, 3, 0, -2], np.int32), np.array([10, -3, -1, 0, 31], np.int32)
    expected = [1024, -1, 0, 1, -(2**31)]
    assert apply(lambda a, b: binary("pow", a, b), x, y).tolist() == expected
    floats = np.array([2.0, 0.25], np.float32), np.array([-1.0, 0.5], np.float32)
    assert apply(lambda a, b: binary("pow", a, b), *floats).tolist() == [0.5, 0.5]


def test_casts_to_integers_cut_and_saturate() -> None:
    x = np.array([1.9, -1.9, 300, -300, np.nan, np.inf, -np.inf], np.float32)
    expected: dict[DType, list[Any]] = {
        i8: [1, -1, 127, -128, 0, 127, -128],
        u8: [1, 0, 255, 0, 0, 255, 0],
        i64: [1, -1, 300, -300, 0, 2**63 - 1, -(2**63)],
        boolean: [True] * 7,
    }
    for dtype, wanted in expected.items():
        assert apply(lambda a, d=dtype: convert(a, d), x).tolist() == wanted


def test_casts_of_integers() -> None:
    x = np.array([300, -1, 2**31 + 1, 2**62 + 1], np.int64)
    for dtype in (i8, u8, i32, u64, f32, f64):
        actual = apply(lambda a, d=dtype: convert(a, d), x)
        np.testing.assert_array_equal(actual, x.astype(dtype.numpy))
    assert apply(lambda a: convert(a, boolean), np.array([0, 5, -1])).tolist() == [0, 1, 1]
    assert apply(lambda a: convert(a, i32), np.array([True, False])).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_half_types_are_computed_in_f32_and_rounded_when_stored(dtype: DType) -> None:
    x = np.array([1.0, 0.1, 300.0], dtype.numpy)
    y = np.array([2**-12, 0.2, 300.0], dtype.numpy)
    wide_x, wide_y = x.astype(np.float32), y.astype(np.float32)
    sum_then_difference = apply(lambda a, b: (a + b) - a, x, y)
    expected = ((wide_x + wide_y) - wide_x).astype(dtype.numpy)
    np.testing.assert_array_equal(sum_then_difference, expected)
    # Rounded in between, the small number would be lost.
    assert float(sum_then_difference[0]) == 2**-12
    cast = apply(lambda a, b: convert(convert(a + b, f64), dtype) - a, x, y)
    assert float(cast[0]) == 0


def test_constants_are_rounded_to_their_type() -> None:
    x = np.zeros(1, ml_dtypes.bfloat16)
    value = apply(lambda a: convert(a + constant(0.1, bf16), f32), x)
    assert float(value[0]) == float(np.array(0.1).astype(ml_dtypes.bfloat16))


def test_select_evaluates_both_sides() -> None:
    x = np.array([1, 5, -9], np.int64)

    def rule(index: Expression) -> Expression:
        safe = index_value(checked(index, 3))
        return expr.select(index < 3, safe, constant(7, i64))

    builder, source, out = KernelBuilder(), vector("x", i64, 3), vector("out", i64, 3)
    with builder.loop(3) as i:
        builder.store(out, (i,), rule(source[i]))
    result = run(builder, [source], [out], [x])
    assert result.outputs[0].tolist() == [1, 7, 0]
    assert result.failures == (OUT_OF_RANGE,)


def test_shared_expressions_cost_once() -> None:
    """A tree of 2**60 leaves that is a chain of 60 nodes."""

    def doubled(x: Expression) -> Expression:
        for _ in range(60):
            x = x + x
        return x

    assert apply(doubled, np.array([3])).tolist() == [3 * 2**60]


def test_an_index_may_be_computed() -> None:
    x = np.array([3, 1, 2, 0, 4], np.int64)
    builder, source, out = KernelBuilder(), vector("x", i64), vector("out", i64)
    with builder.loop(5) as i:
        builder.store(out, (as_index(source[i]),), source[(as_index(source[i]) + 1) % 5])
    result = run(builder, [source], [out], [x])
    assert result.outputs[0].tolist() == [x[(k + 1) % 5] for k in range(5)]
