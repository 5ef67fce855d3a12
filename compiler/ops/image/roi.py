"""roi_align and max_roi_pool: pools over boxes that are inputs, each cut into a grid of cells.

Images are [N, H, W, C], the result is [boxes, cells high, cells wide, C]. Boxes are x1, y1, x2, y2
in units of 1 / scale elements.
"""

from __future__ import annotations

import math
from functools import partial, reduce

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    binary,
    checked,
    constant,
    convert,
    index_value,
    select,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, f16, f32, f64, i64
from bessemer.compiler.ops.check import require, require_dtype
from bessemer.compiler.ops.image.roi_span import Neighbours, bounds, span, whole_cell, whole_spans
from bessemer.compiler.ops.indexing.index import INDEX_TYPES
from bessemer.compiler.ops.precise import rounded_once


def _check(name: str, x: TensorType, boxes: TensorType, width: int) -> None:
    require_dtype(name, x, FLOATS)
    require(
        x.rank == 4 and boxes.rank == 2 and boxes.shape[1] == width and boxes.dtype == x.dtype,
        f"{name} wants an image [N, H, W, C] and boxes [R, {width}] of its type: {x}, {boxes}.",
    )


# roi_align


def _align_infer(
    x: TensorType,
    boxes: TensorType,
    images: TensorType,
    *,
    shape: tuple[int, int],
    samples: int = 0,
    scale: float = 1.0,
    mode: str = "avg",
    half_pixel: bool = True,
) -> TensorType:
    """(x, boxes [R, 4], images i32|i64 [R]: the image of each box).

    `samples` of a cell along each axis, or if 0 as many as the cell has elements; the cell is
    their average or maximum (`mode` avg or max; the maximum is that of the weighted neighbours, as
    ONNX has it). `half_pixel`: elements have their centres at halves.
    """
    _check("roi_align", x, boxes, 4)
    require_dtype("roi_align's images", images, INDEX_TYPES)
    require(
        images.shape == boxes.shape[:1],
        f"roi_align wants an image number for each box, but got {images} for {boxes}.",
    )
    require(mode in ("avg", "max"), f"roi_align has no mode {mode!r}.")
    return x.with_shape((boxes.shape[0], *shape, x.shape[3]))


def _align_statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    shape: tuple[int, int],
    samples: int = 0,
    scale: float = 1.0,
    mode: str = "avg",
    half_pixel: bool = True,
) -> None:
    x, boxes, images = inputs
    (out,) = outputs
    working = f64 if x.dtype is f64 else f32
    sums = builder.scratch(working, (boxes.shape[0], x.shape[3]))
    with builder.loop(boxes.shape[0], "parallel") as box:
        image = builder.define(index_value(checked(images[box], x.shape[0])), "image")
        left, top, right, bottom = (convert(boxes[box, side], working) for side in range(4))
        rows = span(builder, top, bottom, scale, shape[0], samples, half_pixel)
        columns = span(builder, left, right, scale, shape[1], samples, half_pixel)
        count = builder.define(rows.samples.value * columns.samples.value, "count")
        with builder.loop(shape[0]) as i, builder.loop(shape[1]) as j:
            with builder.loop(x.shape[3], "vector", lanes=0) as channel:
                builder.store(sums, (box, channel), expr.neutral(_REDUCTIONS[mode], working))
            with builder.loop(rows.samples.index) as row:
                beside = rows.neighbours(rows.sample(i, row), x.shape[1])
                with builder.loop(columns.samples.index) as column:
                    above = columns.neighbours(columns.sample(j, column), x.shape[2])
                    _add_sample(builder, x, image.index, beside, above, sums, box, mode)
            with builder.loop(x.shape[3], "vector", lanes=0) as channel:
                total = sums[box, channel]
                if mode == "avg":
                    total = total / convert(binary("max", count.value, 1), working)
                builder.store(out, (box, i, j, channel), select(count.value > 0, total, 0))


_REDUCTIONS = {"avg": "add", "max": "max"}


def _add_sample(
    builder: KernelBuilder,
    x: Buffer,
    image: Size,
    rows: Neighbours,
    columns: Neighbours,
    sums: Buffer,
    box: Size,
    mode: str,
) -> None:
    """Adds a sample to the sums of all channels, or takes the maximum."""
    inside = builder.define(rows.inside & columns.inside, "inside")
    weights = [
        (at, beside, builder.define(a * b, "weight"))
        for at, a in rows.weighted()
        for beside, b in columns.weighted()
    ]
    with builder.loop(x.shape[3], "vector", lanes=0) as channel:
        parts = [
            convert(x[image, at, beside, channel], sums.dtype) * weight.value
            for at, beside, weight in weights
        ]
        value = reduce(partial(binary, _REDUCTIONS[mode]), parts)
        value = select(inside.value, value, 0)
        total = binary(_REDUCTIONS[mode], sums[box, channel], value)
        builder.store(sums, (box, channel), total)


@rounded_once
def _align_reference(
    x: Array,
    boxes: Array,
    images: Array,
    *,
    shape: tuple[int, int],
    samples: int = 0,
    scale: float = 1.0,
    mode: str = "avg",
    half_pixel: bool = True,
) -> Array:
    result = np.zeros((len(boxes), *shape, x.shape[3]))
    for box, i, j in np.ndindex(len(boxes), *shape):
        taps = []
        for axis, cell in enumerate((i, j)):
            start, end = boxes[box, [1 - axis, 3 - axis]] * scale - 0.5 * half_pixel
            length = (end - start if half_pixel else max(end - start, 1.0)) / shape[axis]
            count = samples or int(np.ceil(length))
            at = [start + (cell + (k + 0.5) / count) * length for k in range(count)]
            taps.append([_bilinear(position, x.shape[1 + axis]) for position in at])
        parts = [
            [a * b * x[images[box], at, beside] for at, a in rows for beside, b in columns]
            for rows in taps[0]
            for columns in taps[1]
        ]
        if parts and mode == "avg":
            result[box, i, j] = np.sum(parts, axis=(0, 1)) / len(parts)
        elif parts:
            result[box, i, j] = np.max(parts, axis=(0, 1))
    return result


