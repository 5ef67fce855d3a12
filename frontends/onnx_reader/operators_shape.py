"""Operators about shapes: reading them, changing them, and filling tensors of computed shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, dtype_of, f32, f64, i64
from bessemer.frontends.onnx_reader.agree import agreed_size, require_nonnegative
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule


@rule("Identity")
def read_identity(context: NodeContext) -> Item:
    return context.item(0)


@rule("Shape")
def read_shape(context: NodeContext) -> Value:
    shape = context.input(0).type.shape
    start, end = context.integer("start", 0), context.integer("end", len(shape))
    return context.builder.sizes(shape[start:end])


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
        shape[axis] = _quotient(context, x.type.numel, rest)
    for size in shape:
        if isinstance(size, int) and size < 0:
            context.wrong(f"the shape {list(wanted)} has the size {size}")
    count = dims.product(shape)
    if not isinstance(count - x.type.numel, int):
        require_nonnegative(context.builder, (count - x.type.numel, x.type.numel - count))
    return context.reshape(x, shape)


def _wanted_shape(context: NodeContext, x: Value) -> tuple[Size, ...]:
    """The shape input's entries; where all are unknown, 0 and -1 are resolved at run time."""
    known = context.known_sizes(1)
    if known is not None:
        return known
    shape = context.input(1)
    producer = context.builder.producer(shape)
    if producer is not None and producer.operator.name in ("concat", "reshape", "cast"):
        return context.sizes(1)
    (rank,) = shape.type.static_shape
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
    axis = context.integer("axis", 1)
    if not -rank <= axis <= rank:
        context.wrong(f"axis {axis} is not among the {rank} axes")
    axis = axis + rank if axis < 0 else axis
    shape = x.type.shape
    return context.reshape(x, (dims.product(shape[:axis]), dims.product(shape[axis:])))


@rule("Squeeze")
def read_squeeze(context: NodeContext) -> Value:
    x = context.input(0)
    given = context.attribute_or_input("axes", 1)
    if given is None:
        if not all(isinstance(size, int) for size in x.type.shape):
            context.unsupported(f"no axes, and {x.type} has sizes that are not known")
        axes = tuple(axis for axis, size in enumerate(x.type.shape) if size == 1)
    else:
        axes = context.axes(x.type.rank, given)
    for axis in axes:
        agreed_size(context.builder, x.type.shape[axis], 1)
    return context.reshape(
        x, [size for axis, size in enumerate(x.type.shape) if axis not in axes]
    )


@rule("Unsqueeze")
def read_unsqueeze(context: NodeContext) -> Value:
    x = context.input(0)
    given = context.attribute_or_input("axes", 1, ())
    axes = context.axes(x.type.rank + len(given or ()), given or ())
    shape = list(x.type.shape)
    for axis in axes:
        shape.insert(axis, 1)
    return context.reshape(x, shape)


@rule("Expand")
def read_expand(context: NodeContext) -> Value:
    return expanded(context, context.input(0), context.sizes(1))


def expanded(context: NodeContext, x: Value, wanted: Sequence[Size]) -> Value:
    """The tensor broadcast together with a shape: sizes of 1 on either side stretch."""
    rank = max(x.type.rank, len(wanted))
    own = (*(1,) * (rank - x.type.rank), *x.type.shape)
    target = (*(1,) * (rank - len(wanted)), *wanted)
    shape = tuple(_expanded_size(context, *sizes) for sizes in zip(own, target))
    if shape == x.type.shape:
        return x
    tail = shape[rank - x.type.rank :]
    x = context.reshape(x, [1 if s == 1 else t for s, t in zip(x.type.shape, tail)])
    return context.apply("broadcast_to", x, shape=shape)


def _expanded_size(context: NodeContext, own: Size, wanted: Size) -> Size:
    if own == 1:
        return wanted
    # A size that is not 1 stays, whether 1 or itself is asked for.
    if wanted == 1 or (isinstance(own, int) and not isinstance(wanted, int)):
        return own
    return agreed_size(context.builder, own, wanted)


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
    if all(repeat == 1 for repeat in repeats):
        return x
    pairs = list(zip(repeats, x.type.shape))
    split = context.reshape(x, [size for _, own in pairs for size in (1, own)])
    shape = tuple(size for pair in pairs for size in pair)
    repeated = context.apply("broadcast_to", split, shape=shape)
    return context.reshape(repeated, [repeat * own for repeat, own in pairs])


