"""CropAndResize of com.microsoft: boxes of images, sampled to one size."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32, i64
from bessemer.compiler.ops.composite.composite import binary, size_as, where
from bessemer.compiler.ops.composite.composite_shape import (
    from_channels_last,
    slice_axis,
    to_channels_last,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.operators.index import indices_at
from bessemer.frontends.onnx_reader.registry import rule


@rule("CropAndResize", domain="com.microsoft")
def read_crop_and_resize(context: NodeContext) -> Value:
    """The corners of a box [y, x, y, x], in parts of the image, are the outer samples' places."""
    mode = context.text("mode", "bilinear")
    if mode not in ("bilinear", "nearest"):
        context.wrong(f"mode is {mode!r}")
    b, x = context.builder, to_channels_last(context.builder, context.input(0))
    boxes = context.input(1)
    if boxes.type.rank != 2 or x.type.rank != 4:
        context.wrong(f"boxes {boxes.type} of images {x.type}")
    images = with_size(b, indices_at(context, 2), 0, boxes.type.shape[0])
    crop = context.integers_at(3, "crop_size")
    if len(crop) != 2 or min(crop) < 1:
        context.wrong(f"crop_size is {list(crop)}")
    down, right = (
        _places(context, boxes, axis, crop[axis], x.type.shape[1 + axis]) for axis in range(2)
    )
    sampled = _nearest if mode == "nearest" else _bilinear
    found = sampled(context, x, images, (down, right))
    rows, columns = (
        _is_inside(context, places, size)
        for places, size in zip((down, right), x.type.shape[1:3], strict=True)
    )
    inside = context.elementwise("and", _down(context, rows), _right(context, columns))
    inside = context.reshape(inside, (*inside.type.shape, 1))
    outside = context.number("extrapolation_value", 0.0)
    return from_channels_last(b, where(b, inside, found, outside))


def _places(context: NodeContext, boxes: Value, axis: int, count: int, size: Size) -> Value:
    """Where in an axis of an image the samples of each box are, [boxes, count]."""
    b, shape = context.builder, (boxes.type.shape[0], 1)
    first, last = (slice_axis(b, boxes, 1, axis + side, 1) for side in (0, 2))
    length = size_as(b, size - 1, f32, shape)
    if count == 1:
        middle = binary(b, "mul", context.apply("add", first, last), 0.5)
        return context.apply("mul", middle, length)
    extent = context.apply("mul", context.apply("sub", last, first), length)
    step = binary(b, "div", extent, float(count - 1))
    steps = context.apply("iota", shape=(1, count), axis=1, dtype=f32)
    begin = context.apply("mul", first, length)
    return context.elementwise("add", begin, context.elementwise("mul", steps, step))


def _is_inside(context: NodeContext, places: Value, size: Size) -> Value:
    last = size_as(context.builder, size - 1, f32, places.type.shape)
    above = context.apply("ge", places, context.like(places, 0.0))
    return context.apply("and", above, context.apply("le", places, last))


def _down(context: NodeContext, places: Value) -> Value:
    return context.reshape(places, (*places.type.shape, 1))


def _right(context: NodeContext, places: Value) -> Value:
    boxes, count = places.type.shape
    return context.reshape(places, (boxes, 1, count))


def _nearest(context: NodeContext, x: Value, images: Value, places: tuple[Value, Value]) -> Value:
    rows, columns = (
        context.apply("floor", binary(context.builder, "add", place, 0.5)) for place in places
    )
    return _pixels(context, x, images, rows, columns)


def _bilinear(context: NodeContext, x: Value, images: Value, places: tuple[Value, Value]) -> Value:
    """Between the four pixels around each place."""
    low = [context.apply("floor", place) for place in places]
    high = [context.apply("ceil", place) for place in places]
    down, right = (
        context.apply("sub", place, below) for place, below in zip(places, low, strict=True)
    )
    shares = _down(context, down), _right(context, right)
    down, right = (context.reshape(share, (*share.type.shape, 1)) for share in shares)
    upper, lower = (
        _mixed(
            context,
            _pixels(context, x, images, rows, low[1]),
            _pixels(context, x, images, rows, high[1]),
            right,
        )
        for rows in (low[0], high[0])
    )
    return _mixed(context, upper, lower, down)


def _mixed(context: NodeContext, one: Value, other: Value, share: Value) -> Value:
    share = context.cast(share, one.type.dtype)
    step = context.elementwise("mul", context.apply("sub", other, one), share)
    return context.apply("add", one, step)


def _pixels(context: NodeContext, x: Value, images: Value, rows: Value, columns: Value) -> Value:
    """The pixels [boxes, down, right, channels] of images [batch, height, width, channels] in rows
    [boxes, down] and columns [boxes, right]; places outside are taken to the border."""
    batch, height, width, channels = x.type.shape
    # A look-up refuses images that are not there.
    known = context.apply("iota", shape=(batch,), axis=0, dtype=i64)
    image = context.apply("gather", known, images, axis=0)
    image = context.reshape(image, (images.type.shape[0], 1, 1))
    row = _down(context, _whole(context, rows, height))
    column = _right(context, _whole(context, columns, width))
    row = context.elementwise("add", _times(context, image, height), row)
    place = context.elementwise("add", _times(context, row, width), column)
    flat = context.reshape(x, (dims.product((batch, height, width)), channels))
    return context.apply("gather", flat, place, axis=0)


def _whole(context: NodeContext, places: Value, size: Size) -> Value:
    last = size_as(context.builder, size - 1, f32, places.type.shape)
    inside = context.apply("max", places, context.like(places, 0.0))
    return context.cast(context.apply("min", inside, last), i64)


def _times(context: NodeContext, x: Value, size: Size) -> Value:
    return context.apply("mul", x, size_as(context.builder, size, i64, x.type.shape))