def _bilinear(position: float, size: int) -> tuple[tuple[int, float], ...]:
    if not -1 <= position <= size:
        return (0, 0.0), (0, 0.0)
    bounded = min(max(position, 0.0), size - 1)
    low = int(bounded)
    return (low, 1 - (bounded - low)), (min(low + 1, size - 1), bounded - low)


def _align_gradient(d: Differential) -> Cotangents:
    """Of the image and of the boxes, where the number of samples stays."""
    dx, dboxes = d.builder.apply_many("roi_align_gradient", *d.inputs, d.dy, **d.attributes)
    return dx, dboxes, None


BOXES = np.array(
    [[0.5, 1, 4.2, 5.9], [-3, -2, 2, 9], [2, 2, 2, 2], [1.1, 0.3, 3.4, 1.2]], np.float32
)
IMAGES = np.array([1, 0, -1, 0])

register(
    Operator(
        "roi_align",
        _align_infer,
        _align_reference,
        statements=_align_statements,
        gradient=_align_gradient,
        examples=(
            Example(((2, 7, 5, 3), BOXES, IMAGES), {"shape": (3, 2)}),
            Example(
                ((2, 7, 5, 3), BOXES, IMAGES),
                {"shape": (2, 2), "samples": 2, "half_pixel": False},
            ),
            Example(((2, 7, 5, 17), BOXES, IMAGES), {"shape": (1, 3), "mode": "max", "scale": 0.5}),
            Example(
                (
                    np.linspace(-1, 1, 16).reshape(1, 4, 4, 1).astype(f16.numpy),
                    BOXES.astype(f16.numpy),
                    np.zeros(4, np.int32),
                ),
                {"shape": (2, 2), "samples": 3},
                tolerance=4e-3,
            ),
        ),
    )
)


# max_roi_pool


def _pool_infer(
    x: TensorType, boxes: TensorType, *, shape: tuple[int, int], scale: float = 1.0
) -> TensorType:
    """(x, boxes [R, 5]: the number of the image, then the box). Cells have whole elements: borders
    are rounded, and an empty cell is 0 (Girshick, "Fast R-CNN", 2015)."""
    _check("max_roi_pool", x, boxes, 5)
    return x.with_shape((boxes.shape[0], *shape, x.shape[3]))


def _pool_statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    shape: tuple[int, int],
    scale: float = 1.0,
) -> None:
    x, boxes = inputs
    (out,) = outputs
    working = f64 if x.dtype is f64 else f32
    with builder.loop(boxes.shape[0], "parallel") as box:
        number = convert(convert(boxes[box, 0], working), i64)
        image = builder.define(index_value(checked(number, x.shape[0])), "image")
        spans = whole_spans(builder, boxes, box, shape, scale, working)
        with builder.loop(shape[0]) as i, builder.loop(shape[1]) as j:
            top, bottom = bounds(builder, *spans[0], i, x.shape[1])
            left, right = bounds(builder, *spans[1], j, x.shape[2])
            is_empty = (bottom.value <= top.value) | (right.value <= left.value)
            lowest = builder.define(select(is_empty, constant(0, x.dtype), -math.inf), "lowest")
            with builder.loop(x.shape[3], "vector", lanes=0) as channel:
                builder.store(out, (box, i, j, channel), lowest.value)
            with (
                builder.loop(bottom.index - top.index) as row,
                builder.loop(right.index - left.index) as column,
                builder.loop(x.shape[3], "vector", lanes=0) as channel,
            ):
                value = x[image.index, top.index + row, left.index + column, channel]
                total = binary("max", out[box, i, j, channel], value)
                builder.store(out, (box, i, j, channel), total)


def _pool_reference(x: Array, boxes: Array, *, shape: tuple[int, int], scale: float = 1.0) -> Array:
    result = np.zeros((len(boxes), *shape, x.shape[3]), x.dtype)
    for box, i, j in np.ndindex(len(boxes), *shape):
        rows, columns = whole_cell(boxes[box], (i, j), shape, scale, x.shape[1:3])
        inside = x[int(boxes[box, 0]), slice(*rows), slice(*columns)]
        if inside.size:
            result[box, i, j] = inside.max(axis=(0, 1))
    return result


def _pool_gradient(d: Differential) -> Cotangents:
    """Of the image; the borders of a box are rounded, so that a small move changes nothing."""
    return d.apply("max_roi_pool_gradient", *d.inputs, d.dy, **d.attributes), None


NUMBERED = np.array([[1, 0, 0, 4, 6], [0, 1.5, 2.5, 3, 3], [0, -9, -9, -7, -8]], np.float32)

register(
    Operator(
        "max_roi_pool",
        _pool_infer,
        _pool_reference,
        statements=_pool_statements,
        gradient=_pool_gradient,
        examples=(
            Example(((2, 7, 5, 3), NUMBERED), {"shape": (2, 2)}),
            Example(((2, 7, 5, 17), NUMBERED), {"shape": (4, 3), "scale": 0.5}),
            Example(((2, 3, 3, 1), NUMBERED), {"shape": (1, 1), "scale": 2.0}),
        ),
    )
)
