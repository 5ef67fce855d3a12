"""Operators about shapes: reading them, changing them, and filling tensors of computed shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, format_size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, dtype_of, i64
from bessemer.compiler.ops.composite import composite_shape
from bessemer.frontends.onnx_reader import limits
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.divisible_axes import cut_to, left_size, split_sizes
from bessemer.frontends.onnx_reader.equal_sizes import (
    MustChooseError,
    agreed_size,
    broadcast_size,
    broadcast_value,
    require_nonnegative,
)
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule


@rule("Identity")
def read_identity(context: NodeContext) -> Item:
    return context.item(0)


@rule("Shape")
def read_shape(context: NodeContext) -> Value:
    shape = context.input(0).type.shape
    start, end = context.integer("start", 0), context.integer("end", len(shape))
    return context.builder.dimensions(shape[start:end])


@rule("Size")
def read_size(context: NodeContext) -> Value:
    return context.builder.scalar_size(context.input(0).type.numel)


@rule("Reshape")
def read_reshape(context: NodeContext) -> Value:
    x = context.input(0)
    if context.opset < 5:
        wanted: tuple[Size, ...] = context.integers("shape")
    else:
        wanted = _wanted_shape(context, x)
    shape = list(wanted)
    if not context.integer("allowzero", 0):
        for axis, size in enumerate(shape):
            if size == 0:
                if axis >= x.type.rank:
                    context.wrong(f"size {axis} is copied from {x.type}, which has fewer axes")
                shape[axis] = x.type.shape[axis]
    unknown = [axis for axis, size in enumerate(shape) if size == -1]
    if len(unknown) > 1:
        context.wrong(f"the shape {list(wanted)} leaves {len(unknown)} sizes open")
    for axis in unknown:
        rest = dims.product(size for at, size in enumerate(shape) if at != axis)
        left = left_size(x.type.shape, shape)
        shape[axis] = _quotient(context, x.type.numel, rest) if left is None else left
    for size in shape:
        if isinstance(size, int) and size < 0:
            context.wrong(f"the shape {list(wanted)} has the size {size}")
    count = dims.product(shape)
    if not isinstance(count - x.type.numel, int):
        equation = f"{format_size(count)} = {format_size(x.type.numel)} elements"
        difference = count - x.type.numel
        require_nonnegative(context.builder, (difference, -1 * difference), equation)
        x = cut_to(context, x, split_sizes(x.type.shape, shape))
    return context.reshape(x, shape)


def _wanted_shape(context: NodeContext, x: Value) -> tuple[Size, ...]:
    """The shape input's entries; where all are unknown, 0 and -1 are resolved at run time."""
    shape = context.input(1)
    rank = context.length_at(1)
    if rank > limits.RANK:
        context.wrong(f"the shape has {rank} entries")
    known = context.known_sizes(1)
    if known is not None:
        return known
    producer = context.builder.producer(shape)
    if producer is not None and producer.operator.name in ("concat", "reshape", "cast"):
        return context.sizes(1)
    shape = context.cast(shape, i64)
    if not context.integer("allowzero", 0):
        own = (*x.type.shape, *(1,) * rank)[:rank]
        is_zero = context.apply("eq", shape, context.like(shape, 0))
        shape = context.apply("select", is_zero, context.builder.sizes(own), shape)
    is_open = context.apply("eq", shape, context.like(shape, -1))
    given = context.apply("select", is_open, context.like(shape, 1), shape)
    rest = context.elementwise(
        "trunc_div",
        context.builder.scalar_size(x.type.numel),
        context.apply("reduce_prod", given, axes=(0,)),
    )
    rest = context.apply("broadcast_to", rest, shape=(rank,))
    resolved = context.apply("select", is_open, rest, shape)
    return context.builder.bind(resolved, context.symbol_prefix())


def _quotient(context: NodeContext, count: Size, rest: Size) -> Size:
    if rest == 0:
        context.wrong("a size is left open beside a size of 0")
    if isinstance(rest, int) and isinstance(count, int) and count % rest:
        context.wrong(f"{count} elements do not fit into multiples of {rest}")
    exact = dims.divide_exactly(count, rest)
    return dims.floordiv(count, rest) if exact is None else exact


@rule("Flatten")
def read_flatten(context: NodeContext) -> Value:
    x = context.input(0)
    rank = x.type.rank
    axis = context.integer("axis")
    if not -rank <= axis <= rank:
        context.wrong(f"axis {axis} is not among the {rank} axes")
    axis = axis + rank if axis < 0 else axis
    shape = x.type.shape
    return context.reshape(x, (dims.product(shape[:axis]), dims.product(shape[axis:])))


@rule("Squeeze")
def read_squeeze(context: NodeContext) -> Value:
    x = context.input(0)
    given = context.axes_given()
    if given is None:
        axes = _axes_of_one(context, x)
    else:
        axes = context.axes(x.type.rank, given)
    for axis in axes:
        agreed_size(context.builder, x.type.shape[axis], 1)
    return context.reshape(x, [size for axis, size in enumerate(x.type.shape) if axis not in axes])


def _axes_of_one(context: NodeContext, x: Value) -> tuple[int, ...]:
    """All axes of size 1; those of unknown size are all, or none of them, taken to be 1."""
    shape = x.type.shape
    known = [axis for axis, size in enumerate(shape) if size == 1]
    unknown = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    if not unknown:
        return tuple(known)
    are_one = context.subgraphs.choice(context.label)
    if are_one is None:
        raise MustChooseError(context.label, first=False)
    if are_one:
        return tuple(sorted([*known, *unknown]))
    require_nonnegative(context.builder, [shape[axis] - 2 for axis in unknown])
    return tuple(known)


