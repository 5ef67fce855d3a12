"""Applies an optimizer's step right after the product that computes the gradient, block by block.

    for blocks of rows of g, on all threads:
      g = rows of transpose(x) @ dy                          in the second-level cache
      m' = f(m, g);   v' = h(v, g);   p' = p - q(m', v')     of these rows

The gradient is never stored in memory, and what the update reads is prefetched while the products
are added up. The results are the same to the bit as those of separate launches. (One core of a Zen
4, Adam and a batch of 64, weights of 2048 x 2048: 0.87 times a network's whole step. With the
update in the epilogue of every tile it would be 0.97, because the lines of a tile's rows fall into
few sets of the first-level cache.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Load
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.loops import Prefetch, Store
from bessemer.compiler.ir.program import Launch, Step
from bessemer.compiler.ir.walk_steps import touched
from bessemer.compiler.schedule.contraction.contraction import RowAxis
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.microkernel import write_contraction
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, TiledProduct
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.update_loop import write_elements
from bessemer.compiler.targets.machine import CACHE_LINE, Target

BLOCK_BYTES = 64 << 10
"""The most bytes of a block of the gradient, which is on the stack."""
MOST_COLUMNS = 512
"""The most columns of a block."""
ENOUGH = 16
"""Blocks are made smaller until there are at least this many for the threads to share."""
FULL = 0.7
"""The least fraction of a register tile's rows that must be in use."""


@dataclass(frozen=True, eq=False)
class _Block:
    """The number of rows and columns of the blocks into which a gradient is cut."""

    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class GradientProduct:
    """The launch of a product that stores a gradient, and what it was made from."""

    launch: Launch
    gradient: Value
    product: TiledProduct
    block: _Block

    @property
    def inputs(self) -> Mapping[Value, Buffer]:
        """The buffers of a kernel that replaces it: what it reads, and the gradient, which
        `launch_with` leaves out."""
        buffer = Buffer("gradient", self.gradient.type.dtype, (self.gradient.type.numel,))
        return {**self.product.inputs, self.gradient: buffer}

    def launch_with(
        self,
        pieces: Sequence[Piece],
        inputs: Mapping[Value, Buffer],
        outputs: Mapping[Value, Buffer],
        nodes: Sequence[Node],
        lowering: Lowering,
    ) -> Launch:
        """The launch of a kernel that stores the pieces, in order, and no gradient."""
        made, block = self.product, self.block
        work = 2 * block.rows * block.columns * dims.number(made.contraction.depth_extent)
        gradient = inputs[self.gradient]
        builder = KernelBuilder()
        across = dims.number(made.contraction.columns) // block.columns
        down = dims.number(made.contraction.rows[0].extent) // block.rows
        with builder.loop(down * across, "parallel") as item:
            place = dims.floordiv(item, across), dims.mod(item, across)
            writer = _BlockWriter(builder, lowering, made, block, gradient, *place)
            found = writer.write_gradient(_read_evenly(pieces, gradient))
            writer.write_update(pieces, found)
        return lowering.launch(
            [*made.nodes, *nodes],
            {value: buffer for value, buffer in inputs.items() if value is not self.gradient},
            outputs,
            Computation(builder.block(), work, name="matmul_update", arguments=made.arguments),
        )


