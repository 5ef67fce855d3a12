"""Compositions around reductions: means, variances, softmax, norms over axes, pools of everything.

Axes may be counted from the end. f16 and bf16 are computed in f32 and rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import (
    binary,
    cast,
    in_f32,
    normal_axes,
    reshape,
    scalar_like,
    size_as,
    where,
)


def reduce(b: GraphBuilder, name: str, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """reduce_<name>; `keep` leaves the reduced axes with size 1."""
    found = normal_axes(axes, x.type.rank)
    result = b.apply(f"reduce_{name}", x, axes=found) if found else x
    if not keep:
        return result
    return reshape(b, result, [1 if a in found else s for a, s in enumerate(x.type.shape)])


def _count(x: Value, axes: Sequence[int]) -> Size:
    return product(x.type.shape[axis] for axis in normal_axes(axes, x.type.rank))


def mean(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """The mean over axes; that of integers is cut towards zero."""
    total = reduce(b, "sum", in_f32(b, x), axes, keep)
    count = size_as(b, _count(x, axes), total.type.dtype, total.type.shape)
    result = b.apply("div" if x.type.dtype.is_float else "trunc_div", total, count)
    return cast(b, result, x.type.dtype)


def variance(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """The biased variance: the mean squared distance from the mean."""
    wide = in_f32(b, x)
    distance = binary(b, "sub", wide, mean(b, wide, axes, keep=True))
    return cast(b, mean(b, b.apply("mul", distance, distance), axes, keep), x.type.dtype)


def _exponentials(b: GraphBuilder, x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    """x minus its maximum, and exp of that."""
    shifted = binary(b, "sub", x, reduce(b, "max", x, axes, keep=True))
    return shifted, b.apply("exp", shifted)


def softmax(b: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    """exp(x) divided by its sum over the axes."""
    _, powers = _exponentials(b, in_f32(b, x), axes)
    result = binary(b, "div", powers, reduce(b, "sum", powers, axes, keep=True))
    return cast(b, result, x.type.dtype)


def log_softmax(b: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    """The logarithm of softmax."""
    shifted, powers = _exponentials(b, in_f32(b, x), axes)
    total = b.apply("log", reduce(b, "sum", powers, axes, keep=True))
    return cast(b, binary(b, "sub", shifted, total), x.type.dtype)


def logsumexp(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """log(sum(exp(x))) over axes."""
    wide = in_f32(b, x)
    highest = reduce(b, "max", wide, axes, keep=True)
    # Infinity minus infinity is not a number: an infinite maximum is not subtracted.
    shift = where(b, b.apply("isinf", highest), 0.0, highest)
    powers = b.apply("exp", binary(b, "sub", wide, shift))
    total = b.apply("log", reduce(b, "sum", powers, axes, keep=True))
    result = cast(b, binary(b, "add", total, shift), x.type.dtype)
    if keep:
        return result
    gone = normal_axes(axes, x.type.rank)
    return reshape(b, result, [s for a, s in enumerate(x.type.shape) if a not in gone])


def l1_norm(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """The sum of magnitudes over axes."""
    return reduce(b, "sum", b.apply("abs", x), axes, keep)


def sum_square(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """The sum of squares over axes."""
    wide = in_f32(b, x)
    return cast(b, reduce(b, "sum", b.apply("mul", wide, wide), axes, keep), x.type.dtype)


def l2_norm(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool = False) -> Value:
    """The root of the sum of squares over axes; x is of floats."""
    return cast(b, b.apply("sqrt", sum_square(b, in_f32(b, x), axes, keep)), x.type.dtype)


def lp_normalize(b: GraphBuilder, x: Value, axis: int, p: int) -> Value:
    """x divided by its norm along an axis (p is 1 or 2); zeros stay zeros."""
    wide = in_f32(b, x)
    norm = (l1_norm if p == 1 else l2_norm)(b, wide, (axis,), keep=True)
    is_zero = binary(b, "eq", norm, 0.0)
    return cast(b, binary(b, "div", wide, where(b, is_zero, 1.0, norm)), x.type.dtype)


# Pools of [N, *spatial, C]


def _spatial(x: Value) -> range:
    return range(1, x.type.rank - 1)


def global_average_pool(b: GraphBuilder, x: Value) -> Value:
    """The mean over all spatial axes, which keep size 1."""
    return mean(b, x, _spatial(x), keep=True)


def global_max_pool(b: GraphBuilder, x: Value) -> Value:
    """The maximum over all spatial axes, which keep size 1."""
    return reduce(b, "max", x, _spatial(x), keep=True)


def _power(b: GraphBuilder, x: Value, p: float) -> Value:
    """|x| to the power p."""
    match p:
        case 1:
            return b.apply("abs", x)
        case 2:
            return b.apply("mul", x, x)
        case _:
            magnitude = b.apply("abs", x)
            return b.apply("pow", magnitude, scalar_like(b, x, p))


def _root(b: GraphBuilder, x: Value, p: float) -> Value:
    match p:
        case 1:
            return x
        case 2:
            return b.apply("sqrt", x)
        case _:
            return b.apply("pow", x, scalar_like(b, x, 1 / p))


def global_lp_pool(b: GraphBuilder, x: Value, p: float) -> Value:
    """The p-norm over all spatial axes, which keep size 1."""
    powers = _power(b, in_f32(b, x), p)
    total = reduce(b, "sum", powers, _spatial(x), keep=True)
    return cast(b, _root(b, total, p), x.type.dtype)


def lp_pool(
    b: GraphBuilder, x: Value, p: float, *, kernel: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...], high: tuple[Size, ...],
) -> Value:  # fmt: skip
    """The p-norm of what each window sees; pads are zeros."""
    powers = _power(b, in_f32(b, x), p)
    average = b.apply(
        "average_pool", powers, kernel=kernel, strides=strides, dilations=dilations, low=low,
        high=high, count_include_pad=True,
    )  # fmt: skip
    total = b.apply("mul", average, size_as(b, product(kernel), average.type.dtype,
                                            average.type.shape))  # fmt: skip
    return cast(b, _root(b, total, p), x.type.dtype)
