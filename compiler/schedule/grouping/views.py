"""Finds the memory in which a value lies that is a view of another value: is its index linear?"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import bf16, i8, u8
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.nests.partial_sums import is_longer
from bessemer.compiler.schedule.nests.row_shapes import moves_last_axis

FEWEST_ADDED_UP = 16
"""Channels of which a convolution with one output channel makes vectors."""
_AFFINE_VIEWS = frozenset({"transpose", "reshape", "slice", "broadcast_to", "windows"})


def view_chain(
    value: Value, producers: Mapping[Value, Node], materialized: Container[Value] = ()
) -> dict[Value, Node]:
    """The views between a value and the memory in which it lies; `materialized` values are in
    memory."""
    chain: dict[Value, Node] = {}
    while (
        value not in materialized
        and (node := producers.get(value)) is not None
        and node.operator.is_view
        and node.inputs
    ):
        chain[value] = node
        value = node.inputs[0]
    return chain


@dataclass(frozen=True, eq=False)
class Source:
    """The memory in which a value lies, seen through views: the element at an index is at base +
    index . strides of `value`, for which `buffer` stands."""

    value: Value
    buffer: Buffer
    base: Size
    strides: tuple[Size, ...]


def source_of(value: Value, views: Mapping[Value, Node]) -> Source | None:
    """Where a value lies, seen through `views`; None if that is not linear in the index."""
    fusion = Fusion(views, {})
    symbols = index_symbols(value.type.shape)
    element = fusion.element(value, as_index(symbols, value.type.shape))
    strides = affine_strides(element, symbols) if isinstance(element, Load) else None
    if strides is None or not isinstance(element, Load):
        return None
    offset = element.buffer.offset(element.indices)
    base = dims.substitute(offset, dict.fromkeys(symbols, 0))
    ((memory, buffer),) = fusion.buffers.items()
    return Source(memory, buffer, base, strides)


def is_affine_operand(value: Value, producers: Mapping[Value, Node]) -> bool:
    """Whether a value lies in memory, seen through views that keep its index arithmetic linear."""
    views = view_chain(value, producers)
    if any(node.operator.name not in _AFFINE_VIEWS for node in views.values()):
        return False
    return source_of(value, views) is not None


def before_transposes(value: Value, producers: Mapping[Value, Node]) -> Value:
    """The value before a chain of transposes. If this is computed and stored, the transposes are
    views of memory; so whole rows are stored, where the value itself would have to be
    transposed."""
    while (node := producers.get(value)) is not None and node.operator.name == "transpose":
        value = node.inputs[0]
    return value


def has_neighbours_last(value: Value, producers: Mapping[Value, Node]) -> bool:
    """Whether neighbours along the last axis of a value are neighbours in the memory that it is a
    view of."""
    source = source_of(value, view_chain(value, producers))
    return source is not None and source.strides[-1] == 1


def parts_neighbours(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether transposes have moved apart the neighbours along the depth of the left operand of a
    product of bfloat16 or bytes. Such an operand is put in order first, which takes less time than
    multiplying the neighbours one at a time. It is not needed for windows that have neighbours
    along a row of the image: these are multiplied together instead."""
    x, w = node.inputs
    if node.operator.name not in ("matmul", "conv") or x.type.dtype not in (bf16, u8, i8):
        return False
    is_window = node.operator.name == "conv" and w.type.shape[-3] != 1
    if is_window and node.attributes["dilations"][-1] == 1:
        return False
    left = producers.get(x)
    is_transpose = left is not None and left.operator.name == "transpose"
    return is_transpose and not has_neighbours_last(x, producers)


def adds_up_channels(node: Node) -> bool:
    """Whether a convolution has one output channel, so that its vectors are of what it adds up:
    channels, if they fill some. Windows of fewer are read from planes in less time than it takes to
    put these in order."""
    if node.operator.name != "conv":
        return False
    *taps, channels, columns = node.inputs[1].type.shape
    return columns == 1 and taps[-1] != 1 and is_longer(channels, FEWEST_ADDED_UP - 1)


def pools_moved_channels(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a pool's windows see channels that a transpose brings together: they are put in
    order once, not for every window."""
    made = producers.get(node.inputs[0])
    is_pool = node.operator.name in ("max_pool", "average_pool")
    return is_pool and made is not None and moves_last_axis(made)


def affine_strides(load: Load, symbols: tuple[Symbol, ...]) -> tuple[Size, ...] | None:
    """The distance in elements between neighbours along each symbol; None if the offset is not
    linear."""
    if load.guard is not None:
        return None
    offset = load.buffer.offset(load.indices)
    if walk_expr.index_expressions(offset):
        return None
    strides: list[Size] = []
    for symbol in symbols:
        stride = dims.coefficient_of(offset, symbol)
        if stride is None or any(s in dims.atoms(stride) for s in symbols):
            return None
        strides.append(stride)
    return tuple(strides)
