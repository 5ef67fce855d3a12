"""Axes of free sizes that are split into parts of a known size, as in windows of pixels.

    x[n, h, w]  as  [n, h // 7, 7, w // 7, 7]          h and w are multiples of 7, as a check finds

The axis is cut to 7 * (h // 7) first. That leaves all of it, and says that each part lies at a
known distance from the one before; else every element would be looked up by a division. The axes
before one that is split may be joined with its parts, as in [n * (h // 7), 7, w // 7, 7].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.frontends.onnx_reader.context import NodeContext


def cut_to(context: NodeContext, x: Value, shape: Sequence[Size]) -> Value:
    """The first elements of each axis, as many as `shape` says, which are all that there are."""
    if tuple(shape) == x.type.shape:
        return x
    first, steps = (0,) * len(shape), (1,) * len(shape)
    return context.apply("slice", x, starts=first, shape=tuple(shape), steps=steps)


def split_sizes(sizes: Sequence[Size], shape: Sequence[Size]) -> tuple[Size, ...]:
    """The sizes, each cut to the product of the neighbours in `shape` that it is split into; as
    they are where an axis is not split so. Both shapes must have equally many elements."""
    cut, left = [], list(shape)
    for size in sizes:
        product: Size = 1
        while left and not _is_whole(product, size):
            rest = None if product != 1 or size == 0 else dims.divide_exactly(left[0], size)
            if rest is None:
                product = product * left.pop(0)
            else:  # joined with what follows
                product, left[0] = size, rest
        if not _is_whole(product, size):
            return tuple(sizes)
        cut.append(product)
    return tuple(cut) if all(size == 1 for size in left) else tuple(sizes)


def left_size(sizes: Sequence[Size], shape: Sequence[Size]) -> Size | None:
    """The size that `shape` leaves open, as -1, if it is one of the sizes and others are split into
    parts: no other number fits where the parts are whole. None where nothing is split."""
    at = shape.index(-1)
    whole = [(size, (*shape[:at], size, *shape[at + 1 :])) for size in sizes]
    return next((size for size, parts in whole if split_sizes(sizes, parts) != tuple(sizes)), None)


def _is_whole(product: Size, size: Size) -> bool:
    """Whether a product of parts is a size, or what the size is if its parts are whole."""
    if product == size or isinstance(product, int):
        return product == size
    part = gcd(*product.terms.values())
    return any(product == whole(size, part) * part for whole in (dims.floordiv, dims.ceildiv))
