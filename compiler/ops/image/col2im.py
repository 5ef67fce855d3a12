"""col2im: overlapping blocks of an image summed up at their places; what unfolding undoes."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, constant, convert, index_value
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, INTEGERS, Array, TensorType, boolean, f16
from bessemer.compiler.ops.check import require, require_dtype, require_entries
from bessemer.compiler.ops.image.gradients_sample import col2im_gradient
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.reductions.reduce import accumulator
from bessemer.compiler.ops.window import reduction_index


def _infer(
    x: TensorType, *, image: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...],
) -> TensorType:  # fmt: skip
    """x [N, *blocks, *kernel, C] -> [N, *image, C]: tap k of block b is added to position
    b * stride - low + k * dilation, where that is inside."""
    rank = len(image)
    require_dtype("col2im", x, (*FLOATS, *INTEGERS))
    require(
        x.rank == 2 * rank + 2,
        f"col2im to an image of {rank} axes wants blocks [N, *blocks, *kernel, C], but got {x}.",
    )
    for what, entries in (("strides", strides), ("dilations", dilations), ("low pads", low)):
        require_entries("col2im", what, entries, rank)
    return x.with_shape((x.shape[0], *image, x.shape[-1]))


def _element(
    x: Operand, *, index: Index, image: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...],
) -> Expression:  # fmt: skip
    rank = len(image)
    sample, *place, channel = index
    over, taps = reduction_index(x.shape[1 + rank : 1 + 2 * rank])
    blocks: list[Size] = []
    inside: Expression = constant(True, boolean)
    for axis, at in enumerate(place):
        # The block that has this tap here starts at `start`, if one starts there.
        start = at + low[axis] - taps[axis] * dilations[axis]
        blocks.append(start // strides[axis])
        hits = expr.binary("eq", index_value(start % strides[axis]), 0)
        inside = inside & hits & expr.within(blocks[axis], x.shape[1 + axis])
    value = x[(sample, *blocks, *taps, channel)]
    total = accumulator(x.dtype)
    terms = convert(guarded(inside, value, 0), total)
    return convert(expr.reduce("add", over, terms), x.dtype)


@rounded_once
def _reference(
    x: Array, *, image: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[int, ...],
) -> Array:  # fmt: skip
    rank = len(image)
    result = np.zeros((x.shape[0], *image, x.shape[-1]), x.dtype)
    for block in np.ndindex(*x.shape[1 : 1 + rank]):
        for tap in np.ndindex(*x.shape[1 + rank : 1 + 2 * rank]):
            place = np.array(block) * strides - low + np.array(tap) * dilations
            if np.all(place >= 0) and np.all(place < image):
                result[(slice(None), *place)] += x[(slice(None), *block, *tap)]
    return result


def _attributes(
    image: tuple[int, ...], stride: int = 1, dilation: int = 1, low: int = 0
) -> dict[str, tuple[int, ...]]:
    rank = len(image)
    steps = {"strides": (stride,) * rank, "dilations": (dilation,) * rank, "low": (low,) * rank}
    return {"image": image, **steps}


register(
    Operator(
        "col2im",
        _infer,
        _reference,
        _element,
        gradient=col2im_gradient,
        examples=(
            Example(((2, 3, 2, 2, 3, 3),), _attributes((4, 4))),
            Example(((1, 3, 3, 2, 2, 1),), _attributes((5, 6), stride=2)),
            Example(((1, 2, 3, 3, 2, 5),), _attributes((4, 5), dilation=2, low=1)),
            Example(((3, 4, 3, 2),), _attributes((9,), stride=2, low=1)),
            Example((np.arange(24).reshape(1, 3, 4, 2),), _attributes((6,))),
            Example((np.ones((1, 5, 5, 1), f16.numpy),), _attributes((9,))),
        ),
    )
)
