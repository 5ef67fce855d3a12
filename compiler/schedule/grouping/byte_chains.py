"""Decides where chains of nodes in quantized networks are cut into groups: preferably where values
are bytes, which are the cheapest to store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import f32, i8, u8
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.grouping.kinds import NOT_SAME_INDEX, is_costly, kind_of
from bessemer.compiler.schedule.nests.row_shapes import moves_last_axis

BYTES = (u8, i8)


def narrows(node: Node) -> bool:
    """Whether a node converts floats to bytes."""
    if node.operator.name != "cast" or node.output.type.dtype not in BYTES:
        return False
    return node.inputs[0].type.dtype is f32


def stores_bytes(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a node makes bytes of floats that something costly makes, element by element: where
    that is not to be computed again and so is stored, then as bytes."""
    made: Node | None = node
    while narrows(node) and made is not None and kind_of(made) == "pointwise":
        if is_costly(made):
            return made.operator.name not in NOT_SAME_INDEX
        made = producers.get(made.inputs[0])
    return False


def decodes(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a node is part of a dequantization, (byte - zero) * scale.

    Such nodes are computed again in every group that needs them: reading the bytes again costs less
    than storing and reading floats.
    """
    if node.operator.name == "cast":
        return node.output.type.dtype is f32 and node.inputs[0].type.dtype in BYTES
    if node.operator.name not in ("add", "sub", "mul") or node.output.type.dtype is not f32:
        return False
    x, number = (producers.get(value) for value in node.inputs)
    is_uniform = number is not None and number.operator.name == "full"
    return is_uniform and x is not None and decodes(x, producers)


def looks_up(node: Node, value: Value) -> bool:
    """Whether a node looks up `value` in a list: each element selects the entry for the same
    index."""
    if node.operator.name != "gather" or node.inputs[0].type.rank != 1:
        return False
    return value is node.inputs[1] and value is not node.inputs[0]


def readers_across(group: Group, node: Node, users: Mapping[Value, Sequence[Node]]) -> set[Node]:
    """The nodes of a group that compute something from bytes which `node`, a transpose, has moved
    apart, the views aside; empty for other nodes.

    There are no instructions that gather bytes, and an epilogue cannot transpose squares of them.
    So such bytes are better put in order by a kernel of its own.
    """
    if node.output.type.dtype not in BYTES or not moves_last_axis(node):
        return set()
    if group.reductions or group.heavy or group.packs is not None:
        return set()
    members, waiting, found = set(group.nodes) - {group.anchor}, [node], set[Node]()
    while waiting:
        readers = members.intersection(users.get(waiting.pop().output, ())) - found
        found |= readers
        waiting += readers
    return {reader for reader in found if not reader.operator.is_view}
