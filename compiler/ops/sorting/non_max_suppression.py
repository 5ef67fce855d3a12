"""non_max_suppression: of boxes that overlap, the one with the best score, as ONNX has it."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size, minimum
from bessemer.compiler.ir.dims import symbol as size_symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    index_value,
    select,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, boolean, f32, i64
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.sorting.heap import Heap
from bessemer.compiler.ops.sorting.sort_keys import packed_key, place_in


def _infer(
    boxes: TensorType,
    scores: TensorType,
    overlap: TensorType,
    score: TensorType,
    *,
    limit: Size,
    symbol: str,
    center: bool = False,
) -> TensorType:
    """(boxes [N, B, 4], scores [N, classes, B], overlap [], score []), all f32 -> i64 [kept, 3].

    A row of the output is (image, class, box), by image, class and falling score. A box is kept
    if its score is above `score` and the ratio of intersection to union with each kept before is
    not above `overlap`; at most `limit` of each image and class. Boxes are two corners
    (y1, x1, y2, x2), or if `center` the centre and the size (x, y, width, height).
    """
    types = (boxes, scores, overlap, score)
    fits = boxes.rank == scores.rank == 3 and boxes.shape[2] == 4
    fits = fits and boxes.shape[0] == scores.shape[0] and boxes.shape[1] == scores.shape[2]
    fits = fits and overlap.shape == score.shape == () and all(t.dtype is f32 for t in types)
    require(
        fits,
        "non_max_suppression wants f32 boxes [N, B, 4], scores [N, C, B] and two scalars, but got "
        f"{', '.join(map(str, types))}.",
    )
    return TensorType(i64, (size_symbol(symbol), 3))


def _capacity(
    boxes: TensorType,
    scores: TensorType,
    overlap: TensorType,
    score: TensorType,
    *,
    limit: Size,
    symbol: str,
    center: bool = False,
) -> tuple[Size]:
    return (3 * scores.shape[0] * scores.shape[1] * minimum(boxes.shape[1], limit),)


def _reference(
    boxes: Array,
    scores: Array,
    overlap: Array,
    score: Array,
    *,
    limit: int,
    symbol: str,
    center: bool = False,
) -> Array:
    kept: list[tuple[int, int, int]] = []
    for image, category in np.ndindex(*scores.shape[:2]):
        values = scores[image, category]
        mine: list[int] = []
        for box in np.argsort(-values, kind="stable"):
            if len(mine) == limit or not values[box] > score:
                break
            ratios = [_ratio(boxes[image, box], boxes[image, other], center) for other in mine]
            if not any(ratio > overlap for ratio in ratios):
                mine.append(int(box))
        kept += [(image, category, box) for box in mine]
    return np.array(kept, np.int64).reshape(len(kept), 3)


def _ratio(one: Array, other: Array, center: bool) -> float:
    """Intersection over union; 0 where that means nothing."""
    sides = []
    for box in (one, other):
        if center:
            sides.append((box[:2] - box[2:] / 2, box[:2] + box[2:] / 2))
        else:
            sides.append((np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])))
    (low_a, high_a), (low_b, high_b) = sides
    common = np.minimum(high_a, high_b) - np.maximum(low_a, low_b)
    areas = np.prod(high_a - low_a), np.prod(high_b - low_b)
    if np.any(common <= 0) or min(areas) <= 0:
        return 0.0
    return float(np.prod(common) / (areas[0] + areas[1] - np.prod(common)))


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    limit: Size,
    symbol: str,
    center: bool = False,
) -> None:
    boxes, scores, overlap, score = inputs
    (out,) = outputs
    candidates = boxes.shape[1]
    keys = builder.scratch(i64, (candidates,))
    # Sides and areas of the boxes kept, each in a row of its own, for vectors of them.
    kept = builder.scratch(f32, (_SIDES, minimum(candidates, limit)))
    heap = Heap(builder, keys, lambda position: (position,), lambda a, b: a > b)
    found = builder.define(constant(0, i64), "found")
    with builder.loop(scores.shape[0]) as image, builder.loop(scores.shape[1]) as category:
        waiting = builder.define(constant(0, i64), "waiting")
        with builder.loop(candidates) as box:
            value = builder.define(scores[image, category, box], "score").value
            heap.put(waiting.index, packed_key(value, index_value(box)))
            waiting.set(waiting.value + select(value > score[()], constant(1, i64), 0))
        heap.build(waiting.index)
        count = builder.define(constant(0, i64), "count")
        with builder.repeat_while((waiting.value > 0) & (count.value < index_value(limit))):
            best = builder.define(place_in(heap.item(0)), "best")
            waiting.set(waiting.value - 1)
            heap.pop_behind(waiting.index)
            sides = [boxes[image, best.index, s] for s in range(4)]
            shape = [builder.define(s, "side").value for s in _measured(sides, center)]
            hidden = _is_hidden(builder, shape, kept, count, overlap[()])
            with builder.when(~hidden.value):
                for column, entry in enumerate((image, category, best.index)):
                    builder.store(out, (found.index, column), index_value(entry))
                for place, side in enumerate(shape):
                    builder.store(kept, (place, count.index), side)
                count.set(count.value + 1)
                found.set(found.value + 1)
    builder.set_dim(symbol, found.value)


def _is_hidden(
    builder: KernelBuilder, shape: list[Expression], kept: Buffer, count: Local, most: Expression
) -> Local:
    """A local that tells whether a box overlaps one of the first `count` kept."""
    hidden = builder.define(constant(False, boolean), "hidden")
    begin = builder.define(constant(0, i64), "begin")
    with builder.repeat_while(~hidden.value & (begin.value < count.value)):
        length = minimum(count.index - begin.index, _AT_ONCE)
        with builder.loop(length, "vector", 0) as lane:
            rival = [kept[side, begin.index + lane] for side in range(_SIDES)]
            hidden.accumulate("or", _overlap(shape, rival, most))
        begin.set(begin.value + _AT_ONCE)
    return hidden


_SIDES = 5
_AT_ONCE = 64
"""Boxes that are compared with one before it is asked whether that was enough."""


def _measured(box: list[Expression], center: bool) -> list[Expression]:
    """The lower and the higher corner, and the area."""
    low, high = _corners(box, center)
    return [*low, *high, (high[0] - low[0]) * (high[1] - low[1])]


def _overlap(one: list[Expression], other: list[Expression], most: Expression) -> Expression:
    height, width = (
        binary("min", one[side + 2], other[side + 2]) - binary("max", one[side], other[side])
        for side in range(2)
    )
    area_a, area_b = one[4], other[4]
    common = height * width
    means_something = (height > 0) & (width > 0) & (area_a > 0) & (area_b > 0)
    return means_something & (common / (area_a + area_b - common) > most)


def _corners(
    box: list[Expression], center: bool
) -> tuple[tuple[Expression, ...], tuple[Expression, ...]]:
    """The lower and the higher corner."""
    pairs = [(box[side], box[side + 2]) for side in range(2)]
    if center:
        low = tuple(middle - size * 0.5 for middle, size in pairs)
        return low, tuple(middle + size * 0.5 for middle, size in pairs)
    return (
        tuple(binary("min", a, b) for a, b in pairs),
        tuple(binary("max", a, b) for a, b in pairs),
    )


def _example(
    count: int,
    classes: int,
    images: int,
    overlap: float,
    score: float,
    limit: int,
    **attributes: bool,
) -> Example:
    rng = np.random.default_rng(count)
    boxes = rng.uniform(0, 1, (images, count, 4)).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, (images, classes, count)), 1).astype(np.float32)
    thresholds = np.array(overlap, np.float32), np.array(score, np.float32)
    return Example((boxes, scores, *thresholds), {"limit": limit, "symbol": "n", **attributes})


register(
    Operator(
        "non_max_suppression",
        _infer,
        _reference,
        statements=_statements,
        capacity=_capacity,
        gradient=None,
        examples=(
            _example(17, 2, 2, 0.3, 0.2, 4),
            _example(33, 1, 1, 0.1, -np.inf, 100),
            _example(11, 3, 1, 0.4, 0.0, 5, center=True),
            _example(5, 1, 3, 0.5, 2.0, 3),
            _example(5, 1, 1, 0.5, 0.0, 0),
        ),
    )
)
