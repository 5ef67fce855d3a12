"""Finds transposes that are better stored than read where they are needed.

    x + transpose(y)

Where a kernel reads x along the neighbours that it stores, it reads y across them: every element
comes from another cache line. A transpose alone moves squares of elements through registers
(nests/transpose.py), so that storing its result first takes a fraction of the time. (1024x1024
floats: 4.5 -> 0.4 ms.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.grouping.kinds import kind_of
from bessemer.compiler.schedule.nests.row_shapes import moves_last_axis

_FEWEST = 1 << 12
"""Elements for which a launch more is worth it."""


def is_crossed(node: Node, groups: Iterable[Group], producers: Mapping[Value, Node]) -> bool:
    """Whether a node is a transpose that one of the groups reads across, beside an operand of the
    same size that it reads along."""
    numel = node.output.type.numel
    if not moves_last_axis(node) or (isinstance(numel, int) and numel < _FEWEST):
        return False
    return any(_is_crossed_in(group, node.output, producers) for group in groups)


def _is_crossed_in(group: Group, value: Value, producers: Mapping[Value, Node]) -> bool:
    if group.anchor is not None or group.packs is not None or group.heavy or group.reductions:
        return False
    numel = value.type.numel
    if product(group.shape) != numel or any(map(moves_last_axis, group.nodes)):
        return False
    inside = {value, *(member.output for member in group.nodes)}
    return any(
        _lies_along(operand, producers)
        for member in group.nodes
        if kind_of(member) == "pointwise"
        for operand in member.inputs
        if operand not in inside and operand.type.numel == numel
    )


def _lies_along(value: Value, producers: Mapping[Value, Node]) -> bool:
    """Whether a value's neighbours are neighbours in the memory that it is computed from."""
    numel, waiting, seen = value.type.numel, [value], {value}
    while waiting:
        made = producers.get(waiting.pop())
        if made is None or kind_of(made) not in ("pointwise", "view"):
            return True
        if moves_last_axis(made):
            continue
        fresh = [v for v in made.inputs if v.type.numel == numel and v not in seen]
        waiting += fresh
        seen.update(fresh)
    return False
