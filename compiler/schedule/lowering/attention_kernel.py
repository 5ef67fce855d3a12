"""Writes the kernel of an attention: softmax(query . keys) . values, without storing the scores of
a whole head.

    parallel chunk in chunks
      for item in the chunk's items                  a block of rows of one head
        scratch[row, key] = query . key              register tiles; scale and mask in the epilogue
        for each row
          scratch[row, key] = exp(scratch - max)     in the first-level cache; weights rounded to
                                                     bf16 go to a scratch of their own
          inverse[row] = 1 / sum
        out[row, column] = scratch . value           times inverse[row] in the epilogue

A chunk has scratch memory of its own, which all its items use, so that scores never leave the
cache. If the number of rows is known, all blocks have the same length: the last one begins earlier
where necessary, and computes some rows again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Index, Read, convert, less
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.ir.program import Launch, working_memory
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.types import DType
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    RowAxis,
    with_group,
)
from bessemer.compiler.schedule.contraction.microkernel import write_contraction
from bessemer.compiler.schedule.contraction.tiles import plan, registers_tile
from bessemer.compiler.schedule.grouping.attention import Attention, RowForm, row_form
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, in_order
from bessemer.compiler.schedule.grouping.views import Source
from bessemer.compiler.schedule.lowering.attention_blocks import (
    MOST_TILES,
    bytes_of_a_score,
    rows_of_a_block,
)
from bessemer.compiler.schedule.lowering.attention_in_place import InPlace
from bessemer.compiler.schedule.lowering.attention_packing import (
    Packed,
    PackedByPanels,
)
from bessemer.compiler.schedule.lowering.attention_tiles import (
    HEIGHT,
    whole_steps,
    write_product,
    write_zeros,
)
from bessemer.compiler.schedule.lowering.attention_values import InMemory
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.schedule.nests.rows import write_row
from bessemer.compiler.targets.machine import Target

CHUNKS = 32
"""Parallel iterations: enough for the threads to share, few enough to keep the scratch small."""
ROW_WORK = 40
"""Scalar operations on a score between the products."""
_TOTAL = "total"


@dataclass(frozen=True, eq=False)
class AttentionKernel:
    """The kernel of one group. The indices in its expressions are symbols, for which `_item`
    substitutes those of an item.

    For up to `few` rows it reads keys and values where they lie, through `pack_nodes`. The query is
    always read where it lies, through `query_views`.
    """

    group: Group
    query: Source
    keys: Packed | PackedByPanels
    values: Packed | InMemory
    few: int
    on_tiles: bool
    pack_nodes: Sequence[Node]
    query_views: Mapping[Value, Node]
    lowering: Lowering

    @property
    def target(self) -> Target:
        return self.lowering.target

    @cached_property
    def attention(self) -> Attention:
        assert self.group.attention is not None
        return self.group.attention

    @property
    def dtype(self) -> DType:
        return self.attention.product.output.type.dtype

    @property
    def weights_type(self) -> DType:
        return self.attention.product.inputs[0].type.dtype

    @cached_property
    def fusion(self) -> Fusion:
        nodes = [*self.attention.nodes, *in_order(self.group)]
        return Fusion.of(nodes, self.lowering.constants)

    @cached_property
    def direct(self) -> Fusion:
        """A fusion of the same buffers that reads through the nodes before the query, the keys and
        the values."""
        views = self.query_views.values()
        nodes = (*self.attention.nodes, *in_order(self.group), *self.pack_nodes, *views)
        inlined = {node.output: node for node in nodes}
        return Fusion(inlined, self.lowering.constants, {}, self.fusion.buffers)

    @cached_property
    def builder(self) -> KernelBuilder:
        return KernelBuilder()

    @cached_property
    def form(self) -> RowForm:
        """The expressions of a row: how its weights follow from its scores, which lie at
        `_score(key)`."""
        form = row_form(self.attention, self.fusion, self._score)
        if form is None:
            raise InternalError("an attention's rows depend on each other")
        return form

    @cached_property
    def base(self) -> Symbol:
        """The symbol for the place in the scratch where the current row begins."""
        return Symbol("scores", None)

    @cached_property
    def rows(self) -> Size:
        return self.attention.product.output.type.shape[-2]

    @cached_property
    def key_count(self) -> Size:
        return self.attention.product.inputs[0].type.shape[-1]

    @property
    def depth(self) -> Size:
        """The number of products in a score."""
        return self.attention.scores.inputs[0].type.shape[-1]

    @cached_property
    def height(self) -> int:
        """The most rows in a tile."""
        return HEIGHT if self.on_tiles else registers_tile(2, self.target.vector_registers)

    @cached_property
    def block(self) -> int:
        """The number of query rows in a block."""
        if isinstance(self.keys, PackedByPanels):
            return self.keys.rows
        kept = bytes_of_a_score(self.attention)
        return rows_of_a_block(self.rows, self.key_count, kept, self.height)

    @cached_property
    def blocks(self) -> Size:
        return dims.ceildiv(self.rows, self.block)

    @cached_property
    def stride(self) -> Size:
        """The distance between rows in the scratch. It is never a multiple of a page: all rows
        would then share one set of the cache."""
        return dims.ceildiv(self.key_count, 16) * 16 + 16

    @cached_property
    def scores(self) -> Buffer:
        return self.builder.scratch(self.dtype, (self.chunks * self.block * self.stride,))

    @cached_property
    def weights(self) -> Buffer:
        """The buffer for the rows' weights: that of the scores, unless weights are rounded to
        another type."""
        if self.weights_type == self.dtype:
            return self.scores
        return self.builder.scratch(self.weights_type, self.scores.shape)

    @cached_property
    def batch(self) -> tuple[Size, ...]:
        return self.attention.product.inputs[0].type.shape[:-2]

    @cached_property
    def items(self) -> Size:
        return dims.product(self.batch) * self.blocks

    @cached_property
    def share(self) -> Size:
        """The number of items in a chunk."""
        return dims.maximum(1, dims.ceildiv(self.items, CHUNKS))

    @cached_property
    def chunks(self) -> Size:
        return dims.ceildiv(self.items, self.share)

    def launch(self) -> Launch:
        """The launch of the kernel."""
        assert self.group.root is not None
        out = self.lowering.destination(self.group.root, self.group.tail)
        memory = flat(self.fusion.buffer(self.query.value))
        query = replace(self.query, buffer=memory)
        with self.builder.loop(self.chunks, "parallel") as chunk:
            own = self.builder.local(chunk * (self.block * self.stride))
            count = dims.minimum(self.share, self.items - chunk * self.share)
            if self.share == 1:
                self._item(chunk, own, query, out)
            else:
                with self.builder.loop(count) as step:
                    self._item(self.builder.local(chunk * self.share + step), own, query, out)
        body = self.builder.block()
        nodes = [*self.attention.nodes, *in_order(self.group)]
        inputs = flat_buffers(self.fusion)
        columns = self.attention.product.output.type.shape[-1]
        work = self.block * self.key_count * (2 * self.depth + 2 * columns + ROW_WORK)
        scratch = working_memory(self.builder.scratch_buffers)
        made = Computation(body, self.share * work, name="attention", scratch=scratch)
        return self.lowering.launch(nodes, inputs, {out.value: out.buffer}, made)

    def _item(self, item: Size, own: Size, query: Source, out: Destination) -> None:
        """Writes one block of rows of one head."""
        block = dims.mod(item, self.blocks)
        batch = unravel(dims.floordiv(item, self.blocks), self.batch, self.builder.local)
        batch = tuple(map(self.builder.local, batch))
        first = self.builder.local(block * self.block)
        count: Size = self.block
        if not isinstance(self.rows, int):
            count = self.builder.local(dims.minimum(self.block, self.rows - first))
        elif self.rows % self.block:
            first = self.builder.local(dims.minimum(first, self.rows - self.block))
        here: dict[Atom, Size] = dict(zip(self.form.batch, batch))
        leading = tuple(dims.substitute(i, here) for i in self.form.leading[:-1])
        inverse = self.builder.allocate(self.dtype, (self.block,))
        in_place = InPlace(
            self.builder, self.target.lanes, self.attention, self.direct, self.scores,
            self.weights, own, self.stride, count,
        )  # fmt: skip
        few = less(self.rows, self.few + 1) if self.few else None
        with in_place.if_few(few, lambda: in_place.scores(leading)):
            self._scores(query, leading, first, count, own)
        divided = False
        with self.builder.loop(count) as row:
            base = self.builder.local(own + row * self.stride)
            divided = self._weights({**here, self.form.row: first + row}, base, inverse, row)
        factor = inverse if divided else None
        with in_place.if_few(few, lambda: in_place.results(batch, self.group.core, out, factor)):
            self._results(out, batch, first, count, own, factor)

    def _scores(self, query: Source, leading: Index, first: Size, count: Size, own: Size) -> None:
        """Writes the first product, with the pointwise operators after it."""
        scores = self.attention.scores.output
        shape = scores.type.shape
        symbols = index_symbols(shape, "score")
        total = expr.read(_TOTAL, scores.type.dtype)
        inner = self.fusion.given({scores: lambda _: total})
        element = flatten_loads(inner.element(self.attention.carried, as_index(symbols, shape)))

        def epilogue(rows: tuple[Size, ...], column: Size, value: Expression) -> tuple[Store, ...]:
            here: dict[Atom, Size] = dict(zip(symbols, (*leading, first + rows[0], column)))
            at = own + rows[0] * self.stride + column
            return (Store(self.scores, (at,), _filled(element, value, here)),)

        base = dims.total(i * s for i, s in zip((*leading, first), query.strides))
        a_base = self.builder.local(query.base + base)
        keys = self.keys

        def product(columns: Size, b: Buffer, matrix: Size, begin: Size) -> Contraction:
            return Contraction(
                dtype=scores.type.dtype,
                a=query.buffer,
                a_base=a_base,
                rows=(RowAxis(count, query.strides[-2]),),
                depth=(DepthAxis(self.depth, query.strides[-1]),),
                columns=columns,
                b=b,
                epilogue=lambda rows, column, value: epilogue(rows, begin + column, value),
                b_matrix=matrix,
            )

        if isinstance(keys, Packed):
            b, matrix = (
                flat(self.fusion.buffer(keys.value)),
                self.builder.local(keys.matrix(leading)),
            )
            self._product(product(self.key_count, b, matrix, 0), keys)
            return
        assert isinstance(self.key_count, int)
        with self.builder.loop(self.key_count // keys.panel) as number:
            b = keys.write(self.builder, self.direct, leading, number, self.target.lanes)
            self._product(product(keys.panel, b, 0, number * keys.panel), keys)

    def _weights(self, here: Mapping[Atom, Size], base: Size, inverse: Buffer, row: Size) -> bool:
        """Writes one row's weights. Returns whether the results are still to be multiplied by
        `inverse`."""
        key = self.form.key
        value = walk_expr.substitute(self.form.weight, {**here, self.base: base})
        piece = Piece(self.weights, base + atom(key), flatten_loads(value), (key,))
        divisor = write_row(self.builder, piece, self.target.lanes)
        if self.on_tiles:
            write_zeros(self.builder, self.weights, base, self.key_count, self.target)
        if divisor is None:
            return False
        one = expr.constant(1, self.dtype)
        # Without keys the total is 0, and so is the product: it must not be divided by 0.
        divisor = expr.select(less(0, self.key_count), convert(divisor, self.dtype), one)
        self.builder.store(inverse, (row,), one / divisor)
        return True

    def _results(
        self,
        out: Destination,
        batch: Index,
        first: Size,
        count: Size,
        own: Size,
        inverse: Buffer | None,
    ) -> None:
        """Writes the second product, with the rest of the group after it."""
        product, core = self.attention.product.output, self.group.core
        shape = product.type.shape
        symbols = index_symbols(shape)
        index = as_index(symbols, shape)
        total = expr.read(_TOTAL, product.type.dtype)
        inner = self.fusion.given({product: lambda _: total})
        element = flatten_loads(inner.element(core, index))
        offset = out.offset(index)

        def epilogue(rows: tuple[Size, ...], column: Size, value: Expression) -> tuple[Store, ...]:
            here: dict[Atom, Size] = dict(zip(symbols, (*batch, first + rows[0], column)))
            if inverse is not None:
                value = value * inverse[rows[0],]
            return (
                Store(out.buffer, (dims.substitute(offset, here),), _filled(element, value, here)),
            )

        depth = whole_steps(self.key_count) if self.on_tiles else self.key_count
        self._product(
            Contraction(
                dtype=product.type.dtype,
                a=self.weights,
                a_base=own,
                rows=(RowAxis(count, self.stride),),
                depth=(DepthAxis(depth, 1),),
                columns=shape[-1],
                b=flat(self.fusion.buffer(self.values.value)),
                epilogue=epilogue,
                b_matrix=self.builder.local(self.values.matrix(batch)),
                b_step=self.values.step,
            ),
            self.values,
        )

    def _product(self, contraction: Contraction, right: Packed | PackedByPanels | InMemory) -> None:
        if self.on_tiles:
            is_first = right is self.keys
            write_product(self.builder, contraction, is_first, self.target)
            return
        contraction = with_group(contraction, self.target)
        tiling = plan(contraction, self.target)
        if tiling.panel != right.panel:
            raise InternalError(f"panels of {right.panel} columns, {tiling.panel} expected")
        # No prefetch: what follows in memory belongs to the next head, another item's.
        tiling = replace(tiling, block=MOST_TILES + 1, prefetch=False)
        write_contraction(self.builder, contraction, tiling, self.target)

    def _score(self, key: Size) -> Expression:
        """A score of the current row."""
        return expr.load(self.scores, (atom(self.base) + key,))


def _filled(element: Expression, total: Expression, here: Mapping[Atom, Size]) -> Expression:
    """The element with `total` in place of the sum, at the index `here`."""
    return walk_expr.transform(
        element, lambda n: total if isinstance(n, Read) and n.local == _TOTAL else None, here
    )
