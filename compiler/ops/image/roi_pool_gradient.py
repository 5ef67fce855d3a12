"""max_roi_pool_gradient: every cell hands its cotangent to the first of its largest elements."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, binary, checked, convert, index_value, select
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, i64
from bessemer.compiler.ops.image.roi import NUMBERED
from bessemer.compiler.ops.image.roi_backwards import (
    each_image,
    require_cotangent,
    sums_of,
    working_type,
)
from bessemer.compiler.ops.image.roi_span import bounds, whole_cell, whole_spans
from bessemer.compiler.ops.precise import rounded_once


def _pool_infer(
    x: TensorType, boxes: TensorType, dy: TensorType, *, shape: tuple[int, int], scale: float = 1.0
) -> TensorType:
    """(max_roi_pool's inputs, its output's cotangent) -> that of x."""
    require_cotangent("max_roi_pool_gradient", x, boxes, dy, shape)
    return x


def _pool_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *,
    shape: tuple[int, int], scale: float = 1.0,
) -> None:  # fmt: skip
    x, boxes, dy = inputs
    (dx,) = outputs
    total, working = sums_of(builder, dx), working_type(x)
    channels = (x.shape[0], x.shape[3])
    best, place = builder.scratch(x.dtype, channels), builder.scratch(i64, channels)
    with each_image(builder, dx, total) as image, builder.loop(boxes.shape[0]) as box:
        number = convert(convert(boxes[box, 0], working), i64)
        owner = index_value(checked(number, x.shape[0]))
        with builder.when(binary("eq", owner, index_value(image))):
            spans = whole_spans(builder, boxes, box, shape, scale, working)
            with builder.loop(shape[0]) as i, builder.loop(shape[1]) as j:
                with builder.loop(x.shape[3], "vector", lanes=0) as channel:
                    builder.store(best, (image, channel), -math.inf)
                    builder.store(place, (image, channel), -1)
                top, bottom = bounds(builder, *spans[0], i, x.shape[1])
                left, right = bounds(builder, *spans[1], j, x.shape[2])
                with (
                    builder.loop(bottom.index - top.index) as row,
                    builder.loop(right.index - left.index) as column,
                ):
                    at = (image, top.index + row, left.index + column)
                    _choose_element(builder, x, best, place, at)
                _give_element(builder, dy, total, place, (image, box, i, j))


def _choose_element(
    builder: KernelBuilder, x: Buffer, best: Buffer, place: Buffer, at: tuple[Size, Size, Size]
) -> None:
    """Keeps an element's number where it is larger than all before."""
    image, row, column = at
    with builder.loop(x.shape[3], "vector", lanes=0) as channel:
        value = builder.define(x[image, row, column, channel], "value").value
        is_better = builder.define(value > best[image, channel], "better").value
        number = index_value(row * x.shape[2] + column)
        chosen = select(is_better, number, place[image, channel])
        builder.store(place, (image, channel), chosen)
        builder.store(best, (image, channel), select(is_better, value, best[image, channel]))


def _give_element(
    builder: KernelBuilder, dy: Buffer, total: Buffer, place: Buffer,
    cell: tuple[Size, Size, Size, Size],
) -> None:  # fmt: skip
    """Adds a cell's cotangent to the element of each channel that was the largest."""
    image, box, i, j = cell
    with builder.loop(total.shape[3]) as channel:
        number = builder.define(place[image, channel], "number")
        with builder.when(number.value >= 0):
            width = total.shape[2]
            at = (image, dims.floordiv(number.index, width), dims.mod(number.index, width), channel)
            given = convert(dy[box, i, j, channel], total.dtype)
            builder.store(total, at, total[at] + given)


@rounded_once
def _pool_reference(
    x: Array, boxes: Array, dy: Array, *, shape: tuple[int, int], scale: float = 1.0
) -> Array:
    dx = np.zeros(x.shape)
    for box, i, j in np.ndindex(len(boxes), *shape):
        cell = whole_cell(boxes[box], (i, j), shape, scale, x.shape[1:3])
        places = list(itertools.product(*(range(*ends) for ends in cell)))
        if not places:
            continue
        image = int(boxes[box, 0])
        largest = np.argmax(np.stack([x[(image, *place)] for place in places]), axis=0)
        for channel, number in enumerate(largest):
            dx[(image, *places[number], channel)] += dy[box, i, j, channel]
    return dx


register(
    Operator(
        "max_roi_pool_gradient",
        _pool_infer,
        _pool_reference,
        statements=_pool_statements,
        gradient=None,
        examples=(
            Example(((2, 7, 5, 3), NUMBERED, (3, 2, 2, 3)), {"shape": (2, 2)}),
            Example(((2, 7, 5, 17), NUMBERED, (3, 4, 3, 17)), {"shape": (4, 3), "scale": 0.5}),
            Example(((2, 3, 3, 1), NUMBERED, (3, 1, 1, 1)), {"shape": (1, 1), "scale": 2.0}),
        ),
    )
)
