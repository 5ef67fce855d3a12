"""What the shapes of nodes say about rows: whether a group can compute them one by one."""

from __future__ import annotations

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node


def moves_last_axis(node: Node) -> bool:
    """Whether a node is a transpose after which other elements are neighbours."""
    if node.operator.name != "transpose":
        return False
    shape = node.inputs[0].type.shape
    kept = [axis for axis in node.attributes["permutation"] if shape[axis] != 1]
    return bool(kept) and kept[-1] != max(kept)


def is_row_reduction(node: Node) -> bool:
    """Whether a reduction runs over trailing axes (axes of size 1 aside)."""
    shape = node.inputs[0].type.shape
    axes = {axis for axis in node.attributes["axes"] if shape[axis] != 1}
    kept = [axis for axis in range(len(shape)) if axis not in axes and shape[axis] != 1]
    return not kept or not axes or max(kept) < min(axes)


def is_of_rows(shape: tuple[Size, ...], whole: tuple[Size, ...]) -> bool:
    """Whether a value has one element for each row of `whole`: it is computed once a row."""
    if len(shape) != len(whole):
        return False
    same = [a == b for a, b in zip(shape, whole)]
    if all(same):
        return False
    rows = same.index(False)
    return all(size == 1 for size in shape[rows:])


def same_leading(shape: tuple[Size, ...], outer: tuple[Size, ...]) -> bool:
    """Whether `shape` starts with `outer`, axes of size 1 aside."""
    long = [size for size in shape if size != 1]
    short = [size for size in outer if size != 1]
    return long[: len(short)] == short
