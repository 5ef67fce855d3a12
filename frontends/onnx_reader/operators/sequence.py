"""Sequences and optionals, as far as they are settled while the model is read."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader import limits
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import require_nonnegative
from bessemer.frontends.onnx_reader.items import Item, SequenceItem, StackedItem
from bessemer.frontends.onnx_reader.operators.index import indices_at
from bessemer.frontends.onnx_reader.operators.loop_appends import (
    laid_end_to_end,
    moved_first,
    moved_from_first,
    stacked_item,
)
from bessemer.frontends.onnx_reader.operators.move import concatenated, piece, split_along
from bessemer.frontends.onnx_reader.registry import rule


@rule("SequenceEmpty")
def read_sequence_empty(context: NodeContext) -> Item:
    return SequenceItem()


@rule("SequenceConstruct")
def read_sequence_construct(context: NodeContext) -> Item:
    return SequenceItem(context.tensors())


def _position(context: NodeContext, length: int) -> int:
    """The position in a sequence that input 1 gives, counted from 0."""
    (place,) = context.integers_at(1, "a position in a sequence")
    if not -length <= place < length:
        context.wrong(f"position {place} of a sequence of {length}")
    return place % length


def _is_in_front(context: NodeContext, position: int) -> bool:
    """Whether an input names the beginning of a sequence and not, as without it, the end: other
    places in a sequence whose length is known when the model runs are not supported."""
    if context.optional(position) is None:
        return False
    (place,) = context.integers_at(position, "a position in a sequence")
    if place:
        context.unsupported(f"position {place} of a sequence whose length is known when it runs")
    return True


@rule("SequenceAt")
def read_sequence_at(context: NodeContext) -> Item:
    sequence = context.item(0)
    if isinstance(sequence, SequenceItem):
        if context.array(1) is not None:
            return sequence[_position(context, len(sequence))]
        sequence = stacked_item(context, sequence, "a position known when the model runs, in")
    if not isinstance(sequence, StackedItem):
        context.wrong("input 0 is not a sequence")
    place = context.reshape(indices_at(context, 1), ())
    return context.apply("gather", sequence.value, place, axis=0)


@rule("SequenceErase")
def read_sequence_erase(context: NodeContext) -> Item:
    stacked = context.item(0)
    if isinstance(stacked, StackedItem):
        rows, first = stacked.value, int(_is_in_front(context, 1))
        require_nonnegative(context.builder, (rows.type.shape[0] - 1,))
        return StackedItem(slice_axis(context.builder, rows, 0, first, rows.type.shape[0] - 1))
    sequence = context.sequence(0)
    last = len(sequence) - 1
    place = last if context.optional(1) is None else _position(context, len(sequence))
    return SequenceItem((*sequence[:place], *sequence[place + 1 :]))


@rule("SequenceInsert")
def read_sequence_insert(context: NodeContext) -> Item:
    stacked = context.item(0)
    if isinstance(stacked, StackedItem):
        new = context.input(1)
        parts = [stacked.value, context.reshape(new, (1, *new.type.shape))]
        in_front = _is_in_front(context, 2)
        return StackedItem(concatenated(context, parts[::-1] if in_front else parts, 0))
    sequence = context.sequence(0)
    length = len(sequence)
    place = length
    if context.optional(2) is not None:
        (place,) = context.integers_at(2, "a position in a sequence")
    if not -length <= place <= length:
        context.wrong(f"position {place} of a sequence of {length}")
    place = place + length if place < 0 else place
    return SequenceItem((*sequence[:place], context.input(1), *sequence[place:]))


@rule("SequenceLength")
def read_sequence_length(context: NodeContext) -> Value:
    sequence = context.item(0)
    if isinstance(sequence, StackedItem):
        return context.builder.scalar_size(sequence.value.type.shape[0])
    return context.builder.scalar_size(len(context.sequence(0)))


@rule("ConcatFromSequence")
def read_concat_from_sequence(context: NodeContext) -> Value:
    new = bool(context.integer("new_axis"))
    sequence = context.item(0)
    if isinstance(sequence, StackedItem):
        axis = context.axis(sequence.value.type.rank - 1 + new)
        arranged = moved_from_first if new else laid_end_to_end
        return arranged(context, sequence.value, axis)
    parts = list(context.sequence(0))
    if not parts:
        context.wrong("the sequence is empty")
    axis = context.axis(parts[0].type.rank + new)
    if new:
        parts = [
            context.reshape(part, (*part.type.shape[:axis], 1, *part.type.shape[axis:]))
            for part in parts
        ]
    return concatenated(context, parts, axis)


@rule("SplitToSequence")
def read_split_to_sequence(context: NodeContext) -> Item:
    """With a split, ONNX says, keepdims does not count. It does where that is the number 1: torch
    writes `unbind` with both, and ONNX Runtime drops the axis."""
    x = context.input(0)
    axis = context.axis(x.type.rank)
    whole = x.type.shape[axis]
    is_into_single_ones = _is_into_single_ones(context)
    keeps = bool(context.integer("keepdims")) or not is_into_single_ones
    if not isinstance(whole, int) and is_into_single_ones:
        rows = moved_first(context, x, axis)
        if keeps:
            rest = rows.type.shape[1:]
            rows = context.reshape(rows, (whole, *rest[:axis], 1, *rest[axis:]))
        return StackedItem(rows)
    if not isinstance(whole, int) or whole > limits.PARTS:
        context.unsupported(f"axis {axis} of {x.type} has no known, small size to split")
    split = _split(context, whole)
    if keeps:
        return SequenceItem(split_along(context, x, axis, split))
    shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
    parts = [piece(context, x, axis, place, 1) for place in range(whole)]
    return SequenceItem(context.reshape(part, shape) for part in parts)


def _is_into_single_ones(context: NodeContext) -> bool:
    """Whether all pieces are to be one step along the axis, however long that is."""
    split = context.optional(1)
    known = None if split is None else context.array(1)
    return split is None or (known is not None and known.ndim == 0 and known == 1)


def _split(context: NodeContext, whole: int) -> tuple[int, ...]:
    """The sizes of the pieces."""
    if context.optional(1) is None:
        return (1,) * whole
    split = context.integers_at(1, "a split")
    if context.input(1).type.rank == 0:
        if split[0] < 1:
            context.wrong(f"pieces of {split[0]}")
        split = tuple(min(split[0], whole - start) for start in range(0, whole, split[0]))
    if sum(split) != whole:
        context.wrong(f"pieces of {list(split)} from {whole}")
    return split


@rule("OptionalHasElement")
def read_optional_has_element(context: NodeContext) -> Value:
    return context.builder.constant(np.array(context.item(0) is not None))


@rule("OptionalGetElement")
def read_optional_get_element(context: NodeContext) -> Item:
    item = context.item(0)
    if item is None:
        context.wrong("the optional is empty")
    return item


@rule("Optional")
def read_optional(context: NodeContext) -> Item:
    return context.item(0)
