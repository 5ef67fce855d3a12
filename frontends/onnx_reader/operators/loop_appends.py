"""Loops that append an entry to a tensor or a sequence in each iteration, as loops that stack.

TorchScript writes `out = torch.cat((out, entry))` and `entries.append(entry)` so. What is carried
then grows, and how far is known only when the loop has ended; what ONNX's Loop stacks may do that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite_shape import flip
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item, SequenceItem, StackedItem
from bessemer.frontends.onnx_reader.operators.move import concatenated
from bessemer.frontends.onnx_reader.structure import subgraphs


@dataclass(frozen=True)
class Append:
    """What a body appends to a carried value: the name of the entry, the axis of a tensor's
    concatenation (None for a sequence), and the names on the way from the one to the other; and
    whether it puts the entry in front."""

    entry: str
    axis: int | None
    path: tuple[str, ...]
    in_front: bool = False


def appends_of(body: onnx.GraphProto) -> dict[int, Append]:
    """The carried values that the body only appends to, by their places."""
    producers = {name: node for node in body.node for name in node.output}
    readers = Counter(_names_read(body))
    found: dict[int, Append] = {}
    for place, (start, end) in enumerate(zip(body.input[2:], body.output[1:])):
        path = [end.name]
        node = producers.get(end.name)
        while node is not None and node.op_type == "Identity":
            path.append(node.input[0])
            node = producers.get(node.input[0])
        one_reader = all(readers[name] == 1 for name in (start.name, *path))
        if node is not None and one_reader and start.name in node.input:
            append = _append(node, start.name, tuple(path))
            if append is not None:
                found[place] = append
    return found


def _append(node: onnx.NodeProto, whole: str, path: tuple[str, ...]) -> Append | None:
    given = [name for name in node.input if name]
    if node.domain not in ("", "ai.onnx") or len(given) != 2:
        return None
    in_front = given[1] == whole
    entry = given[0] if in_front else given[1]
    if node.op_type == "SequenceInsert" and not in_front:
        return Append(entry, None, path)
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return Append(entry, axes[0], path, in_front) if node.op_type == "Concat" and axes else None


def _names_read(graph: onnx.GraphProto) -> Iterable[str]:
    """Every reading of a name, in inner graphs too; a graph reads its outputs."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in subgraphs(node):
            yield from _names_read(inner)


def stacking(body: onnx.GraphProto, appends: Mapping[int, Append]) -> onnx.GraphProto:
    """The body without those carried values; their entries are stacked, behind all else."""
    changed = onnx.GraphProto()
    changed.CopyFrom(body)
    for place in sorted(appends, reverse=True):
        del changed.input[2 + place], changed.output[1 + place]
    gone = {name for append in appends.values() for name in append.path}
    for place in reversed(range(len(changed.node))):
        if gone.intersection(changed.node[place].output):
            del changed.node[place]
    changed.output.extend(onnx.ValueInfoProto(name=append.entry) for append in appends.values())
    return changed


def appended(context: NodeContext, initial: Item, append: Append, stacked: Value) -> Item:
    """What the loop carries at its end."""
    if isinstance(initial, Value) and append.axis is not None:
        axis = context.axis(stacked.type.rank - 1, append.axis)
        if append.in_front:  # the last one is the first
            stacked = flip(context.builder, stacked, 0)
        entries = laid_end_to_end(context, stacked, axis)
        parts = [entries, initial] if append.in_front else [initial, entries]
        return concatenated(context, parts, axis)
    match initial:
        case SequenceItem() if append.axis is None:
            return StackedItem(concatenated(context, [*_rows(context, initial), stacked], 0))
        case StackedItem() if append.axis is None:
            return StackedItem(concatenated(context, [initial.value, stacked], 0))
    context.wrong("the body appends to something else than what the loop is given")


def _rows(context: NodeContext, parts: Sequence[Value]) -> list[Value]:
    return [context.reshape(part, (1, *part.type.shape)) for part in parts]


def stacked_item(context: NodeContext, sequence: SequenceItem, wanted: str) -> StackedItem:
    """A sequence of tensors of one type; `wanted` says what for, in front of "a sequence of"."""
    if not sequence or len({part.type for part in sequence}) > 1:
        types = ", ".join(str(part.type) for part in sequence) or "nothing"
        context.unsupported(f"{wanted} a sequence of {types}")
    return StackedItem(concatenated(context, _rows(context, sequence), 0))


def moved_first(context: NodeContext, value: Value, axis: int) -> Value:
    """The tensor with an axis in front of the others."""
    rest = [other for other in range(value.type.rank) if other != axis]
    return context.transpose(value, [axis, *rest])


def moved_from_first(context: NodeContext, value: Value, axis: int) -> Value:
    """The tensor with its first axis at another place."""
    order = list(range(1, value.type.rank))
    order.insert(axis, 0)
    return context.transpose(value, order)


def laid_end_to_end(context: NodeContext, stacked: Value, axis: int) -> Value:
    """What lies along the first axis, one after the other along an axis of its own."""
    moved = moved_from_first(context, stacked, axis)
    shape = moved.type.shape
    merged = shape[axis] * shape[axis + 1]
    return context.reshape(moved, (*shape[:axis], merged, *shape[axis + 2 :]))
