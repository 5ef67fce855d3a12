"""non_max_suppression: of boxes that overlap, the one with the best score, as ONNX has it."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size, minimum
from bessemer.compiler.ir.dims import symbol as size_symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    as_index,
    binary,
    constant,
    index_value,
    select,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, boolean, f32, i64
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.heap import Heap
from bessemer.compiler.ops.sort import is_greater


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
    order = builder.scratch(i64, (boxes.shape[1],))
    found = builder.define(constant(0, i64), "found")
    with builder.loop(scores.shape[0]) as image, builder.loop(scores.shape[1]) as category:

        def above(a: Expression, b: Expression) -> Expression:
            one = scores[image, category, as_index(a)]
            other = scores[image, category, as_index(b)]
            return is_greater(one, other) | (~is_greater(other, one) & (a < b))

        heap = Heap(builder, order, lambda position: (position,), above)
        waiting = builder.define(constant(0, i64), "waiting")
        with (
            builder.loop(boxes.shape[1]) as box,
            builder.when(scores[image, category, box] > score[()]),
        ):
            heap.put(waiting.index, index_value(box))
            waiting.set(waiting.value + 1)
        heap.build(waiting.index)
        first = builder.define(found.value, "first")
        more = found.value - first.value < index_value(limit)
        with builder.repeat_while((waiting.value > 0) & more):
            best = builder.define(heap.item(0), "best")
            waiting.set(waiting.value - 1)
            heap.pop_behind(waiting.index)
            fits = _fits(builder, boxes, out, image, best, (first, found), overlap[()], center)
            with builder.when(fits.value):
                for column, entry in enumerate((image, category, best.index)):
                    builder.store(out, (found.index, column), index_value(entry))
                found.set(found.value + 1)
    builder.set_dim(symbol, found.value)


def _fits(
    builder: KernelBuilder,
    boxes: Buffer,
    out: Buffer,
    image: Size,
    best: Local,
    kept: tuple[Local, Local],
    overlap: Expression,
    center: bool,
) -> Local:
    """A local that tells whether a box overlaps none of those kept in rows kept[0] to kept[1]."""
    first, found = kept
    fits = builder.define(constant(True, boolean), "fits")
    other = builder.define(first.value, "other")
    with builder.repeat_while(fits.value & (other.value < found.value)):
        rival = builder.define(out[other.index, 2], "rival")
        one, another = ([boxes[image, at.index, s] for s in range(4)] for at in (best, rival))
        fits.set(~_overlap(one, another, overlap, center))
        other.set(other.value + 1)
    return fits


def _overlap(
    one: list[Expression], other: list[Expression], most: Expression, center: bool
) -> Expression:
    (low_a, high_a), (low_b, high_b) = (_corners(box, center) for box in (one, other))
    height, width = (
        binary("min", high_a[side], high_b[side]) - binary("max", low_a[side], low_b[side])
        for side in range(2)
    )
    area_a, area_b = (
        (high[0] - low[0]) * (high[1] - low[1]) for low, high in ((low_a, high_a), (low_b, high_b))
    )
    common = height * width
    means_something = (height > 0) & (width > 0) & (area_a > 0) & (area_b > 0)
    return select(means_something, common / (area_a + area_b - common) > most, False)


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