@rule("Unsqueeze")
def read_unsqueeze(context: NodeContext) -> Value:
    x = context.input(0)
    given = context.axes_given() or ()
    axes = context.axes(x.type.rank + len(given), given)
    shape = list(x.type.shape)
    for axis in axes:
        shape.insert(axis, 1)
    return context.reshape(x, shape)


@rule("ExpandDims", domain="com.microsoft")
def read_expand_dims(context: NodeContext) -> Value:
    """Unsqueeze along one axis."""
    x = context.input(0)
    (axis,) = context.axes(x.type.rank + 1, context.integers_at(1, "axis"))
    return context.reshape(x, (*x.type.shape[:axis], 1, *x.type.shape[axis:]))


@rule("Expand")
def read_expand(context: NodeContext) -> Value:
    return expanded(context, context.input(0), context.lengths(context.sizes(1)))


def expanded(context: NodeContext, x: Value, wanted: Sequence[Size]) -> Value:
    """The tensor broadcast together with a shape: sizes of 1 on either side stretch."""
    rank = max(x.type.rank, len(wanted))
    own = (*(1,) * (rank - x.type.rank), *x.type.shape)
    target = (*(1,) * (rank - len(wanted)), *wanted)
    shape = tuple(_expanded_size(context, *sizes) for sizes in zip(own, target))
    if shape == x.type.shape:
        return x
    return broadcast_value(context.builder, x, shape)


def _expanded_size(context: NodeContext, own: Size, wanted: Size) -> Size:
    if own == 1:
        return wanted
    # A size that is not 1 stays, whether 1 or itself is asked for.
    if wanted == 1 or (isinstance(own, int) and not isinstance(wanted, int)):
        return own
    return broadcast_size(context.builder, own, wanted)


@rule("Tile")
def read_tile(context: NodeContext) -> Value:
    x = context.input(0)
    if context.opset < 6:
        axis = context.axis(x.type.rank, context.integers_at(2, "an axis")[0])
        repeats: list[Size] = [1] * x.type.rank
        repeats[axis] = context.sizes(1)[0]
    else:
        repeats = list(context.sizes(1))
    if len(repeats) != x.type.rank:
        context.wrong(f"{len(repeats)} repeats for {x.type}")
    return composite_shape.tile(context.builder, x, repeats)


@rule("ConstantOfShape")
def read_constant_of_shape(context: NodeContext) -> Value:
    value = np.asarray(context.attributes.get("value", np.zeros(1, np.float32)))
    if value.size != 1:
        context.wrong(f"the value has {value.size} elements, one is wanted")
    if value.dtype == object:
        context.wrong("the value is a string, a number is wanted")
    type = TensorType(dtype_of(value), tuple(context.lengths(context.sizes(0))))
    return context.full(type, value.reshape(-1)[0].item())


@rule("Range")
def read_range(context: NodeContext) -> Value:
    by = context.array(2)
    if by is not None and not by.any():
        context.wrong("the step is 0")
    count = _known_count(context)
    if count is None:
        return composite_shape.arange(context.builder, *context.tensors())
    start, _, delta = context.tensors()
    places = context.apply("iota", shape=(count,), axis=0, dtype=start.type.dtype)
    step, first = (
        context.apply("broadcast_to", context.reshape(value, ()), shape=(count,))
        for value in (delta, start)
    )
    return context.apply("add", context.apply("mul", places, step), first)


_PARTS = 4
"""Starts between integers are known where they are quarters, which floats of sizes hold exactly."""


def _known_count(context: NodeContext) -> Size | None:
    """ceil((limit - start) / delta) where these are sizes, be it as floats, and delta a number."""
    limit, delta = (_known_size(context, position) for position in (1, 2))
    if limit is None or not isinstance(delta, int) or delta == 0:
        return None
    start = _known_start(context, delta)
    if start is None:
        return None
    distance = limit - start if delta > 0 else start - limit
    count = dims.ceildiv(distance, abs(delta))
    return count if dims.is_nonnegative(count) else dims.maximum(count, 0)


def _known_size(context: NodeContext, position: int) -> Size | None:
    known = context.known_sizes(position)
    return known[0] if known is not None and len(known) == 1 else None


def _known_start(context: NodeContext, delta: int) -> Size | None:
    """Where a range starts, or the integer before it, from which as many steps are taken: the
    centres of pixels start at 0.5."""
    known = _known_size(context, 0)
    if known is not None:
        return known
    array = context.array(0)
    if array is None or array.size != 1 or not np.isfinite(array).all():
        return None
    number = float(array.reshape(-1)[0])
    if number * _PARTS % 1:
        return None
    return math.floor(number) if delta > 0 else math.ceil(number)


@rule("EyeLike")
def read_eye_like(context: NodeContext) -> Value:
    x = context.input(0)
    dtype = context.dtype("dtype", x.type.dtype)
    if x.type.rank != 2:
        context.wrong(f"the input is {x.type}, a matrix is wanted")
    rows, columns = x.type.shape
    return composite_shape.eye(context.builder, rows, columns, context.integer("k"), dtype)


@rule("Trilu")
def read_trilu(context: NodeContext) -> Value:
    shift = context.optional(1)
    upper = bool(context.integer("upper", 1))
    return composite_shape.trilu(
        context.builder, context.input(0), 0 if shift is None else shift, upper
    )
