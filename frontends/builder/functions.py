"""Functions of tensors, for networks written as plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, f32, i64
from bessemer.compiler.ops.composite import (
    composite,
    composite_einsum,
    composite_reduce,
    composite_shape,
)
from bessemer.frontends.builder.tensor import Operand, Tensor, as_dtype, binary, operand, unary

# Pointwise


def exp(x: Tensor) -> Tensor:
    """e to the power x."""
    return unary("exp", x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return unary("log", x)


def sqrt(x: Tensor) -> Tensor:
    """The square root."""
    return unary("sqrt", x)


def sin(x: Tensor) -> Tensor:
    """The sine of radians."""
    return unary("sin", x)


def cos(x: Tensor) -> Tensor:
    """The cosine of radians."""
    return unary("cos", x)


def erf(x: Tensor) -> Tensor:
    """The error function."""
    return unary("erf", x)


def minimum(x: Operand, y: Operand) -> Tensor:
    """The smaller of two, place by place."""
    return binary("min", x, y)


def maximum(x: Operand, y: Operand) -> Tensor:
    """The greater of two, place by place."""
    return binary("max", x, y)


def clip(x: Tensor, minimum: float, maximum: float) -> Tensor:
    """Kept between two bounds, either of which may be infinite."""
    return x.with_value(x.builder.apply("clip", x.value, minimum=minimum, maximum=maximum))


def equal(x: Operand, y: Operand) -> Tensor:
    """Where two are equal."""
    return binary("eq", x, y)


def not_equal(x: Operand, y: Operand) -> Tensor:
    """Where two are not equal."""
    return binary("ne", x, y)


def where(condition: Tensor, then: Operand, otherwise: Operand) -> Tensor:
    """`then` where the condition is true, else `otherwise`; all three broadcast."""
    like = next((each for each in (then, otherwise) if isinstance(each, Tensor)), None)
    if like is None:
        raise CompileError("where wants a tensor as one of its branches at least.")
    chosen = composite.where(
        like.builder, condition.value, operand(then, like), operand(otherwise, like)
    )
    return like.with_value(chosen)


# Making tensors


def full(like: Tensor, shape: Sequence[Size], value: float, dtype: DType | str = f32) -> Tensor:
    """One number everywhere, in the network of `like`."""
    made = like.builder.apply("full", shape=tuple(shape), value=value, dtype=as_dtype(dtype))
    return like.with_value(made)


def arange(like: Tensor, count: Size, dtype: DType | str = i64) -> Tensor:
    """0, 1, ... count - 1, in the network of `like`; the count may be a symbol."""
    made = like.builder.apply("iota", shape=(count,), axis=0, dtype=as_dtype(dtype))
    return like.with_value(made)


def one_hot(x: Tensor, classes: Size, dtype: DType | str = f32) -> Tensor:
    """A new last axis with 1 at the place that the integer says."""
    values = x.builder.constant([0, 1])
    off_on = composite.cast(x.builder, values, as_dtype(dtype))
    return x.with_value(x.builder.apply("one_hot", x.value, off_on, depth=classes, axis=x.rank))


# Shapes


def _values(tensors: Sequence[Tensor]) -> list[Value]:
    if not tensors:
        raise CompileError("There is nothing to join: give one tensor at least.")
    return [tensor.value for tensor in tensors]


def concat(tensors: Sequence[Tensor], axis: int | None = None) -> Tensor:
    """One after the other along an axis; along the channels if none is named."""
    values = _values(tensors)
    first = tensors[0]
    place = first.channel_axis if axis is None else axis
    return first.with_value(composite_shape.concat(first.builder, values, place))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Along a new axis."""
    values = _values(tensors)
    return tensors[0].with_value(composite_shape.stack(tensors[0].builder, values, axis))


def split(x: Tensor, parts: int | Sequence[Size], axis: int = -1) -> tuple[Tensor, ...]:
    """Equal parts, or parts of given sizes, along an axis."""
    cut = composite_shape.split_evenly if isinstance(parts, int) else composite_shape.split
    pieces = cut(x.builder, x.value, parts, axis)  # type: ignore[arg-type]
    return tuple(x.with_value(piece) for piece in pieces)


def squeeze(x: Tensor, *axes: int) -> Tensor:
    """Without the axes, which have size 1."""
    return x.with_value(composite_shape.squeeze(x.builder, x.value, axes or None))


def unsqueeze(x: Tensor, *axes: int) -> Tensor:
    """With new axes of size 1, at these places of the result."""
    return x.with_value(composite_shape.unsqueeze(x.builder, x.value, axes))


def tile(x: Tensor, *repeats: Size) -> Tensor:
    """Repeated whole along each axis."""
    return x.with_value(composite_shape.tile(x.builder, x.value, repeats))


def flip(x: Tensor, axis: int) -> Tensor:
    """In reverse order along an axis."""
    return x.with_value(composite_shape.flip(x.builder, x.value, axis))


def pad(
    x: Tensor, low: Sequence[Size], high: Sequence[Size],
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant", value: float = 0.0,
) -> Tensor:  # fmt: skip
    """With more elements before and after along each axis; negative entries crop."""
    number = value if x.dtype.is_float else int(value)
    padded = x.builder.apply(
        "pad", x.value, low=tuple(low), high=tuple(high), mode=mode, value=number
    )
    return x.with_value(padded)


# Contractions and reductions


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """The matrix product over the last two axes, the others broadcasting."""
    return x @ y


def einsum(equation: str, *tensors: Tensor) -> Tensor:
    """Sums of products, as NumPy's einsum writes them."""
    values = _values(tensors)
    return tensors[0].with_value(composite_einsum.einsum(tensors[0].builder, equation, *values))


def logsumexp(x: Tensor, axis: int = -1, keep: bool = False) -> Tensor:
    """log(sum(exp(x))) along an axis, without overflow."""
    return x.with_value(composite_reduce.logsumexp(x.builder, x.value, (axis,), keep))


def arg_max(x: Tensor, axis: int = -1) -> Tensor:
    """The place of the greatest element along an axis, the first of equals."""
    place = composite.normal_axis(axis, x.rank)
    return x.with_value(x.builder.apply("arg_max", x.value, axis=place, last=False))


def arg_min(x: Tensor, axis: int = -1) -> Tensor:
    """The place of the least element along an axis, the first of equals."""
    place = composite.normal_axis(axis, x.rank)
    return x.with_value(x.builder.apply("arg_min", x.value, axis=place, last=False))


def cumulative_sum(x: Tensor, axis: int = -1) -> Tensor:
    """Sums of all elements up to each."""
    place = composite.normal_axis(axis, x.rank)
    return x.with_value(x.builder.apply("cumulative", x.value, axis=place, reduction="add"))


def top_k(x: Tensor, k: Size, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k greatest elements along an axis in falling order, and their places."""
    place = composite.normal_axis(axis, x.rank)
    values, indices = x.builder.apply_many("top_k", x.value, k=k, axis=place, largest=True)
    return x.with_value(values), x.with_value(indices)


def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Slices of x at the indices along an axis."""
    place = composite.normal_axis(axis, x.rank)
    return x.with_value(x.builder.apply("gather", x.value, indices.value, axis=place))
