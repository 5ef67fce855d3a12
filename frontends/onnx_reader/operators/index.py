"""Operators that read or write at places that data names, and those that sort or count."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, boolean, i32, i64
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import (
    agreed_size,
    require_nonnegative,
    with_shape,
    with_size,
)
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.blocks import gathered_rows
from bessemer.frontends.onnx_reader.operators.move import concatenated
from bessemer.frontends.onnx_reader.registry import rule


def indices_at(context: NodeContext, position: int) -> Value:
    """An input of indices, in a type that our operators take."""
    value = context.input(position)
    return value if value.type.dtype in (i32, i64) else context.cast(value, i64)


@rule("Gather")
def read_gather(context: NodeContext) -> Value:
    x = context.input(0)
    axis = context.axis(x.type.rank)
    rows = gathered_rows(context, x, indices_at(context, 1)) if axis == 0 else None
    if rows is not None:
        return rows
    known = context.array(1)
    if known is not None and known.size == 1 and known.ndim <= 1:
        return _gather_one(context, x, axis, int(known.reshape(-1)[0]), known.ndim)
    return context.apply("gather", x, indices_at(context, 1), axis=axis)


def _gather_one(context: NodeContext, x: Value, axis: int, place: int, rank: int) -> Value:
    """One known place is a view."""
    shape = x.type.shape
    size = shape[axis]
    if not isinstance(size, int):
        # The axis may be too short: that is for the running code to find out.
        return context.apply("gather", x, indices_at(context, 1), axis=axis)
    if not -size <= place < size:
        context.wrong(f"index {place} on axis {axis} of {x.type}")
    start: Size = place % size
    one = context.apply(
        "slice",
        x,
        starts=tuple(start if at == axis else 0 for at in range(len(shape))),
        shape=tuple(1 if at == axis else own for at, own in enumerate(shape)),
        steps=(1,) * len(shape),
    )
    return one if rank == 1 else context.reshape(one, (*shape[:axis], *shape[axis + 1 :]))


@rule("GatherElements")
def read_gather_elements(context: NodeContext) -> Value:
    x = context.input(0)
    axis = context.axis(x.type.rank)
    indices = indices_at(context, 1)
    _require_inside(context, indices, x, axis)
    return context.apply("gather_elements", x, indices, axis=axis)


@rule("GatherND")
def read_gather_nd(context: NodeContext) -> Value:
    batch = context.integer("batch_dims", 0)
    return context.apply("gather_nd", context.input(0), indices_at(context, 1), batch_dims=batch)


def _reduction(context: NodeContext) -> str:
    return str(context.attributes.get("reduction", "none"))


@rule("ScatterElements", "Scatter")
def read_scatter_elements(context: NodeContext) -> Value:
    x = context.input(0)
    axis = context.axis(x.type.rank)
    indices, updates = _of_one_count(context, x.type.rank)
    _require_inside(context, indices, x, axis)
    return context.apply(
        "scatter_elements", x, indices, updates, axis=axis, reduction=_reduction(context)
    )


def _require_inside(context: NodeContext, indices: Value, x: Value, axis: int) -> None:
    """Along all other axes there are no more indices than there is data."""
    if indices.type.rank != x.type.rank:
        return  # the operator tells what it wants
    pairs = [*zip(x.type.shape, indices.type.shape)]
    rest = [most - size for place, (most, size) in enumerate(pairs) if place != axis]
    if any(isinstance(left, int) and left < 0 for left in rest):
        context.wrong(f"indices {indices.type} go beyond {x.type} along another axis than {axis}")
    wanted = f"indices {indices.type} within {x.type} along all axes but {axis}"
    require_nonnegative(context.builder, rest, wanted)


@rule("ScatterND")
def read_scatter_nd(context: NodeContext) -> Value:
    b, x, count = context.builder, context.input(0), context.input(1).type.rank - 1
    indices, updates = _of_one_count(context, count)
    depth = indices.type.shape[-1]
    if isinstance(depth, int) and updates.type.rank == count + x.type.rank - depth:
        pairs = zip(x.type.shape[depth:], updates.type.shape[count:])
        row = tuple(agreed_size(b, one, other) for one, other in pairs)
        x = with_shape(b, x, (*x.type.shape[:depth], *row))
        updates = with_shape(b, updates, (*updates.type.shape[:count], *row))
    return context.apply("scatter_nd", x, indices, updates, reduction=_reduction(context))


def _of_one_count(context: NodeContext, rank: int) -> tuple[Value, Value]:
    """A scatter's indices and updates; their first `rank` sizes, how many there are, agree."""
    b, indices, updates = context.builder, indices_at(context, 1), context.input(2)
    pairs = zip(indices.type.shape[:rank], updates.type.shape)
    count = tuple(agreed_size(b, one, other) for one, other in pairs)
    rest = len(count)
    return (
        with_shape(b, indices, (*count, *indices.type.shape[rest:])),
        with_shape(b, updates, (*count, *updates.type.shape[rest:])),
    )


@rule("TensorScatter")
def read_tensor_scatter(context: NodeContext) -> Value:
    """Writes the update into the cache from each sample's position on, along an axis."""
    b, past, update = context.builder, context.input(0), context.input(1)
    axis = context.axis(past.type.rank)
    if axis == 0 or update.type.rank != past.type.rank:
        context.wrong(f"an update {update.type} of a cache {past.type} along axis {axis}")
    size, length = past.type.shape[axis], update.type.shape[axis]
    shape = tuple(
        size if place == axis else agreed_size(b, size, update.type.shape[place])
        for place, size in enumerate(past.type.shape)
    )
    past = with_shape(b, past, shape)
    update = with_shape(b, update, (*shape[:axis], length, *shape[axis + 1 :]))
    positions = context.optional(2)
    if positions is None:
        positions = context.full(TensorType(i64, (shape[0],)), 0)
    else:
        positions = with_size(b, positions, 0, shape[0])
    mode = context.text("mode")
    return context.apply("tensor_scatter", past, positions, update, axis=axis, size=size, mode=mode)


