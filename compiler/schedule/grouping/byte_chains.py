"""Where to cut a chain of nodes of a quantized network into groups: best where the values are
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import f32, i8, u8
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.nests.row_shapes import moves_last_axis

BYTES = (u8, i8)


def narrows(node: Node) -> bool:
    """Whether a node makes bytes of floats."""
    if node.operator.name != "cast" or node.output.type.dtype not in BYTES:
        return False
    return node.inputs[0].type.dtype is f32


def decodes(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a node belongs to what makes floats of bytes, (byte - zero) * scale: wherever they
    are needed, reading the bytes again costs less than floats in memory would."""
    if node.operator.name == "cast":
        return node.output.type.dtype is f32 and node.inputs[0].type.dtype in BYTES
    if node.operator.name not in ("add", "sub", "mul") or node.output.type.dtype is not f32:
        return False
    x, number = (producers.get(value) for value in node.inputs)
    is_uniform = number is not None and number.operator.name == "full"
    return is_uniform and x is not None and decodes(x, producers)


def looks_up(node: Node, value: Value) -> bool:
    """Whether a node reads a list at the places that a value says: at the value's own index."""
    if node.operator.name != "gather" or node.inputs[0].type.rank != 1:
        return False
    return value is node.inputs[1] and value is not node.inputs[0]


def readers_across(group: Group, node: Node, users: Mapping[Value, Sequence[Node]]) -> set[Node]:
    """What a group computes of bytes whose neighbours a transpose moves apart, after a product if
    there is one. No instruction gathers bytes, and an epilogue transposes no squares of them."""
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