@dataclass(frozen=True, eq=False)
class _BlockWriter:
    """Writes the loops for one block of a gradient, in row `down` and column `across` of the grid
    of blocks. `gradient` is the buffer from which the updates read it."""

    builder: KernelBuilder
    lowering: Lowering
    product: TiledProduct
    block: _Block
    gradient: Buffer
    down: Size
    across: Size

    @property
    def begin(self) -> Size:
        """The offset of the block's first element."""
        columns = self.product.contraction.columns
        return self.down * (self.block.rows * columns) + self.across * self.block.columns

    def write_gradient(self, fetched: Sequence[Buffer]) -> Buffer:
        """Writes the product for the block, with its result on the stack; returns that buffer. What
        the update reads of `fetched` is prefetched at the same time."""
        whole, block = self.product.contraction, self.block
        found = self.builder.allocate(self.gradient.dtype, (block.rows * block.columns,))
        (axis,) = whole.rows
        first, left = self.down * block.rows, self.across * block.columns

        def epilogue(rows: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
            (row,) = rows
            (store,) = whole.epilogue((first + row,), left + column, total)
            return (Store(found, (row * block.columns + column,), store.value),)

        part = replace(
            whole,
            a_base=whole.a_base + first * axis.a_stride,
            rows=(RowAxis(block.rows, axis.a_stride),),
            columns=block.columns,
            b_matrix=whole.b_matrix + self.across,
            epilogue=epilogue,
            bands=None,  # those are of the whole product's rows and columns
            fetch=partial(self._fetch, fetched),
        )
        tiling = replace(self.product.tiling, block=block.rows, prefetch=False)
        write_contraction(self.builder, part, tiling, self.lowering.target)
        return found

    def _fetch(
        self, buffers: Sequence[Buffer], panel: Size, tile: Size, step: Size
    ) -> list[Prefetch]:
        """The prefetches for one turn of the depth of a tile. All turns of all tiles together
        prefetch the block of these buffers."""
        made, block = self.product, self.block
        unroll = made.tiling.unroll
        turns = max(1, dims.number(made.contraction.depth_steps) // unroll)
        tiles = dims.number(cut_evenly(block.rows, made.tiling.height).count)
        panels = -(-block.columns // made.tiling.panel)
        turn = (panel * tiles + tile) * turns + dims.floordiv(step, unroll)
        hints = []
        for buffer in buffers:
            line = CACHE_LINE // buffer.dtype.bytes
            lines = -(-block.rows * block.columns // (line * panels * tiles * turns))
            for number in range(lines):
                at = (turn * lines + number) * line
                row, column = dims.floordiv(at, block.columns), dims.mod(at, block.columns)
                offset = self.begin + row * made.contraction.columns + column
                hints.append(Prefetch(buffer, offset, 2))
        return hints

    def write_update(self, pieces: Sequence[Piece], found: Buffer) -> None:
        """Writes the pieces' elements in the block, with the gradient read from `found`."""
        block, columns = self.block, dims.number(self.product.contraction.columns)

        def write(first: Size, kept: Size, length: int, ahead: int | None) -> None:
            own = [_reading(piece, self.gradient, found, kept - first) for piece in pieces]
            write_elements(self.builder, own, first, length, self.lowering, ahead)

        if columns == block.columns:
            write(self.begin, 0, block.rows * columns, None)
            return
        with self.builder.loop(block.rows) as row:
            write(self.begin + row * columns, row * block.columns, block.columns, columns)


def _read_evenly(pieces: Sequence[Piece], gradient: Buffer) -> list[Buffer]:
    """The buffers that pieces read at the place where they store, except the gradient and what they
    store."""
    own = {gradient, *(piece.target for piece in pieces)}
    found = dict.fromkeys(
        node.buffer
        for piece in pieces
        for node in walk_expr.loads_of(piece.value)
        if node.indices == (atom(piece.symbols[0]),)
    )
    return [buffer for buffer in found if buffer not in own]


def _reading(piece: Piece, gradient: Buffer, found: Buffer, moved: Size) -> Piece:
    """The piece, with the gradient read from `found`, at indices that are greater by `moved`."""
    (symbol,) = piece.symbols

    def rule(node: Expression) -> Expression | None:
        if isinstance(node, Load) and node.buffer == gradient:
            return expr.load(found, (atom(symbol) + moved,))
        return None

    return replace(piece, value=walk_expr.transform(piece.value, rule))


class Products:
    """The products among a program's steps that may be computed block by block, with their updates.

    `outputs` are the program's, which differ from the graph's where an output is a copy.
    """

    def __init__(
        self, graph: Graph, outputs: Sequence[Value], steps: Sequence[Step], lowering: Lowering
    ) -> None:
        self.places = {outputs[output]: graph.inputs[given] for output, given in graph.updates}
        self.kept = {*graph.outputs, *outputs}
        self.products, self.target = lowering.origins.products, lowering.target
        self.readers = Counter(value for step in steps for value in {*touched(step)[0]})

    def before(
        self,
        steps: Sequence[Step],
        updates: Sequence[Launch],
        even: Mapping[Value, int],
        extent: Size,
    ) -> GradientProduct | None:
        """The product among these steps whose result only the updates read, if it may be computed
        after all of the steps; else None.

        `even` counts, for each value, the updates that read it only at the place where they store.
        """
        over = self._overwritten(updates)
        later = set[Value]()
        for step in reversed(steps):
            reads, writes = touched(step)
            if isinstance(step, Launch) and len(writes) == 1 and writes[0] not in self.kept:
                (gradient,) = writes
                product = self.products.get(gradient)
                is_theirs = 0 < even.get(gradient, 0) == self.readers[gradient]
                if product is not None and is_theirs and later.isdisjoint(reads):
                    return self._made(step, gradient, product, extent, over)
            later |= self._overwritten([step])
        return None

    def _made(
        self,
        launch: Launch,
        gradient: Value,
        product: TiledProduct,
        extent: Size,
        overwritten: set[Value],
    ) -> GradientProduct | None:
        if not _fits(product, gradient, extent, overwritten):
            return None
        block = _block_of(product, self.target)
        return GradientProduct(launch, gradient, product, block) if block else None

    def _overwritten(self, steps: Iterable[Step]) -> set[Value]:
        """The inputs of the graph that these steps overwrite."""
        written = (value for step in steps for value in touched(step)[1])
        return {self.places[value] for value in written if value in self.places}


def _fits(
    product: TiledProduct, gradient: Value, extent: Size, overwritten: Iterable[Value]
) -> bool:
    """Whether a product stores the gradient's elements in order, and reads what is overwritten only
    at the places that it stores at the same time."""
    contraction = product.contraction
    if len(contraction.rows) != 1 or contraction.rows[0].b_stride != 0 or contraction.b_step:
        return False
    row, column = dims.symbol("row"), dims.symbol("column")
    stores = contraction.stores_at((row,), column)
    sums = contraction.rows[0].extent * contraction.columns
    if len(stores) != 1 or stores[0].guard is not None or sums != extent:
        return False
    if stores[0].indices != (row * contraction.columns + column,):
        return False
    names = {product.inputs[v].name for v in overwritten if v in product.inputs}
    elsewhere = walk_expr.read_elsewhere(stores[0].value, stores[0].indices)
    elsewhere |= {contraction.a.name, contraction.b.name}
    return names.isdisjoint(elsewhere) and gradient.type.numel == extent


def _block_of(product: TiledProduct, target: Target) -> _Block | None:
    """The largest block that leaves room in the second-level cache. None if there is none, or sums
    are so long that the operands alone fill the cache."""
    contraction, tiling = product.contraction, product.tiling
    (axis,) = contraction.rows
    sizes = axis.extent, contraction.columns, contraction.depth_extent
    if tiling.depth_block is not None or not all(isinstance(size, int) for size in sizes):
        return None
    rows, columns, depth = map(dims.number, sizes)
    if columns > MOST_COLUMNS:
        widths = [n for n in _divisors(columns, MOST_COLUMNS) if n % tiling.panel == 0]
        if not widths:
            return None
        columns = widths[-1]
    if depth * columns * contraction.b.dtype.bytes > target.l2_bytes // 2:
        return None
    most = BLOCK_BYTES // (columns * contraction.dtype.bytes)
    heights = [
        n
        for n in _divisors(rows, most)
        if n >= FULL * tiling.height * dims.number(cut_evenly(n, tiling.height).count)
    ]
    if not heights:
        return None
    across = dims.number(contraction.columns) // columns
    enough = [n for n in heights if rows // n * across >= ENOUGH]
    return _Block(enough[-1] if enough else heights[0], columns)


def _divisors(number: int, most: int) -> list[int]:
    """The divisors of a number, up to `most`, in ascending order."""
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]
