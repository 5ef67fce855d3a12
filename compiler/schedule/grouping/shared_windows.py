"""Finds matrix products whose right operands are windows that share most of their rows.

    out[y] = a x window[y]        window[y] has row y of an image in memory and those behind it

Packing would write a row once for each window that has it, but rows lie one behind the other in
memory: lowering/shared_windows.py reads them there.
"""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import f32, f64
from bessemer.compiler.schedule.grouping.views import Source


def seen_through_windows(node: Node, producers: Mapping[Value, Node]) -> Value | None:
    """What the right operand of such a product consists of, which is to be stored; None for other
    nodes."""
    merged = producers.get(node.inputs[1])
    if node.operator.name != "matmul" or merged is None or merged.operator.name != "reshape":
        return None
    seen = producers.get(merged.inputs[0])
    if seen is None or seen.operator.name != "windows" or seen.output.type.rank < 4:
        return None
    (image,), (*lead, rows, taps, depth, columns) = seen.inputs, seen.output.type.shape
    along = seen.attributes["axis"] == image.type.rank - 3 and seen.attributes["steps"] == (1, 1)
    is_whole = merged.output.type.shape == (*lead, rows, taps * depth, columns)
    return image if along and is_whole and taps != 1 else None


def is_of_shared_windows(node: Node, source: Source | None) -> bool:
    """Whether a node is such a product, whose right operand lies at `source`: a step to the next
    matrix is one along an axis of the memory, which has fewer rows there than a matrix."""
    types = {value.type.dtype for value in (*node.inputs, node.output)}
    if node.operator.name != "matmul" or types not in ({f32}, {f64}):
        return False
    if source is None or source.base != 0:
        return False
    memory, shape = source.value.type.shape, node.inputs[1].type.shape
    if len(memory) != len(shape) or len(shape) < 3 or shape[-2] == memory[-2]:
        return False
    return all(
        size == 1 or stride == product(memory[place + 1 :])
        for place, (size, stride) in enumerate(zip(shape, source.strides, strict=True))
    )
