"""uniform and normal: random numbers that depend on nothing but the seed, the step and the place.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
the key is the seed, the counter is the element's position and the step. So numbers are the same
on every machine and however the work is split. An optional i64 scalar input is the step (of a
training run, say); without it every run gives the same numbers.
"""

from __future__ import annotations

import math

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    Index,
    binary,
    constant,
    convert,
    index_value,
    unary,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    Array,
    DType,
    TensorType,
    bf16,
    f16,
    f32,
    f64,
    i32,
    i64,
    u64,
)
from bessemer.compiler.ops.check import listed, require, require_dtype

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


def philox(counter: tuple[Expression, ...], seed: int) -> tuple[Expression, ...]:
    """The generator's four words for a counter of four; all are u64 below 2**32."""
    a, b, c, d = counter
    for turn in range(_ROUNDS):
        low_key, high_key = _keys(seed, turn)
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b = _high(right) ^ b ^ low_key, right & _WORD
        c, d = _high(left) ^ d ^ high_key, left & _WORD
    return a, b, c, d


def _high(product: Expression) -> Expression:
    return binary("shr", product, 32)


def _keys(seed: int, turn: int) -> tuple[int, int]:
    return (seed + turn * _WEYL[0]) & _WORD, ((seed >> 32) + turn * _WEYL[1]) & _WORD


def philox_reference(counter: Array, seed: int) -> Array:
    """`philox` on arrays [..., 4] of uint64."""
    a, b, c, d = np.moveaxis(counter.astype(np.uint64), -1, 0)
    word, half = np.uint64(_WORD), np.uint64(32)
    for turn in range(_ROUNDS):
        low_key, high_key = map(np.uint64, _keys(seed, turn))
        left, right = a * np.uint64(_MULTIPLIERS[0]), c * np.uint64(_MULTIPLIERS[1])
        a, b, c, d = (
            (right >> half) ^ b ^ low_key,
            right & word,
            (left >> half) ^ d ^ high_key,
            left & word,
        )
    return np.stack([a, b, c, d], axis=-1)


# The words of an element


def _words(
    index: Index, shape: tuple[Size, ...], step: Expression, seed: int
) -> tuple[Expression, ...]:
    place = convert(index_value(Buffer("", f32, shape).offset(index)), u64)
    when = convert(step, u64)
    return philox((place & _WORD, _high(place), when & _WORD, _high(when)), seed)


def _words_reference(shape: tuple[int, ...], step: int, seed: int) -> Array:
    place = np.arange(math.prod(shape), dtype=np.uint64)
    word, half = np.uint64(_WORD), np.uint64(32)
    when = np.full_like(place, np.array(step, np.int64).astype(np.uint64))
    counter = np.stack([place & word, place >> half, when & word, when >> half], axis=-1)
    return philox_reference(counter, seed)


def _fraction(high: Expression, low: Expression, dtype: DType) -> Expression:
    """A number of [0, 1) from one word (24 bits of it) or, for f64, two (53 bits)."""
    if dtype is f64:
        bits = binary("shr", high * (1 << 32) + low, 11)
        return convert(convert(bits, i64), f64) * 2.0**-53
    # By way of i32, from which vectors convert fast.
    return convert(convert(binary("shr", high, 8), i32), f32) * 2.0**-24


def _fraction_reference(high: Array, low: Array, dtype: DType) -> Array:
    if dtype is f64:
        return np.asarray(((high << np.uint64(32) | low) >> np.uint64(11)) * 2.0**-53)
    return np.asarray((high >> np.uint64(8)) * 2.0**-24)


def _check(
    name: str, step: tuple[TensorType, ...], shape: tuple[Size, ...], dtype: DType
) -> TensorType:
    require(
        len(step) <= 1 and all(type == TensorType(i64, ()) for type in step),
        f"{name} wants an i64 scalar, the step, or no input at all, but got {listed(step)}.",
    )
    result = TensorType(dtype, tuple(shape))
    require_dtype(name, result, FLOATS)
    return result


