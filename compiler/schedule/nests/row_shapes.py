"""What the shapes of nodes say about rows: whether a group can compute them one by one."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.dims import Size, is_nonnegative
from bessemer.compiler.ir.graph import Node, Value


def moves_last_axis(node: Node) -> bool:
    """Whether a node is a transpose after which other elements are neighbours."""
    if node.operator.name != "transpose":
        return False
    shape = node.inputs[0].type.shape
    kept = [axis for axis in node.attributes["permutation"] if shape[axis] != 1]
    return bool(kept) and kept[-1] != max(kept)


def picks_in_rows(node: Node) -> bool:
    """Whether a node gathers at least as many elements from each row as there are: those that are
    neighbours afterwards were so before only by chance."""
    if node.operator.name not in ("gather", "gather_elements"):
        return False
    whole, picked = node.inputs[0].type, node.output.type
    last = whole.rank - 1
    if node.attributes["axis"] != last or whole.shape[last] == 1:
        return False
    return is_nonnegative(picked.numel - whole.numel)


def is_row_reduction(node: Node) -> bool:
    """Whether a reduction runs over trailing axes; axes of size 1 are ignored."""
    shape = node.inputs[0].type.shape
    axes = {axis for axis in node.attributes["axes"] if shape[axis] != 1}
    kept = [axis for axis in range(len(shape)) if axis not in axes and shape[axis] != 1]
    return not kept or not axes or max(kept) < min(axes)


def is_of_rows(shape: tuple[Size, ...], whole: tuple[Size, ...]) -> bool:
    """Whether a value has one element for each row of `whole`, so that it is computed once per
    row."""
    if len(shape) != len(whole):
        return False
    same = [a == b for a, b in zip(shape, whole)]
    if all(same):
        return False
    rows = same.index(False)
    return all(size == 1 for size in shape[rows:])


def spreads_in_rows(value: Value, readers: Sequence[Node]) -> bool:
    """Whether these nodes, in order, use a row's number for that row only. If they spread it over
    other rows (along the rows of a square), every row would compute the numbers of all rows."""
    if value.type.numel == 1:
        return True
    same = {value}
    for node in readers:
        if same.isdisjoint(node.inputs):
            continue
        made, before = node.outputs[0].type, node.inputs[0].type
        if made.numel == value.type.numel:
            same.add(node.outputs[0])
        elif node.operator.name == "broadcast_to" and not is_of_rows(before.shape, made.shape):
            return False
    return True


def same_leading(shape: tuple[Size, ...], outer: tuple[Size, ...]) -> bool:
    """Whether `shape` starts with `outer`; axes of size 1 are ignored."""
    long = [size for size in shape if size != 1]
    short = [size for size in outer if size != 1]
    return long[: len(short)] == short
