"""Pooling over windows or whole images."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.compiler.ops.composite.composite import binary, size_as
from bessemer.compiler.ops.composite.composite_shape import (
    from_channels_last,
    slice_axis,
    to_channels_last,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.windows import Window, read_window


def _window(context: NodeContext) -> Window:
    x = context.input(0)
    if x.type.rank < 3:
        context.wrong(f"the input is {x.type}, an image [N, C, ...] is wanted")
    kernel: tuple[Size, ...] = context.integers("kernel_shape")
    return read_window(context, x.type.shape[2:], kernel)


def _pooled(context: NodeContext, window: Window, pool: Callable[[Value, Window], Value]) -> Value:
    """What `pool` makes of an image whose channels are last.

    Axes in front whose windows have one element are channels, where there is only one: a pool that
    takes every fourth channel is written as one of [N, 1, C, H, W] with a kernel of 1x3x3.
    """
    b, x = context.builder, context.input(0)
    count = window.single
    if x.type.shape[1] != 1 or not 0 < count < len(window.kernel):
        return from_channels_last(b, pool(to_channels_last(b, x), window))
    for axis, step in enumerate(window.strides[:count], start=2):
        size = dims.floordiv(x.type.shape[axis] - 1, step) + 1
        x = slice_axis(b, x, axis, 0, size, step)
    batch, _, *sizes = x.type.shape
    channels, spatial = sizes[:count], sizes[count:]
    image = to_channels_last(b, context.reshape(x, (batch, dims.product(channels), *spatial)))
    result = from_channels_last(b, pool(image, window.behind(count)))
    return context.reshape(result, (batch, 1, *channels, *result.type.shape[2:]))


@rule("MaxPool")
def read_max_pool(context: NodeContext) -> list[Value]:
    window = _window(context)
    pooled = _pooled(
        context, window, lambda x, inner: context.apply("max_pool", x, **inner.attributes)
    )
    if len([name for name in context.node.output if name]) < 2:
        return [pooled]
    return [pooled, _places_of_maxima(context, window, pooled)]


def _places_of_maxima(context: NodeContext, window: Window, pooled: Value) -> Value:
    """For each maximum its flat index in the input, which is [N, C, *spatial]."""
    b = context.builder
    x = context.input(0)
    rank = x.type.rank
    if not all(isinstance(k, int) for k in window.kernel) or dims.product(window.kernel) > 256:  # type: ignore[operator]
        context.unsupported("the second output, Indices, of a window of over 256 elements")
    low = (0, 0, *window.low)
    high = (0, 0, *window.high)
    lowest = x.type.dtype.lowest
    padded = b.apply("pad", x, low=low, high=high, mode="constant", value=lowest)
    best: Value | None = None
    places: Value | None = None
    for tap in itertools.product(*(range(int(k)) for k in window.kernel)):  # type: ignore[arg-type]
        starts = (0, 0, *(t * d for t, d in zip(tap, window.dilations)))
        seen = b.apply(
            "slice", padded, starts=starts, shape=pooled.type.shape, steps=(1, 1, *window.strides)
        )
        here = _flat_index(context, pooled, window, starts[2:])
        if best is None or places is None:
            best, places = seen, here
            continue
        better = b.apply("gt", seen, best)
        if x.type.dtype.is_float:  # NaN is a maximum, as in max_pool
            better = b.apply("or", better, b.apply("isnan", seen))
        best = b.apply("select", better, seen, best)
        places = b.apply("select", better, here, places)
    assert places is not None and rank > 2
    return places


def _flat_index(
    context: NodeContext, pooled: Value, window: Window, starts: tuple[Size, ...]
) -> Value:
    """The input's flat index of one tap of every window; `starts` count from the padding's begin.

    Where the first tap sees padding, it is the next one's inside, whose value may be as low.
    """
    b = context.builder
    shape = context.input(0).type.shape
    # storage_order 1 counts the spatial axes of an image from the first, 0 from the last.
    spatial = list(range(2, len(shape)))
    order = [0, 1, *(reversed(spatial) if context.integer("storage_order", 0) else spatial)]
    total: Value | None = None
    factor: Size = 1
    for axis in reversed(order):
        place = b.apply("iota", shape=pooled.type.shape, axis=axis, dtype=i64)
        if axis >= 2:
            place = binary(b, "mul", place, window.strides[axis - 2])
            offset = starts[axis - 2] - window.low[axis - 2]
            place = b.apply("add", place, size_as(b, offset, i64, pooled.type.shape))
            if not any(starts):
                inside = binary(b, "mod", place, window.dilations[axis - 2])
                place = b.apply("max", place, inside)
        scaled = b.apply("mul", place, size_as(b, factor, i64, pooled.type.shape))
        total = scaled if total is None else b.apply("add", total, scaled)
        factor = factor * shape[axis]
    assert total is not None
    return total


@rule("MaxUnpool")
def read_max_unpool(context: NodeContext) -> Value:
    """Puts each element at the flat index that MaxPool gave, among zeros."""
    b = context.builder
    x, places = context.input(0), context.input(1)
    spatial = x.type.shape[2:]
    kernel = context.integers("kernel_shape")
    count = len(kernel)
    strides = context.integers("strides", (1,) * count)
    pads = context.integers("pads", (0,) * 2 * count)
    if len(spatial) != count or len(strides) != count or len(pads) != 2 * count:
        context.wrong(f"kernel, strides and pads do not fit {x.type}")
    unpooled = tuple(
        (size - 1) * stride + k - pads[at] - pads[at + count]
        for at, (size, stride, k) in enumerate(zip(spatial, strides, kernel))
    )
    shape = (*x.type.shape[:2], *unpooled)
    zeros = context.full(x.type.with_shape((dims.product(shape),)), 0)
    flat = (x.type.numel,)
    filled = b.apply(
        "scatter_elements",
        zeros,
        context.reshape(places, flat),
        context.reshape(x, flat),
        axis=0,
        reduction="none",
    )
    result = context.reshape(filled, shape)
    if context.optional(2) is None:
        return result
    wanted = context.sizes(2)
    high = tuple(size - own for size, own in zip(wanted, shape, strict=True))
    low = (0,) * len(shape)
    return b.apply("pad", result, low=low, high=high, mode="constant", value=0)


@rule("AveragePool")
def read_average_pool(context: NodeContext) -> Value:
    return _pooled(context, _window(context), partial(averaged, context))


def averaged(context: NodeContext, x: Value, window: Window) -> Value:
    """Means of windows; channels are last."""
    return context.apply(
        "average_pool",
        x,
        **window.attributes,
        count_include_pad=bool(context.integer("count_include_pad", 0)),
        uncounted=window.uncounted if any(size != 0 for size in window.uncounted) else (),
    )


def _norm(context: NodeContext) -> float:
    p = context.number("p", 2.0)
    if not p > 0:
        context.wrong(f"p is {p}")
    return p


@rule("LpPool")
def read_lp_pool(context: NodeContext) -> Value:
    b, norm = context.builder, _norm(context)
    return _pooled(
        context,
        _window(context),
        lambda x, inner: composite_reduce.lp_pool(b, x, norm, **inner.attributes),
    )


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def read_global_pool(context: NodeContext) -> Value:
    b = context.builder
    x = to_channels_last(b, context.input(0))
    match context.node.op_type:
        case "GlobalAveragePool":
            result = composite_reduce.global_average_pool(b, x)
        case "GlobalMaxPool":
            result = composite_reduce.global_max_pool(b, x)
        case _:
            result = composite_reduce.global_lp_pool(b, x, _norm(context))
    return from_channels_last(b, result)
