"""Decides whether reductions over axes before the last ones are computed in the group of their
readers: softmax or a norm over the channels of planes.

    x[n, c, p] -> reduce_max over c -> sub -> exp -> reduce_sum over c -> div

The nest of such a group (../nests/rows_across.py) computes neighbours along p side by side.
"""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.grouping.kinds import kind_of
from bessemer.compiler.schedule.nests.partial_sums import is_longer
from bessemer.compiler.schedule.nests.rows_across import FEWEST_COLUMNS

LONGEST = 256
"""The most elements of a column: their sum is not computed in parts."""


def may_join_columns(group: Group, node: Node) -> bool:
    """Whether a reduction over axes before the last ones may become part of a group that has an
    element for each of the reduction's input, in the same order."""
    whole, axes = node.inputs[0].type, tuple(node.attributes["axes"])
    if not _is_of_columns(node) or product(group.shape) != whole.numel:
        return False
    if any(
        other.inputs[0].type.shape != whole.shape or tuple(other.attributes["axes"]) != axes
        for other in group.reductions
    ):
        return False
    results = {node.output}
    for member in reversed(group.nodes):
        made = member.output.type
        is_whole = made.numel == whole.numel
        if is_whole and made.shape != whole.shape and member.operator.name != "reshape":
            return False
        if results.isdisjoint(member.inputs):
            continue
        if made.numel == node.output.type.numel:
            results.add(member.output)
        elif member.operator.name == "broadcast_to":
            before = member.inputs[0].type.shape
            padded = (1,) * (whole.rank - len(before)) + before
            kept = tuple(1 if a in axes else size for a, size in enumerate(whole.shape))
            if made.shape != whole.shape or padded != kept:
                return False
    return True


def is_once_a_column(node: Node, group: Group, producers: Mapping[Value, Node]) -> bool:
    """Whether a pointwise node computes something from the results of such a reduction."""
    waiting, numel = [node], node.output.type.numel
    while waiting:
        for value in waiting.pop().inputs:
            made = producers.get(value)
            if made is None or value.type.numel != numel:
                continue
            if made.operator.name.startswith("reduce_"):
                return _is_of_columns(made) and made.inputs[0].type.numel == product(group.shape)
            if kind_of(made) in ("pointwise", "view"):
                waiting.append(made)
    return False


def has_columns(group: Group) -> bool:
    """Whether a group has such reductions."""
    return any(map(_is_of_columns, group.reductions))


def _is_of_columns(node: Node) -> bool:
    shape, axes = node.inputs[0].type.shape, node.attributes["axes"]
    if not axes or sorted(axes) != list(range(min(axes), max(axes) + 1)):
        return False
    steps, columns = product(shape[a] for a in axes), product(shape[max(axes) + 1 :])
    return (
        isinstance(steps, int) and 1 < steps <= LONGEST and is_longer(columns, FEWEST_COLUMNS - 1)
    )
