"""The gradient of a 3x3 convolution's weights by Winograd's method: the transpose of F(2, 3).

    v[p][tile, c] = (B' x B)[p]         x: the 4 x 4 inputs of a tile of 2 x 2 outputs
    g[p][tile, o] = (A dy A')[p]        dy: the gradients of these outputs
    m[p][c, o]    = sum over tiles of v[p][tile, c] * g[p][tile, o]         for each of 16 points
    dw[c, o]      = G' m G              3 x 3

B, A and G are as in winograd.py. It takes 16 products where the direct sums take 36. An item of the
kernel computes some channels and some columns; if that makes too few items, an item adds up only a
part of the tiles:

    parallel item
      m = 0
      for block in tiles
        v, g = the block's transforms, packed for the products
        m += v * g                      register tiles, as everywhere
      dw                                if the item has all tiles; else another kernel adds up m

v, g and m stay in the second-level cache. The items do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    constant,
    index_value,
    less,
    load,
)
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.program import Launch, working_memory
from bessemer.compiler.ir.types import TensorType, boolean, f32
from bessemer.compiler.ir.walk_expr import loads_of, reductions_of, substitute
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    Epilogue,
    RowAxis,
)
from bessemer.compiler.schedule.contraction.microkernel import write_contraction
from bessemer.compiler.schedule.contraction.tiles import plan
from bessemer.compiler.schedule.convolution.winograd_gradient_end import (
    add_up,
    store_weights,
    transposed,
)
from bessemer.compiler.schedule.convolution.winograd_gradient_plan import (
    POINTS,
    Images,
    Items,
    images_of,
    plan_items,
)
from bessemer.compiler.schedule.convolution.winograd_taps import INPUT, OUTPUT, Taps, both_sides
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.lowering.lower_statements import resolve_lanes
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers
from bessemer.compiler.schedule.lowering.tile_job import BASE, TileJob
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.targets.machine import Target

_TAPS = Taps()
(_SEGMENT,) = _TAPS.segments
_AHEAD = 4
"""How many pixels ahead values are prefetched."""


def lower_winograd_gradient(job: TileJob, lowering: Lowering) -> list[Launch] | None:
    """The launches; None for other contractions, and where the direct sums are as fast."""
    images = None if job.right in lowering.constants else images_of(job.draft)
    items = plan_items(images, lowering.target) if images is not None else None
    if images is None or items is None or job.right.type.dtype is not f32:
        return None
    sums = Fusion.of((*job.pack_nodes, *job.nodes), lowering.constants)
    a = flat(sums.buffer(job.left))
    writer = _Writer(job, replace(job.draft, a=a), sums, images, items, lowering.target)
    if not writer.is_along_columns():
        return None
    nodes = [*job.pack_nodes, *job.nodes]

    def launch(
        inputs: Fusion,
        out: Mapping[Value, Buffer],
        body: loops.Block,
        operations: int,
        memory: Sequence[Buffer] = (),
    ) -> Launch:
        return lowering.launch(
            nodes,
            flat_buffers(inputs),
            out,
            Computation(
                resolve_lanes(body, lowering),
                operations,
                name="winograd_gradient",
                scratch=working_memory(memory),
                arguments={BASE: job.base},
            ),
        )

    out = {job.out.value: job.out.buffer}
    if items.parts == 1:
        body = writer.body(job.epilogue(sums))
        return [launch(sums, out, body, items.operations, (writer.v, writer.g, writer.m))]
    between = Value(TensorType(f32, writer.m.shape))
    body = writer.body(None)
    first = launch(sums, {between: writer.m}, body, items.operations, (writer.v, writer.g))
    ends = Fusion.of(job.nodes, lowering.constants)
    parts = (flat(ends.buffer(between)), writer.m)
    last = add_up(images, items, parts, job.epilogue(ends))
    return [first, launch(ends, out, last, 64 * images.columns)]


@dataclass(frozen=True, eq=False)
class _Place:
    """An item: its part of the working memory (`share`) and of m (`slot`), its first channel and
    column, and the tiles first <= tile < end that it adds up."""

    share: Size
    slot: Size
    channel: Size
    column: Size
    first: Size
    end: Size


@dataclass(frozen=True, eq=False)
class _Writer:
    job: TileJob
    work: Contraction
    inputs: Fusion
    images: Images
    items: Items
    target: Target

    @property
    def v(self) -> Buffer:
        """The inputs' transforms."""
        items = self.items
        return Buffer("v", f32, (items.shares, POINTS, items.block * items.channels + 16))

    @property
    def g(self) -> Buffer:
        """The gradients' transforms."""
        items = self.items
        shape = (items.shares, POINTS, items.panels, items.block + 1, items.panel)
        return Buffer("g", f32, shape)

    @property
    def m(self) -> Buffer:
        """The buffer of the sums. If another kernel adds them up, every item has its own."""
        items = self.items
        slots = items.shares if items.parts == 1 else items.count
        shape = (slots, POINTS, items.channels, items.panels * items.panel)
        return Buffer("m", f32, shape)

    def is_along_columns(self) -> bool:
        """Whether dy is computed from values whose columns are neighbours in memory."""
        column = dims.Symbol("column", self.images.columns)
        value = self._gradient((0, 0, 0), dims.atom(column))
        steps = [dims.coefficient_of(load.indices[0], column) for load in loads_of(value)]
        return not reductions_of(value) and all(step in (0, 1) for step in steps)

    def body(self, epilogue: Epilogue | None) -> loops.Block:
        """The body of the kernel. Without an epilogue, it leaves the sums m of all items."""
        items = self.items
        builder = KernelBuilder()
        with builder.loop(items.shares, "parallel") as share:
            begin = share * items.per_share
            with builder.loop(dims.minimum(items.per_share, items.count - begin)) as number:
                item = builder.define(index_value(begin + number), "item").index
                place = self._place(builder, share, item)
                self._clear(builder, place)
                with builder.loop(items.blocks) as block:
                    first = builder.define(index_value(place.first + block * items.block), "first")
                    self._transform(builder, replace(place, first=first.index))
                    contraction = self._products(place)
                    tiling = plan(contraction, self.target, 1)
                    tiling = replace(tiling, block=items.channels, depth_block=None, prefetch=False)
                    write_contraction(builder, contraction, tiling, self.target)
                if epilogue is not None:
                    self._finish(builder, place, epilogue)
        return builder.block()

    def _place(self, builder: KernelBuilder, share: Size, item: Size) -> _Place:
        """Decodes the number of an item: parts of the tiles are innermost, then columns, then
        channels."""
        items = self.items
        part, rest = dims.mod(item, items.parts), dims.floordiv(item, items.parts)
        columns = dims.mod(rest, items.column_items) * (items.panels * items.panel)
        channels = dims.floordiv(rest, items.column_items) * items.channels
        end = dims.minimum((part + 1) * items.part, self.images.tiles)
        known = [
            builder.define(index_value(size), name).index
            for name, size in (
                ("channel", channels),
                ("column", columns),
                ("first", part * items.part),
                ("end", end),
            )
        ]
        return _Place(share, share if items.parts == 1 else item, *known)

    def _clear(self, builder: KernelBuilder, place: _Place) -> None:
        _, points, rows, width = self.m.shape
        with (
            builder.loop(points * rows) as row,
            builder.loop(width, "vector", lanes=0) as column,
        ):
            at = (place.slot, dims.floordiv(row, rows), dims.mod(row, rows), column)
            builder.store(self.m, at, 0)

    def _transform(self, builder: KernelBuilder, place: _Place) -> None:
        """Both transforms of a block of tiles. Tiles beyond the last one add nothing to the
        sums."""
        images = self.images
        with builder.loop(self.items.block) as step:
            tile = place.first + step
            inside = builder.define(less(tile, place.end), "inside").value
            known = builder.define(index_value(dims.minimum(tile, images.tiles - 1)), "tile").index
            line = builder.define(index_value(dims.floordiv(known, images.across)), "line").index
            image = builder.define(index_value(dims.floordiv(line, images.down)), "image").index
            top = builder.define(index_value(2 * (line - image * images.down)), "top").index
            left = builder.define(index_value(2 * (known - line * images.across)), "left").index
            self._transform_input(builder, place, step, (image, top, left))
            self._transform_gradient(builder, place, step, (image, top, left), inside)

    @property
    def _is_even(self) -> bool:
        """Whether all blocks are whole."""
        items = self.items
        return items.part % items.block == 0 and self.images.tiles % items.part == 0

    def _transform_input(
        self, builder: KernelBuilder, place: _Place, step: Size, at: tuple[Size, Size, Size]
    ) -> None:
        """Stores the transformed inputs of one tile, for all channels of the item."""
        items, images = self.items, self.images
        image, top, left = at
        ys = _TAPS.inputs(builder, top, images.rows, _SEGMENT)
        xs = _TAPS.inputs(builder, left, images.width, _SEGMENT)
        corners = [
            [
                self.work.a_base
                + image * images.strides[0]
                + y * images.strides[1]
                + x * images.strides[2]
                for x in xs
            ]
            for y in ys
        ]
        lanes = self.target.lanes(f32)
        with builder.loop(items.channels // lanes) as number:
            first = builder.define(index_value(place.channel + number * lanes), "c").index

            for row, x in product(corners, range(2)):
                ahead = row[x] + (_AHEAD + 2) * images.strides[2]
                self._fetch(builder, load(self.work.a, (ahead + first,)))
            with builder.loop(lanes, "vector", lanes=0) as lane:
                channel = first + lane
                inputs = [[self._input(corner, channel) for corner in row] for row in corners]
                values = both_sides(builder, (INPUT, INPUT), inputs)
                for point, value in enumerate(value for row in values for value in row):
                    at_point = (place.share, point, step * items.channels + number * lanes + lane)
                    builder.store(self.v, at_point, value)

    def _input(self, corner: Size, channel: Size) -> Expression:
        value = load(self.work.a, (corner + channel,))
        if self.images.channels % self.items.channels == 0:
            return value
        return guarded(less(channel, self.images.channels), value, 0)

    def _transform_gradient(
        self,
        builder: KernelBuilder,
        place: _Place,
        step: Size,
        at: tuple[Size, Size, Size],
        inside: Expression,
    ) -> None:
        """Stores the transformed gradients of one tile, panel by panel. Outside of the image they
        are 0."""
        items, images = self.items, self.images
        image, top, left = at
        lanes = self.target.lanes(f32)
        with builder.loop(items.panels * items.panel // lanes) as number:
            for y, x in product(range(2), range(2)):
                ahead = (image, top + y, left + (x + _AHEAD))
                self._fetch(builder, self._gradient(ahead, place.column + number * lanes))
        with (
            builder.loop(items.panels) as panel,
            builder.loop(items.panel, "vector", lanes=0) as lane,
        ):
            column = place.column + panel * items.panel + lane
            fits: Expression = constant(True, boolean) if self._is_even else inside
            if images.columns % (items.panels * items.panel):
                fits = fits & less(column, images.columns)
            inputs = []
            for y in range(2):
                row = []
                for x in range(2):
                    here = fits
                    if y and images.rows % 2:
                        here = here & less(top + y, images.rows)
                    if x and images.width % 2:
                        here = here & less(left + x, images.width)
                    value = self._gradient((image, top + y, left + x), column)
                    row.append(guarded(here, value, 0))
                inputs.append(row)
            matrix = transposed(OUTPUT)
            values = both_sides(builder, (matrix, matrix), inputs)
            for point, value in enumerate(value for row in values for value in row):
                builder.store(self.g, (place.share, point, panel, step, lane), value)

    def _fetch(self, builder: KernelBuilder, value: Expression) -> None:
        """Prefetches the operands of a value."""
        for read in loads_of(value):
            builder.append(loops.Prefetch(read.buffer, read.indices[0], 1))

    def _gradient(self, at: tuple[Size, Size, Size], column: Size) -> Expression:
        """An element of dy by image, row and column. Its index is made with symbols whose extents
        are known, which keeps divisions out of it."""
        images = self.images
        extents = (images.count, images.rows, images.width)
        symbols = [dims.Symbol(f"pixel{axis}", size) for axis, size in enumerate(extents)]
        image, row, place = map(dims.atom, symbols)
        k = images.step(image, row, place)
        value = flatten_loads(self.job.right_element(self.inputs, 0, k, column))
        return substitute(value, dict(zip(symbols, at, strict=True)))

    def _products(self, place: _Place) -> Contraction:
        """The products of a block, which are added to m."""
        items, v, m = self.items, self.v, self.m

        def epilogue(
            rows: tuple[Size, ...], column: Size, total: Expression
        ) -> tuple[loops.Store, ...]:
            at = (place.slot, *rows, column)
            return (loops.Store(m, at, m[at] + total),)

        rows = (RowAxis(POINTS, v.shape[2], 1), RowAxis(items.channels, 1))
        depth = (DepthAxis(items.block, items.channels),)
        base = v.offset((place.share, 0, 0))
        return Contraction(
            dtype=f32,
            a=v,
            a_base=base,
            rows=rows,
            depth=depth,
            columns=items.panels * items.panel,
            b=self.g,
            epilogue=epilogue,
            b_matrix=place.share * POINTS,
            panel_steps=items.block + 1,
        )

    def _finish(self, builder: KernelBuilder, place: _Place, epilogue: Epilogue) -> None:
        """Writes the weights' gradients for an item's channels and columns."""
        items, images = self.items, self.images
        rows = dims.minimum(items.channels, images.channels - place.channel)
        width = dims.minimum(items.panels * items.panel, images.columns - place.column)
        with builder.loop(rows) as row, builder.loop(width, "vector", lanes=0) as column:
            sums = [self.m[place.slot, point, row, column] for point in range(POINTS)]
            at = (place.channel + row, place.column + column)
            store_weights(builder, sums, at, epilogue)
