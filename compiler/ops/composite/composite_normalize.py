"""Normalizations. Statistics are computed in f32 at least; images are [N, *spatial, C]."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import divide_exactly, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import (
    along_axis,
    binary,
    cast,
    in_f32,
    normal_axis,
    reshape,
    scalar_like,
)
from bessemer.compiler.ops.composite.composite_reduce import mean


def standardize(
    b: GraphBuilder, x: Value, axes: Sequence[int], epsilon: float
) -> tuple[Value, Value, Value]:
    """(x - mean) / sqrt(variance + epsilon) over axes, the mean, and 1 / sqrt(variance + epsilon).

    All three in f32 if x is f16 or bf16; the statistics keep the axes with size 1.
    """
    wide = in_f32(b, x)
    center = mean(b, wide, axes, keep=True)
    distance = binary(b, "sub", wide, center)
    spread = mean(b, b.apply("mul", distance, distance), axes, keep=True)
    inverse = b.apply("rsqrt", binary(b, "add", spread, epsilon))
    return binary(b, "mul", distance, inverse), center, inverse


def scale_and_shift(b: GraphBuilder, x: Value, scale: Value | None, bias: Value | None) -> Value:
    """x * scale + bias, either of which may be missing, in x's element type."""
    if scale is not None:
        x = binary(b, "mul", x, cast(b, scale, x.type.dtype))
    return x if bias is None else binary(b, "add", x, cast(b, bias, x.type.dtype))


def layer_norm(
    b: GraphBuilder, x: Value, scale: Value | None, bias: Value | None, axes: Sequence[int],
    epsilon: float,
) -> Value:  # fmt: skip
    """x standardized over axes; scale and bias broadcast to x."""
    normal, _, _ = standardize(b, x, axes, epsilon)
    return cast(b, scale_and_shift(b, normal, scale, bias), x.type.dtype)


def rms_norm(
    b: GraphBuilder, x: Value, scale: Value | None, axes: Sequence[int], epsilon: float
) -> Value:
    """x divided by the root of its mean square over axes; scale broadcasts to x."""
    wide = in_f32(b, x)
    square = mean(b, b.apply("mul", wide, wide), axes, keep=True)
    inverse = b.apply("rsqrt", binary(b, "add", square, epsilon))
    normal = binary(b, "mul", wide, inverse)
    return cast(b, scale_and_shift(b, normal, scale, None), x.type.dtype)


def batch_norm(
    b: GraphBuilder, x: Value, scale: Value, bias: Value, center: Value, spread: Value,
    epsilon: float, axis: int = -1,
) -> Value:  # fmt: skip
    """(x - center) / sqrt(spread + epsilon) * scale + bias with statistics given for each channel.

    Written as one factor and one summand a channel, which are constants if the statistics are.
    """
    wide = in_f32(b, x)
    dtype = wide.type.dtype
    scale, bias, center, spread = (cast(b, v, dtype) for v in (scale, bias, center, spread))
    deviation = b.apply("sqrt", binary(b, "add", spread, epsilon))
    factor = binary(b, "div", scale, deviation)
    shift = binary(b, "sub", bias, binary(b, "mul", center, factor))
    place = normal_axis(axis, x.type.rank)
    factor, shift = (along_axis(b, v, place, x.type.rank) for v in (factor, shift))
    return cast(b, scale_and_shift(b, wide, factor, shift), x.type.dtype)


def norm_of_batch(
    b: GraphBuilder, x: Value, scale: Value, bias: Value, epsilon: float
) -> tuple[Value, Value, Value]:
    """x [N, *spatial, C] by the mean and the variance of each channel, scaled and shifted; both.

    The statistics are f32 if x is f16 or bf16.
    """
    wide = in_f32(b, x)
    scale, bias = (cast(b, vector, wide.type.dtype) for vector in (scale, bias))
    center, spread = b.apply_many("channel_moments", wide)
    factor = binary(b, "div", scale, b.apply("sqrt", binary(b, "add", spread, epsilon)))
    normal = b.apply("normalize_channels", wide, center, factor, bias)
    return cast(b, normal, x.type.dtype), center, spread


def instance_norm(b: GraphBuilder, x: Value, scale: Value, bias: Value, epsilon: float) -> Value:
    """Every channel of every image standardized by itself; scale and bias are [C]."""
    return layer_norm(b, x, scale, bias, range(1, x.type.rank - 1), epsilon)


def group_norm(
    b: GraphBuilder, x: Value, scale: Value, bias: Value, groups: int, epsilon: float
) -> Value:
    """Every group of channels of every image standardized by itself; scale and bias are [C]."""
    *front, channels = x.type.shape
    share = divide_exactly(channels, groups)
    if share is None:
        raise CompileError(f"group_norm of {x.type}: {groups} groups cannot share its channels.")
    grouped = reshape(b, x, (*front, groups, share))
    normal, _, _ = standardize(b, grouped, (*range(1, len(front)), len(front) + 1), epsilon)
    flat = reshape(b, normal, x.type.shape)
    return cast(b, scale_and_shift(b, flat, scale, bias), x.type.dtype)


def lrn(b: GraphBuilder, x: Value, size: int, alpha: float, beta: float, bias: float) -> Value:
    """x / (bias + alpha * mean of squares over `size` neighbouring channels) ** beta.

    Channels beyond the ends count as zeros.
    """
    wide = in_f32(b, x)
    around = _sum_of_neighbours(b, b.apply("mul", wide, wide), size)
    base = binary(b, "add", binary(b, "mul", around, alpha / size), bias)
    return cast(b, b.apply("div", wide, b.apply("pow", base, scalar_like(b, base, beta))),
                x.type.dtype)  # fmt: skip


MOST_SHIFTS = 9
"""So many neighbours are added one by one, in whatever order of axes an image lies."""


def _sum_of_neighbours(b: GraphBuilder, x: Value, size: int) -> Value:
    """The sums of `size` neighbours along the last axis; beyond its ends there are zeros."""
    *front, channels = x.type.shape
    below = (size - 1) // 2
    if size > MOST_SHIFTS:
        pooled = b.apply(
            "average_pool", reshape(b, x, (product(front), channels, 1)), kernel=(size,),
            strides=(1,), dilations=(1,), low=(below,), high=(size - 1 - below,),
            count_include_pad=True,
        )  # fmt: skip
        return binary(b, "mul", reshape(b, pooled, x.type.shape), size)
    none = (0,) * len(front)
    high = (*none, size - 1 - below)
    padded = b.apply("pad", x, low=(*none, below), high=high, mode="constant", value=0)
    total: Value | None = None
    for start in range(size):
        part = b.apply(
            "slice", padded, starts=(*none, start), shape=x.type.shape, steps=(1,) * x.type.rank
        )
        total = part if total is None else b.apply("add", total, part)
    assert total is not None
    return total