def _step(operands: tuple[Operand, ...]) -> Expression:
    return operands[0][()] if operands else constant(0, i64)


# uniform


def _uniform_infer(
    *step: TensorType,
    shape: tuple[Size, ...],
    dtype: DType = f32,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
) -> TensorType:
    """Evenly distributed from `low` up to but without `high` (which rounding may reach)."""
    return _check("uniform", step, shape, dtype)


def _uniform_reference(
    *step: Array,
    shape: tuple[int, ...],
    dtype: DType = f32,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
) -> Array:
    words = _words_reference(shape, int(step[0]) if step else 0, seed)
    fraction = _fraction_reference(words[:, 0], words[:, 1], dtype)
    return np.asarray((low + (high - low) * fraction).reshape(shape).astype(dtype.numpy))


def _uniform_element(
    *step: Operand,
    index: Index,
    shape: tuple[Size, ...],
    dtype: DType = f32,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
) -> Expression:
    words = _words(index, shape, _step(step), seed)
    return convert(_fraction(words[0], words[1], dtype) * (high - low) + low, dtype)


register(
    Operator(
        "uniform",
        _uniform_infer,
        _uniform_reference,
        _uniform_element,
        gradient=None,
        examples=(
            Example((), {"shape": (3, 7)}),
            Example((), {"shape": (11,), "seed": -(2**40) + 5, "low": -3.0, "high": 2.5}),
            Example((np.array(2**33 + 1),), {"shape": (2, 1, 3), "seed": 7}),
            Example((), {"shape": (9,), "dtype": f64}, tolerance=1e-12),
            Example((), {"shape": (9,), "dtype": f16, "seed": 1}, tolerance=2e-3),
            Example((), {"shape": ()}),
        ),
        is_random=True,
    )
)


# normal


def _normal_infer(
    *step: TensorType,
    shape: tuple[Size, ...],
    dtype: DType = f32,
    seed: int = 0,
    mean: float = 0.0,
    scale: float = 1.0,
) -> TensorType:
    """Normally distributed with a mean and a standard deviation (Box & Muller's transform)."""
    return _check("normal", step, shape, dtype)


def _normal_reference(
    *step: Array,
    shape: tuple[int, ...],
    dtype: DType = f32,
    seed: int = 0,
    mean: float = 0.0,
    scale: float = 1.0,
) -> Array:
    words = _words_reference(shape, int(step[0]) if step else 0, seed)
    one, other = (0, 2) if dtype is f64 else (0, 1)
    radius = 1 - _fraction_reference(words[:, one], words[:, 1], dtype)
    turn = _fraction_reference(words[:, other], words[:, 3], dtype)
    found = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * turn)
    return np.asarray((mean + scale * found).reshape(shape).astype(dtype.numpy))


def _normal_element(
    *step: Operand,
    index: Index,
    shape: tuple[Size, ...],
    dtype: DType = f32,
    seed: int = 0,
    mean: float = 0.0,
    scale: float = 1.0,
) -> Expression:
    words = _words(index, shape, _step(step), seed)
    other = words[2] if dtype is f64 else words[1]
    # 1 - x is exact and never 0, whose logarithm would be infinite.
    radius = unary("sqrt", unary("log", 1 - _fraction(words[0], words[1], dtype)) * -2.0)
    found = radius * unary("cos", _fraction(other, words[3], dtype) * (2 * math.pi))
    return convert(found * scale + mean, dtype)


register(
    Operator(
        "normal",
        _normal_infer,
        _normal_reference,
        _normal_element,
        gradient=None,
        examples=(
            Example((), {"shape": (3, 7)}),
            Example((), {"shape": (11,), "seed": 2**63 - 1, "mean": -3.0, "scale": 0.5}),
            Example((np.array(5),), {"shape": (2, 1, 3), "seed": 7}),
            Example((), {"shape": (9,), "dtype": f64}, tolerance=1e-12),
            Example((), {"shape": (9,), "dtype": bf16, "seed": 1}, tolerance=2e-2),
            Example((), {"shape": (0, 2)}),
        ),
        is_random=True,
    )
)
