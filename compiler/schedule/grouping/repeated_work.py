"""Counts how often a group computes each element of a value that it reads at several places.

y = x + pad(slice(x))   reads x twice; six such steps in one group compute the first x 64 times
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.ir.dims import Size, divide_exactly
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.grouping.kinds import NOT_SAME_INDEX, kind_of

MOST = 2
"""How often an element may be computed: more often costs more than to store it once and load it."""


def repeats_much(node: Node, group: Group, users: Mapping[Value, Sequence[Node]]) -> bool:
    """Whether a group would compute the elements of a node's output so often that storing them
    costs less."""
    return sum(_ways(node.output, group, users).values()) > MOST


def _ways(
    value: Value, group: Group, users: Mapping[Value, Sequence[Node]]
) -> dict[tuple[Node, ...], float]:
    """The ways from a group's root to a value, and the share of the value's elements that each of
    them reads. A way is the nodes on it that read their inputs at other places than their own. (A
    reshape does not: an element keeps its place among all.) Ways that lead to a broadcast are one
    from there on: what it reads is smaller, and the same wherever they moved along the broadcast's
    axes, such as the totals of a row. All readers are in the group."""
    found = group.ways.get(value)
    if found is not None:
        return found
    found = group.ways[value] = {(): 1.0} if value is group.root else {}
    for user in users.get(value, []):
        if user is group.packs or (user in group.nodes and kind_of(user) not in _AT_PLACES):
            found[()] = 1.0
        elif user in group.nodes and user.operator.name == "broadcast_to":
            found[(user,)] = 1.0
        elif user in group.nodes:
            moves = user.operator.is_view or user.operator.name in NOT_SAME_INDEX
            moves &= user.operator.name != "reshape"
            grows = _ratio(user.output.type.numel, value.type.numel)
            for way, share in _ways(user.output, group, users).items():
                further = (*way, user) if moves else way
                found[further] = max(found.get(further, 0.0), min(share * grows, 1.0))
    return found


_AT_PLACES = ("view", "pointwise")
"""The kinds of nodes that read one place for each of their own. All others (a sum, a window) read
every element for all of theirs at once."""


def _ratio(size: Size, other: Size) -> float:
    """How many times as large as another a size is; 1 where it is not known."""
    if isinstance(size, int) and isinstance(other, int):
        return size / max(other, 1)
    more, less = divide_exactly(size, other), divide_exactly(other, size)
    if isinstance(more, int):
        return more
    return 1 / less if isinstance(less, int) and less > 0 else 1.0
