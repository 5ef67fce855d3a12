"""Quantization: integers that stand for (integer - zero_point) * scale.

A scale is a scalar (one for the tensor), a vector (one for each index of `axis`), or, with a block
size, a tensor like x whose axis is as many times shorter.
"""

from __future__ import annotations

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, bf16, f16, f32, i32, u8
from bessemer.compiler.ops.composite.composite import (
    along_axis,
    binary,
    broadcast_to,
    cast,
    in_f32,
    normal_axis,
    reshape,
    scalar_like,
    where,
)
from bessemer.compiler.ops.composite.composite_reduce import reduce
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.compiler.ops.composite.composite_small import small_cast
from bessemer.compiler.ops.narrow_types import FORMATS, WIDTHS, integer_range


def quantize_linear(
    b: GraphBuilder, x: Value, scale: Value, zero_point: Value | None = None, *, axis: int = 1,
    block: int = 0, dtype: DType = u8, saturate: bool = True,
) -> Value:  # fmt: skip
    """round(x / scale) + zero_point, to even at ties, kept within the range of the result's type.

    That type is the zero point's if there is one, else `dtype`. A small float is rounded to that
    type only; `saturate` is as in `small_cast`.
    """
    if zero_point is not None:
        dtype = zero_point.type.dtype
    whole = x.type.shape
    parameters = [one for one in (scale, zero_point) if one is not None]
    if block and all(one.type.rank == x.type.rank for one in parameters):
        x, scale, zero_point, axis = _with_blocks(b, x, scale, zero_point, axis, block)
    wide = in_f32(b, cast(b, x, f32) if x.type.dtype.is_integer else x)
    spread = _spread(b, cast(b, scale, wide.type.dtype), x, axis, block)
    steps = b.apply("div", wide, spread)
    if dtype not in FORMATS:
        steps = b.apply("round", steps)
    if zero_point is not None:
        zero = _spread(b, cast(b, zero_point, wide.type.dtype), x, axis, block)
        steps = b.apply("add", steps, zero)
    if dtype in WIDTHS:
        low, high = integer_range(dtype)
        steps = binary(b, "max", binary(b, "min", steps, high), low)
    # The cast to larger integers saturates.
    return reshape(b, small_cast(b, steps, dtype, saturate), whole)


def _with_blocks(
    b: GraphBuilder, x: Value, scale: Value, zero_point: Value | None, axis: int, block: int
) -> tuple[Value, Value, Value | None, int]:
    """The same with blocks as an axis of their own, if all are full: along the one behind it, a
    scale is one number."""
    place, shape = normal_axis(axis, x.type.rank), x.type.shape
    blocks = scale.type.shape[place]
    if shape[place] != blocks * block:
        return x, scale, zero_point, axis

    def with_axis(value: Value, size: int) -> Value:
        after = shape[place + 1 :]
        return reshape(b, value, (*shape[:place], blocks, size, *after))

    zero = None if zero_point is None else with_axis(zero_point, 1)
    return with_axis(x, block), with_axis(scale, 1), zero, place + 1


def dequantize_linear(
    b: GraphBuilder, x: Value, scale: Value, zero_point: Value | None = None, *, axis: int = 1,
    block: int = 0,
) -> Value:  # fmt: skip
    """(x - zero_point) * scale, in the scale's type; f16 and bf16 are computed in f32."""
    dtype = scale.type.dtype
    working = f32 if dtype in (f16, bf16) else dtype
    # 32 bits do not fit into f32: there the difference is taken before the conversion.
    exact = i32 if x.type.dtype == i32 else working
    steps = cast(b, x, exact)
    if zero_point is not None:
        zero = _spread(b, cast(b, zero_point, exact), x, axis, block)
        steps = b.apply("sub", steps, zero)
    spread = _spread(b, cast(b, scale, working), x, axis, block)
    return cast(b, b.apply("mul", cast(b, steps, working), spread), dtype)


def _spread(b: GraphBuilder, parameter: Value, x: Value, axis: int, block: int) -> Value:
    """A scale or zero point for every element of x."""
    rank = x.type.rank
    if parameter.type.rank == 0 or parameter.type.shape == (1,):
        return broadcast_to(b, reshape(b, parameter, ()), x.type.shape)
    place = normal_axis(axis, rank)
    if block == 0:
        if parameter.type.rank != 1:
            raise CompileError(
                f"a scale or zero point is a scalar or a vector where there is no block size, but "
                f"it is {parameter.type}."
            )
        return broadcast_to(b, along_axis(b, parameter, place, rank), x.type.shape)
    shape = list(parameter.type.shape)
    blocks = shape[place]
    split = reshape(b, parameter, [*shape[:place], blocks, 1, *shape[place + 1 :]])
    wide = broadcast_to(b, split, [*shape[:place], blocks, block, *shape[place + 1 :]])
    shape[place] = blocks * block
    whole = slice_axis(b, reshape(b, wide, shape), place, 0, x.type.shape[place])
    return broadcast_to(b, whole, x.type.shape)


def dynamic_quantize_linear(b: GraphBuilder, x: Value) -> tuple[Value, Value, Value]:
    """x as u8, with the scale (f32) and zero point (u8) that cover its range and 0."""
    axes = range(x.type.rank)
    highest = b.apply("relu", reduce(b, "max", x, axes))
    lowest = reduce(b, "min", x, axes)
    lowest = b.apply("min", lowest, scalar_like(b, lowest, 0.0))
    distance = b.apply("sub", highest, lowest)
    # A tensor of zeros has no range; any scale is right for it.
    is_flat = binary(b, "eq", distance, 0.0)
    scale = where(b, is_flat, 1.0, binary(b, "div", distance, 255.0))
    offset = b.apply("div", b.apply("neg", lowest), scale)
    zero_point = cast(b, b.apply("round", offset), u8)
    return quantize_linear(b, x, scale, zero_point), scale, zero_point
