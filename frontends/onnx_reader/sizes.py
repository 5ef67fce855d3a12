"""Sizes out of integer tensors, and the arithmetic of slices on sizes that may hold symbols."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ops.composite.composite import binary
from bessemer.frontends.onnx_reader.equal_sizes import require_nonnegative
from bessemer.frontends.onnx_reader.known import known_sizes

UNLIMITED = 2**31 - 1
"""From here on a bound of a slice means "to the end" (exporters write the largest int)."""


def sizes_of(
    builder: GraphBuilder, value: Value, prefix: str, signed: bool = False
) -> tuple[Size, ...]:
    """The entries of an integer vector or scalar as sizes, which may be below 0 if `signed`.

    Entries that are not known are bound at run time, each part of a concatenation for itself, so
    that the known ones stay known.
    """
    known = known_sizes(builder, value)
    if known is not None:
        return known
    node = builder.producer(value)
    found: tuple[Size, ...] | None = None
    if node is not None and _passes_on(node):
        parts = [sizes_of(builder, item, prefix, signed) for item in node.inputs]
        found = tuple(size for part in parts for size in part)
    elif signed:
        above, below = (
            builder.bind(binary(builder, "max", one, 0), prefix)
            for one in (value, builder.apply("neg", value))
        )
        found = tuple(one - other for one, other in zip(above, below))
    else:
        found = builder.bind(value, prefix)
    content = np.empty(len(found), dtype=object)
    content[:] = found
    builder.set_content(value, content.reshape(value.type.static_shape))
    return found


def _passes_on(node: Node) -> bool:
    """Whether the node's output holds the entries of its inputs, one after the other, and how many
    each has is known."""
    if not all(isinstance(item.type.numel, int) for item in node.inputs):
        return False
    match node.operator.name:
        case "concat":
            return node.output.type.rank == 1
        case "reshape":
            return True
        case "cast":
            return node.inputs[0].type.dtype.is_integer and node.output.type.dtype.is_integer
        case _:
            return False


def slice_of(
    builder: GraphBuilder, size: Size, start: Size, end: Size, step: int
) -> tuple[Size, Size] | None:
    """(first index, number of elements) of start:end:step along an axis, as NumPy counts.

    None where it depends on the sign of something that is known only at run time.
    """
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        chosen = range(size)[slice(start, end if step > 0 or end >= -size else None, step)]
        return (chosen[0] if len(chosen) else 0), len(chosen)
    first = _from_start(start, size)
    last = _from_start(end, size)
    if first is None or last is None:
        return None
    if step < 0:
        return _backwards(size, start, end, first, last, -step)
    # Where there are no elements, x[1:] begins behind them and x[:-1] ends before them: the length
    # is below 0 then, and becomes 0.
    if first != 1 or isinstance(size, int):
        first = _clamped(builder, first, size)
    if last != size - 1 or isinstance(size, int):
        last = _clamped(builder, last, size)
    length = last - first
    if not dims.is_nonnegative(length):
        length = dims.maximum(length, 0)
    return first, dims.ceildiv(length, step)


def _from_start(bound: Size, size: Size) -> Size | None:
    """A bound counted from the start; None where its sign is not known."""
    if isinstance(bound, int) and abs(bound) >= UNLIMITED:
        return size if bound > 0 else 0
    if dims.is_nonnegative(bound):
        return bound
    if dims.is_nonnegative(-1 - bound) or dims.is_nonnegative(-size - bound):
        # x[-n:] of n elements: if n is 0, it is the same counted from the start.
        return size + bound
    return None


def _clamped(builder: GraphBuilder, bound: Size, size: Size) -> Size:
    """The bound moved into 0..size."""
    if bound == 0 or bound == size:
        return bound
    # x[-1:] and x[:1] on an axis of any length: hardly a model means an empty axis by that, so the
    # code checks the length, and the size of what is one element stays 1.
    if bound in (1, size - 1) and not isinstance(size, int):
        require_nonnegative(builder, (size - 1,))
        return bound
    if isinstance(bound - size, int):
        return size - dims.minimum(size, size - bound)
    if not dims.is_nonnegative(bound):
        bound = dims.maximum(bound, 0)
    return dims.minimum(bound, size)


def _backwards(
    size: Size, start: Size, end: Size, first: Size, last: Size, step: int
) -> tuple[Size, Size] | None:
    """The common cases of a negative step on an axis of unknown length: from its end, or all."""
    if isinstance(start, int) and start >= UNLIMITED:
        first = size - 1
    elif not dims.is_nonnegative(size - 1 - first):
        first = dims.minimum(first, size - 1)
    if isinstance(end, int) and end <= -UNLIMITED:
        last = -1
    elif not dims.is_nonnegative(last):
        last = dims.maximum(last, -1)
    length = first - last
    if not dims.is_nonnegative(length):
        length = dims.maximum(length, 0)
    return first, dims.ceildiv(length, step)