@rule("ConstantOfShape")
def read_constant_of_shape(context: NodeContext) -> Value:
    value = np.asarray(context.attributes.get("value", np.zeros(1, np.float32)))
    if value.size != 1:
        context.wrong(f"the value has {value.size} elements, one is wanted")
    type = TensorType(dtype_of(value), context.sizes(0))
    return context.full(type, value.reshape(-1)[0].item())


@rule("Range")
def read_range(context: NodeContext) -> Value:
    start, limit, delta = context.tensors()
    dtype = start.type.dtype
    count = _range_count(context)
    shape = (count,)
    places = context.apply("iota", shape=shape, axis=0, dtype=dtype)
    step = context.apply("broadcast_to", context.reshape(delta, ()), shape=shape)
    first = context.apply("broadcast_to", context.reshape(start, ()), shape=shape)
    return context.apply("add", first, context.apply("mul", places, step))


def _range_count(context: NodeContext) -> Size:
    """max(ceil((limit - start) / delta), 0)."""
    arrays = [context.array(position) for position in range(3)]
    known = [array.reshape(-1)[0].item() for array in arrays if array is not None]
    if len(known) == 3:
        if known[2] == 0:
            context.wrong("the step is 0")
        return max(math.ceil((known[1] - known[0]) / known[2]), 0)
    start, limit, delta = context.tensors()
    if start.type.dtype.is_integer:
        sizes = [context.known_sizes(position) for position in range(3)]
        found = [size[0] for size in sizes if size is not None]
        if len(found) == 3 and isinstance(found[2], int) and found[2] != 0:
            length = (found[1] - found[0]) if found[2] > 0 else (found[0] - found[1])
            return _at_least_zero(dims.ceildiv(length, abs(found[2])))
    working = f32 if start.type.dtype == f32 else f64
    one, other, step = (context.cast(context.reshape(v, ()), working) for v in (start, limit, delta))
    count = context.apply("ceil", context.apply("div", context.apply("sub", other, one), step))
    count = context.apply("max", count, context.like(count, 0.0))
    return context.builder.bind(context.cast(count, i64), context.symbol_prefix())[0]


def _at_least_zero(size: Size) -> Size:
    return size if dims.is_nonnegative(size) else dims.maximum(size, 0)


@rule("EyeLike")
def read_eye_like(context: NodeContext) -> Value:
    x = context.input(0)
    dtype = context.dtype("dtype", x.type.dtype)
    if x.type.rank != 2:
        context.wrong(f"the input is {x.type}, a matrix is wanted")
    rows, columns = _row_and_column(context, x.type.shape)
    shift = context.like(rows, context.integer("k", 0))
    diagonal = context.apply("eq", columns, context.apply("add", rows, shift))
    return context.cast(diagonal, dtype)


def _row_and_column(context: NodeContext, shape: tuple[Size, ...]) -> tuple[Value, Value]:
    """The index along the last two axes."""
    rank = len(shape)
    rows = context.apply("iota", shape=shape, axis=rank - 2, dtype=i64)
    return rows, context.apply("iota", shape=shape, axis=rank - 1, dtype=i64)


@rule("Trilu")
def read_trilu(context: NodeContext) -> Value:
    x = context.input(0)
    if x.type.rank < 2:
        context.wrong(f"the input is {x.type}, a matrix is wanted")
    rows, columns = _row_and_column(context, x.type.shape)
    shift = context.optional(1)
    if shift is not None:
        scalar = context.reshape(shift, ())
        rows = context.elementwise("add", rows, context.cast(scalar, i64))
    keeps = context.apply("ge" if context.integer("upper", 1) else "le", columns, rows)
    zero = context.like(x, False if x.type.dtype.kind == "b" else 0)
    return context.apply("select", keeps, x, zero)
