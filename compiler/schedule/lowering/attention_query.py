"""The left side of an attention's first product, which is read where it lies, through views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import walk_expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.grouping.attention import Attention
from bessemer.compiler.schedule.grouping.fuse import Fusion, affine_strides, as_index, index_symbols
from bessemer.compiler.schedule.nests.nests import flat


@dataclass(frozen=True, eq=False)
class Query:
    """Where the rows lie: memory, the first element's offset, the distances between neighbours
    along each axis, and the elements of a row."""

    buffer: Buffer
    base: Size
    strides: tuple[Size, ...]
    depth: Size


def query_of(attention: Attention, views: Mapping[Value, Node], kernel: Fusion) -> Query:
    """The query of a kernel, which reads it through these views."""
    left = attention.scores.inputs[0]
    fusion = Fusion(views, {})
    symbols = index_symbols(left.type.shape)
    element = fusion.element(left, as_index(symbols, left.type.shape))
    strides = affine_strides(element, symbols) if isinstance(element, Load) else None
    if strides is None or not isinstance(element, Load):
        raise InternalError("an attention's query does not lie in memory")
    first = walk_expr.substitute(element, dict.fromkeys(symbols, 0))
    assert isinstance(first, Load)
    (memory,) = fusion.buffers
    strides = tuple(0 if n == 1 else s for n, s in zip(left.type.shape, strides))
    buffer = flat(kernel.buffer(memory))
    return Query(buffer, first.buffer.offset(first.indices), strides, left.type.shape[-1])
