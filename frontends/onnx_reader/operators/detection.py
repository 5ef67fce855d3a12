"""Operators of detection nets: sampling where data says, pools over boxes, boxes kept."""

from __future__ import annotations

import math

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ops.composite.composite_shape import from_channels_last, to_channels_last
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import (
    agreed_size,
    require_elements,
    with_shape,
    with_size,
)
from bessemer.frontends.onnx_reader.operators.index import indices_at
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.windows import read_window

_SAMPLING = {"bilinear": "linear", "linear": "linear", "nearest": "nearest",
             "bicubic": "cubic", "cubic": "cubic"}  # fmt: skip


def _image(context: NodeContext) -> Value:
    """The first input, [N, C, *spatial], with its channels last."""
    return to_channels_last(context.builder, context.input(0))


@rule("GridSample")
def read_grid_sample(context: NodeContext) -> Value:
    mode = context.text("mode", "linear")
    if mode not in _SAMPLING:
        context.wrong(f"mode is {mode!r}")
    x = _image(context)
    grid = context.cast(context.input(1), x.type.dtype)
    if grid.type.rank < 2:
        context.wrong(f"the grid is {grid.type}, positions for each image are wanted")
    grid = with_size(context.builder, grid, -1, x.type.rank - 2, "one for each axis of an image")
    grid = with_size(context.builder, grid, 0, x.type.shape[0], "the number of images")
    padding = context.text("padding_mode", "zeros")
    if padding != "zeros":
        pixels = x.type.shape[1:-1]
        require_elements(context.builder, pixels, (1,) * len(pixels))
    result = context.apply(
        "grid_sample",
        x,
        grid,
        mode=_SAMPLING[mode],
        padding=padding,
        align_corners=bool(context.integer("align_corners", 0)),
    )
    return from_channels_last(context.builder, result)


@rule("RoiAlign")
def read_roi_align(context: NodeContext) -> Value:
    # Before opset 16, elements had their centres at whole coordinates.
    old = "output_half_pixel" if context.opset < 16 else "half_pixel"
    coordinates = context.text("coordinate_transformation_mode", old)
    result = context.apply(
        "roi_align",
        _image(context),
        context.input(1),
        indices_at(context, 2),
        shape=(context.integer("output_height"), context.integer("output_width")),
        samples=context.integer("sampling_ratio"),
        scale=context.number("spatial_scale"),
        mode=context.text("mode"),
        half_pixel=coordinates == "half_pixel",
    )
    return from_channels_last(context.builder, result)


@rule("MaxRoiPool")
def read_max_roi_pool(context: NodeContext) -> Value:
    height, width = context.integers("pooled_shape")
    scale = context.number("spatial_scale")
    result = context.apply(
        "max_roi_pool", _image(context), context.input(1), shape=(height, width), scale=scale
    )
    return from_channels_last(context.builder, result)


@rule("NonMaxSuppression")
def read_non_max_suppression(context: NodeContext) -> Value:
    boxes, scores = context.input(0), context.input(1)
    if boxes.type.rank == scores.type.rank == 3:
        batch, count, width = boxes.type.shape
        batch = agreed_size(context.builder, batch, scores.type.shape[0])
        count = agreed_size(context.builder, count, scores.type.shape[2])
        boxes = with_shape(context.builder, boxes, (batch, count, width))
        scores = with_shape(context.builder, scores, (batch, scores.type.shape[1], count))
    limit: Size = 0
    most = context.optional(2)
    if most is not None:
        # Fewer than none are none, as onnxruntime has it.
        (most_size,) = context.sizes_in(context.elementwise("max", most, context.like(most, 0)))
        limit = dims.minimum(most_size, boxes.type.shape[1])
    thresholds = []
    for position, default in ((3, 0.0), (4, -math.inf)):
        given = context.optional(position)
        scalar = TensorType(f32, ())
        thresholds.append(
            context.full(scalar, default) if given is None else context.reshape(given, ())
        )
    return context.apply(
        "non_max_suppression",
        boxes,
        scores,
        *thresholds,
        limit=limit,
        symbol=context.builder.fresh_symbol("kept_"),
        center=bool(context.integer("center_point_box")),
    )


@rule("DeformConv")
def read_deform_conv(context: NodeContext) -> Value:
    b = context.builder
    x, weight, offset = context.input(0), context.input(1), context.input(2)
    rank = x.type.rank
    if weight.type.rank != rank or offset.type.rank != rank:
        context.wrong(f"the input is {x.type}, the weight {weight.type}, offsets {offset.type}")
    window = read_window(context, x.type.shape[2:], weight.type.shape[2:])
    groups = context.integer("group")
    x = with_size(b, x, 1, weight.type.shape[1] * groups)
    mask = context.optional(4)
    result = b.apply(
        "deform_conv",
        to_channels_last(b, x),
        context.transpose(weight, (*range(2, rank), 1, 0)),
        to_channels_last(b, offset),
        *([] if mask is None else [to_channels_last(b, mask)]),
        **window.steps,
        groups=groups,
        offset_groups=context.integer("offset_group"),
    )
    bias = context.optional(3)
    if bias is not None:
        result = context.elementwise("add", result, bias)
    return from_channels_last(b, result)


@rule("Col2Im")
def read_col2im(context: NodeContext) -> Value:
    """[N, C * kernel, blocks] becomes [N, *blocks, *kernel, C] first."""
    x = context.input(0)
    image, kernel = context.sizes(1), context.sizes(2)
    rank = len(image)
    strides = context.integers("strides", (1,) * rank)
    dilations = context.integers("dilations", (1,) * rank)
    pads = context.integers("pads", (0,) * 2 * rank)
    if x.type.rank != 3 or len(kernel) != rank or len(pads) != 2 * rank:
        context.wrong(f"the input is {x.type}, the image {list(image)}, blocks {list(kernel)}")
    blocks = tuple(
        dims.floordiv(size + low + high - (k - 1) * dilation - 1, stride) + 1
        for size, k, stride, dilation, low, high in zip(
            image, kernel, strides, dilations, pads[:rank], pads[rank:], strict=True
        )
    )
    channels = dims.divide_exactly(x.type.shape[1], dims.product(kernel))
    if channels is None:
        context.wrong(f"the channels of {x.type} are not made of blocks {list(kernel)}")
    split = context.reshape(x, (x.type.shape[0], channels, *kernel, *blocks))
    order = (0, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank), 1)
    result = context.apply(
        "col2im",
        context.transpose(split, order),
        image=image,
        strides=strides,
        dilations=dilations,
        low=tuple(pads[:rank]),
    )
    return from_channels_last(context.builder, result)
