"""Writes the two products of an attention for few query rows, reading keys and values where they
lie.

A decoder that keeps its keys and values computes one row per step. Packing keys and values for it
would take several times as long as everything else. If the number of rows is symbolic, the
attention kernel contains both versions, and the packing kernels do nothing when there are few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.schedule.grouping.attention import Attention
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.few_rows import MOST_ROWS_OF_SMALL, is_computed
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import Lanes, flatten_loads, write_nest


def most_rows_in_place(attention: Attention, pack_nodes: Sequence[Node]) -> int:
    """The most rows for which keys and values are read where they lie. 0: they are always packed.

    `pack_nodes` are the nodes between memory and the keys and values.
    """
    *_, rows, keys = attention.product.inputs[0].type.shape
    if isinstance(rows, int) or rows == keys:
        return 0
    return 1 if is_computed(pack_nodes) else MOST_ROWS_OF_SMALL


@dataclass(frozen=True, eq=False)
class InPlace:
    """Writes the products for `rows` query rows of one head into a kernel.

    `fusion` reads through everything between memory and the products. `kept_scores` and
    `kept_weights` are buffers for scores and weights, which may be the same one. Those of the
    current chunk begin at `own`, and rows are `stride` apart.
    """

    builder: KernelBuilder
    lanes: Lanes
    attention: Attention
    fusion: Fusion
    kept_scores: Buffer
    kept_weights: Buffer
    own: Size
    stride: Size
    rows: Size

    @contextmanager
    def if_few(self, are_few: Expression | None, write: Callable[[], None]) -> Iterator[None]:
        """Adds what `write` writes under the condition `are_few`, and what is inside of the `with`
        otherwise. If the condition is None, only the latter is written."""
        if are_few is None:
            yield
            return
        with self.builder.when(are_few):
            write()
        with self.builder.otherwise():
            yield

    def scores(self, leading: Index) -> None:
        """Writes the first product, with the pointwise operators after it."""
        carried = self.attention.carried
        row, key = Symbol("row", self.rows), Symbol("key", carried.type.shape[-1])
        index = broadcast_index((*leading, atom(row), atom(key)), carried.type.shape)
        value = flatten_loads(self.fusion.element(carried, index))
        place = self._place(atom(row), atom(key))
        write_nest(self.builder, Piece(self.kept_scores, place, value, (row, key)), self.lanes)

    def results(self, batch: Index, core: Value, out: Destination, inverse: Buffer | None) -> None:
        """Writes the second product, times `inverse` of the row if given, with the rest of the
        group after it."""
        product = self.attention.product
        row, column = Symbol("row", self.rows), Symbol("column", core.type.shape[-1])
        index = broadcast_index((*batch, atom(row), atom(column)), core.type.shape)

        def weight(at: Index) -> Expression:
            return expr.load(self.kept_weights, (self._place(at[-2], at[-1]),))

        def divided(at: Index) -> Expression:
            total = self.fusion.given({product.inputs[0]: weight}).element(product.output, at)
            return total if inverse is None else total * inverse[at[-2],]

        value = self.fusion.given({product.output: divided}).element(core, index)
        piece = Piece(out.buffer, out.offset(index), flatten_loads(value), (row, column))
        write_nest(self.builder, piece, self.lanes)

    def _place(self, row: Size, key: Size) -> Size:
        return self.own + row * self.stride + key
