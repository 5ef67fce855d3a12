"""Packs the panels of a right operand inside of the kernel that multiplies by them.

    parallel item in matrices x row blocks x panels
      packed[k, :] = b[matrix, k, the panel's columns]          all k of a depth block
      for tile in the block's tiles:  the sums of a tile, from packed

The packed numbers stay in a near cache, where a launch that packs all matrices beforehand writes
and reads them in a farther one, and threads wait between the two launches. It pays if a block has
all rows of a matrix, or enough of them, so that a panel is packed once, or seldom. (Zen 5, sizes
free, one thread: 96 products 64x192x64 960 -> 785 us, 12 of 64x512x512 3550 -> 2500, 12 of
300x300x64 635 -> 604; 1024^3, packed three times, 10.5 -> 10.8 ms.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, less
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.walk_expr import loads_of, substitute
from bessemer.compiler.schedule.contraction.contraction import Contraction, walk_of
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.packing import packed_element
from bessemer.compiler.schedule.contraction.row_blocks import FEWEST_STEPS
from bessemer.compiler.schedule.contraction.tiles import PARTIAL_BYTES, Tiling
from bessemer.compiler.schedule.grouping.few_rows import is_computed
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.grouping.groups import Grouping
from bessemer.compiler.schedule.lowering.pixel_runs import by_pixel_runs
from bessemer.compiler.schedule.lowering.tile_job import TileJob
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.nests import Lanes, flatten_loads, write_nest
from bessemer.compiler.schedule.nests.partial_sums import is_longer
from bessemer.compiler.schedule.nests.transpose import write_transpose

_MOST_BYTES = 48 << 10
"""Of a packed depth block, which is on the stack. (The second-level cache gives it to tiles in
time: of 300 steps, in one depth block 597 us, in two of 32 KiB 622.)"""
_UNROLL = 4


def tiling_of_items(
    job: TileJob, draft: Contraction, anchor: Node, grouping: Grouping, tiling: Tiling
) -> Tiling | None:
    """A tiling whose items pack their panels; None if these should be packed beforehand.

    `draft` is the contraction of the product `anchor`, whose right operand a run computes.
    """
    if anchor.operator.name != "matmul" or draft.group != 1 or draft.bands is not None:
        return None
    if len(draft.depth) != 1 or is_computed(job.pack_nodes):
        return None
    depth = draft.depth[0].extent
    has_few_steps = not isinstance(depth, int) or depth <= FEWEST_STEPS
    if job.matrices == 1 and (has_few_steps or _may_be_shared(job, grouping)):
        return None
    walk = walk_of(draft, tiling.height)
    height = cut_evenly(walk.axis.extent, tiling.height // walk.unit).height * walk.unit
    block = max(1, PARTIAL_BYTES // (height * tiling.panel * draft.dtype.bytes))
    rows = dims.product(axis.extent for axis in (*walk.outer, walk.axis, *walk.inner))
    longest = _MOST_BYTES // (tiling.panel * job.right.type.dtype.bytes)
    is_one_block = isinstance(depth, int) and depth <= longest
    is_small = is_one_block and job.matrices != 1 and not is_longer(rows, block * height)
    if isinstance(rows, int) and not is_small:
        return None
    depth_block = tiling.depth_block if is_one_block else longest
    return replace(tiling, block=block, depth_block=depth_block, prefetch=False, fetches_rows=False)


def _may_be_shared(job: TileJob, grouping: Grouping) -> bool:
    """Whether the right operand is a parameter or another input, whose packed form several products
    may read, as all steps of a recurrence do."""
    memory = job.pack_nodes[0].inputs[0] if job.pack_nodes else job.right
    return memory not in grouping.producers


@dataclass(frozen=True)
class ItemPacking:
    """The packing of panels by items (see PanelPacking). `element` is the right operand's element
    at the three `symbols`: matrix, step and column."""

    element: Expression
    symbols: tuple[Symbol, Symbol, Symbol]
    tiling: Tiling
    lanes: Lanes

    @staticmethod
    def of(
        job: TileJob, draft: Contraction, tiling: Tiling, fusion: Fusion, lanes: Lanes
    ) -> ItemPacking:
        """The packing of a job's right operand, which `fusion` reads."""
        sizes = (job.matrices, draft.depth_steps, draft.columns)
        matrix, step, column = (Symbol(n, s) for n, s in zip(("matrix", "step", "column"), sizes))
        element = job.right_element(fusion, atom(matrix), atom(step), atom(column))
        return ItemPacking(flatten_loads(element), (matrix, step, column), tiling, lanes)

    def allocate(self, builder: KernelBuilder) -> Buffer:
        longest = self.tiling.depth_block or extent_of(self.symbols[1])
        return builder.allocate(self.element.dtype, (dims.number(longest) * self.tiling.panel,))

    def write(
        self,
        builder: KernelBuilder,
        memory: Buffer,
        matrix: Size,
        panel: Size,
        first: Size,
        steps: Size,
    ) -> None:
        """A panel of which all columns exist is moved vector by vector, if the operand's columns
        are neighbours in memory."""
        width, columns = self.tiling.panel, extent_of(self.symbols[-1])
        step, place = Symbol("step", steps), Symbol("place", width)
        index = (matrix, panel, first + atom(step), atom(place))
        guarded = packed_element(self._at, index, columns, 1, steps)
        piece = Piece(memory, atom(step) * width + atom(place), guarded, (step, place))
        whole = replace(piece, value=self._at(matrix, index[2], panel * width + atom(place)))
        if not _runs_along(whole, place):
            by_runs = by_pixel_runs(guarded, place)
            is_moved = by_runs is guarded and write_transpose(builder, piece, self.lanes)
            if not is_moved:
                write_nest(builder, replace(piece, value=by_runs), self.lanes)
        elif isinstance(columns, int) and columns % width == 0:
            self._move_rows(builder, whole)
        else:
            with builder.when(less(panel, dims.floordiv(columns, width))):
                self._move_rows(builder, whole)
            with builder.otherwise():
                write_nest(builder, piece, self.lanes)

    def _at(self, *index: Size) -> Expression:
        return substitute(self.element, dict(zip(self.symbols, index, strict=True)))

    def _move_rows(self, builder: KernelBuilder, piece: Piece) -> None:
        """Writes a panel's rows, a few in each iteration."""
        (step, place), lanes = piece.symbols, self.tiling.lanes

        def row(number: Size) -> None:
            for begin in range(0, self.tiling.panel, lanes):
                with builder.loop(lanes, "vector", lanes) as lane:
                    here: dict[Atom, Size] = {step: number, place: begin + lane}
                    value = substitute(piece.value, here)
                    builder.store(piece.target, (dims.substitute(piece.offset, here),), value)

        many = dims.floordiv(extent_of(step), _UNROLL)
        with builder.loop(many) as several:
            for number in range(_UNROLL):
                row(several * _UNROLL + number)
        with builder.loop(dims.mod(extent_of(step), _UNROLL)) as left:
            row(many * _UNROLL + left)


def _runs_along(piece: Piece, column: Symbol) -> bool:
    """Whether neighbouring columns are neighbours in memory."""
    return all(dims.coefficient_of(load.indices[0], column) == 1 for load in loads_of(piece.value))
