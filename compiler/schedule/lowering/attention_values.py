"""Finds out whether an attention's values can be read where they lie.

The second product reads neighbours along the columns, as they lie in memory. If a head's rows
follow each other, packing would gain nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Index, Load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.grouping.attention import Attention, in_full_width
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.views import affine_strides


@dataclass(frozen=True, eq=False)
class InMemory:
    """The right operand of a product, read from memory as if it was packed: where the matrix of a
    batch index begins (`begin`, a formula of the symbols `batch`), and how far apart its rows are
    (`step`)."""

    value: Value
    panel: int
    begin: Size
    batch: tuple[Symbol, ...]
    step: Size

    def matrix(self, batch: Index) -> Size:
        """The offset of the matrix for an index of the product's batch axes."""
        index = batch[len(batch) - len(self.batch) :]
        return dims.substitute(self.begin, dict(zip(self.batch, index, strict=True)))


def values_in_memory(
    attention: Attention, pack_nodes: Sequence[Node], panel: int
) -> InMemory | None:
    """The values as seen through `pack_nodes`, if they are whole panels of rows that follow each
    other; else None."""
    product = attention.product
    right = product.inputs[1]
    columns = right.type.shape[-1]
    if not in_full_width(product) or not isinstance(columns, int) or columns % panel:
        return None
    fusion = Fusion.of(pack_nodes, {})
    *batch, row, column = symbols = index_symbols(right.type.shape, "value")
    element = fusion.element(right, as_index(symbols, right.type.shape))
    if not isinstance(element, Load) or affine_strides(element, (row, column)) != (columns, 1):
        return None
    (memory,) = fusion.buffers
    offset = element.buffer.offset(element.indices)
    begin = dims.substitute(offset, {row: 0, column: 0})
    return InMemory(memory, panel, begin, tuple(batch), columns)