@rule("OneHot")
def read_one_hot(context: NodeContext) -> Value:
    indices = context.cast(context.input(0), i64)
    (depth,) = context.lengths(context.sizes_in(context.cast(context.input(1), i64)))
    axis = context.axis(indices.type.rank + 1)
    return context.apply("one_hot", indices, context.input(2), depth=depth, axis=axis)


@rule("NonZero")
def read_non_zero(context: NodeContext) -> Value:
    x = context.input(0)
    if x.type.rank and _is_full(context, x):
        # How exporters count: the places of ones, in the shape that is to be counted through.
        whole = dims.product(x.type.shape)
        places = [
            context.apply("iota", shape=x.type.shape, axis=axis, dtype=i64)
            for axis in range(x.type.rank)
        ]
        return concatenated(context, [context.reshape(row, (1, whole)) for row in places], 0)
    symbol = context.builder.fresh_symbol("nonzero_")
    if x.type.rank == 0:
        x = context.reshape(x, (1,))
        found = context.apply("nonzero", x, symbol=symbol)
        return context.reshape(found, (0, found.type.shape[1]))
    return context.apply("nonzero", x, symbol=symbol)


def _is_full(context: NodeContext, x: Value) -> bool:
    """Whether every element is known to be something else than zero."""
    node = context.builder.producer(x)
    if node is not None and node.operator.name == "full":
        return bool(node.attributes["value"])
    known = context.array(0)
    return known is not None and bool(known.all())


@rule("Compress")
def read_compress(context: NodeContext) -> Value:
    x, condition = context.input(0), context.input(1)
    if not context.has("axis"):
        x = context.reshape(x, (x.type.numel,))
    axis = context.axis(x.type.rank, context.integer("axis", 0))
    symbol = context.builder.fresh_symbol("compress_")
    found = context.apply("nonzero", condition, symbol=symbol)
    places = context.reshape(found, found.type.shape[1:])
    return context.apply("gather", x, places, axis=axis)


@rule("TopK")
def read_top_k(context: NodeContext) -> list[Value]:
    x = context.input(0)
    axis = context.axis(x.type.rank)
    k: Size = context.integer("k") if context.opset < 10 else context.sizes(1)[0]
    largest = bool(context.integer("largest", 1))
    values, places = context.builder.apply_many("top_k", x, k=k, axis=axis, largest=largest)
    return [values, places]


@rule("ArgMax", "ArgMin")
def read_arg_max(context: NodeContext) -> Value:
    x = context.input(0)
    axis = context.axis(x.type.rank)
    operator = "arg_max" if context.node.op_type == "ArgMax" else "arg_min"
    last = bool(context.integer("select_last_index", 0))
    found = context.apply(operator, x, axis=axis, last=last)
    if not context.integer("keepdims"):
        return found
    return context.reshape(found, (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :]))


@rule("CumSum", "CumProd")
def read_cumulative(context: NodeContext) -> Value:
    x = context.input(0)
    if x.type.dtype is boolean:
        # Not ONNX, but what PyTorch writes for a sum of truths, which is one of integers there.
        x = context.cast(x, i64)
    (axis,) = context.integers_at(1, "an axis")
    return context.apply(
        "cumulative",
        x,
        axis=context.axis(x.type.rank, axis),
        reduction="add" if context.node.op_type == "CumSum" else "mul",
        exclusive=bool(context.integer("exclusive")),
        reverse=bool(context.integer("reverse")),
    )


@rule("Unique")
def read_unique(context: NodeContext) -> list[Item]:
    """Along an axis, each slice is one row of a matrix."""
    x = context.input(0)
    symbol = context.builder.fresh_symbol("unique_")
    ordered = bool(context.integer("sorted"))
    if not context.has("axis"):
        flat = context.reshape(x, (x.type.numel,))
        return list(context.builder.apply_many("unique", flat, symbol=symbol, ordered=ordered))
    axis = context.axis(x.type.rank)
    order = (axis, *(at for at in range(x.type.rank) if at != axis))
    moved = context.transpose(x, order)
    shape = moved.type.shape
    rows = context.reshape(moved, (shape[0], dims.product(shape[1:])))
    found, *rest = context.builder.apply_many("unique", rows, symbol=symbol, ordered=ordered)
    found = context.reshape(found, (found.type.shape[0], *shape[1:]))
    back = tuple(int(at) for at in np.argsort(order))
    return [context.transpose(found, back), *rest]


@rule("Unique", domain="com.microsoft")
def read_plain_unique(context: NodeContext) -> list[Item]:
    """In the order in which elements are first met, without where that is."""
    x = context.input(0)
    symbol = context.builder.fresh_symbol("unique_")
    flat = context.reshape(x, (x.type.numel,))
    found, _, *rest = context.builder.apply_many("unique", flat, symbol=symbol, ordered=False)
    return [found, *rest]


@rule("ArrayFeatureExtractor", domain="ai.onnx.ml")
def read_array_feature_extractor(context: NodeContext) -> Value:
    x, places = context.input(0), indices_at(context, 1)
    flat = context.reshape(places, (places.type.numel,))
    found = context.apply("gather", x, flat, axis=x.type.rank - 1)
    return context.reshape(found, (1, *found.type.shape)) if found.type.rank == 1 else found
