"""Operators on images and boxes that ONNX has under the same names."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import i64
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import integers_of, unsupported
from bessemer.frontends.onnx_writer.registry import rule
from bessemer.frontends.onnx_writer.storage import to_channels_first, to_channels_last


def _image(emitter: Emitter, x: Value) -> str:
    return emitter.ordered(x, to_channels_first(x.type.rank))


def _store_image(emitter: Emitter, node: Node, name: str) -> None:
    emitter.store(node.output, name, to_channels_last(node.output.type.rank))


@rule("grid_sample")
def write_grid_sample(emitter: Emitter, node: Node) -> None:
    x, grid = node.inputs
    if grid.type.rank != x.type.rank:
        raise unsupported(node, "ONNX wants a grid of as many axes as the image has.")
    sampled = emitter.one(
        "GridSample",
        _image(emitter, x),
        emitter.name_of(grid),
        mode=node.attributes.get("mode", "linear"),
        padding_mode=node.attributes.get("padding", "zeros"),
        align_corners=int(node.attributes.get("align_corners", False)),
    )
    _store_image(emitter, node, sampled)


@rule("roi_align")
def write_roi_align(emitter: Emitter, node: Node) -> None:
    x, boxes, images = node.inputs
    rows, columns = integers_of(node, "shape")
    half_pixel = node.attributes.get("half_pixel", True)
    aligned = emitter.one(
        "RoiAlign",
        _image(emitter, x),
        emitter.name_of(boxes),
        emitter.cast(emitter.name_of(images), i64),
        output_height=rows,
        output_width=columns,
        sampling_ratio=node.attributes.get("samples", 0),
        spatial_scale=float(node.attributes.get("scale", 1.0)),
        mode=node.attributes.get("mode", "avg"),
        coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel",
    )
    _store_image(emitter, node, aligned)


@rule("max_roi_pool")
def write_max_roi_pool(emitter: Emitter, node: Node) -> None:
    x, boxes = node.inputs
    pooled = emitter.one(
        "MaxRoiPool",
        _image(emitter, x),
        emitter.name_of(boxes),
        pooled_shape=integers_of(node, "shape"),
        spatial_scale=float(node.attributes.get("scale", 1.0)),
    )
    _store_image(emitter, node, pooled)


@rule("deform_conv")
def write_deform_conv(emitter: Emitter, node: Node) -> None:
    x, weight, offsets, *mask = node.inputs
    rank = x.type.rank
    nothing = [""] if mask else []
    made = emitter.one(
        "DeformConv",
        _image(emitter, x),
        emitter.ordered(weight, (rank - 1, rank - 2, *range(rank - 2))),
        _image(emitter, offsets),
        *nothing,
        *(_image(emitter, value) for value in mask),
        strides=list(node.attributes["strides"]),
        dilations=list(node.attributes["dilations"]),
        pads=[*integers_of(node, "low"), *integers_of(node, "high")],
        group=node.attributes.get("groups", 1),
        offset_group=node.attributes.get("offset_groups", 1),
    )
    _store_image(emitter, node, made)


@rule("non_max_suppression")
def write_non_max_suppression(emitter: Emitter, node: Node) -> None:
    boxes, scores, overlap, score = (emitter.name_of(value) for value in node.inputs)
    limit = emitter.size(node.attributes["limit"])
    center = int(node.attributes.get("center", False))
    limits = [limit, *(emitter.reshaped(name, (1,)) for name in (overlap, score))]
    kept = emitter.one("NonMaxSuppression", boxes, scores, *limits, center_point_box=center)
    emitter.store(node.output, kept)


@rule("col2im")
def write_col2im(emitter: Emitter, node: Node) -> None:
    """ONNX has [N, C * taps, blocks] as its input, and pads at both ends."""
    (x,) = node.inputs
    image, low = integers_of(node, "image"), integers_of(node, "low")
    rank = len(image)
    strides, dilations = node.attributes["strides"], node.attributes["dilations"]
    blocks, kernel = x.type.shape[1 : 1 + rank], x.type.shape[1 + rank : 1 + 2 * rank]
    static = [size for size in (*blocks, *kernel) if isinstance(size, int)]
    if len(static) != 2 * rank:
        raise unsupported(node, f"ONNX wants numbers of blocks and taps, not {x.type}.")
    high = [
        (static[axis] - 1) * strides[axis] + (static[rank + axis] - 1) * dilations[axis] + 1
        for axis in range(rank)
    ]
    high = [reach - low[axis] - image[axis] for axis, reach in enumerate(high)]
    if min(*high, *low) < 0:
        raise unsupported(node, "ONNX wants blocks that cover the image.")
    channels = x.type.shape[-1]
    order = (0, 2 * rank + 1, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
    taps, count = 1, 1
    for axis in range(rank):
        taps, count = taps * static[rank + axis], count * static[axis]
    flat = emitter.reshaped(emitter.ordered(x, order), (x.type.shape[0], channels * taps, count))
    made = emitter.one(
        "Col2Im",
        flat,
        emitter.integers(image),
        emitter.integers(static[rank:]),
        strides=list(strides),
        dilations=list(dilations),
        pads=[*low, *high],
    )
    _store_image(emitter, node, made)
