"""Packs the keys and the values of an attention for its kernel.

The keys, transposed by a view, are the right operand of the first product; the values are that of
the second. Those of each head are one packed matrix (contraction/packing.py). Heads that share keys
have copies of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Index, less
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.ravel import broadcast_index, ravel, unravel
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    RowAxis,
    with_group,
)
from bessemer.compiler.schedule.contraction.packing import packed_element, packed_shape
from bessemer.compiler.schedule.contraction.tiles import plan, registers_tile
from bessemer.compiler.schedule.grouping.attention import Attention
from bessemer.compiler.schedule.grouping.few_rows import is_computed, unless_few
from bessemer.compiler.schedule.grouping.fuse import Fusion, index_symbols
from bessemer.compiler.schedule.lowering.attention_blocks import bytes_of_a_score, is_one_block
from bessemer.compiler.schedule.lowering.attention_tiles import whole_steps
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import panel_of
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import Lanes, flat, flatten_loads, write_nest
from bessemer.compiler.schedule.nests.transpose import write_transpose
from bessemer.compiler.targets.machine import Target


@dataclass(frozen=True, eq=False)
class Packed:
    """The packed right operand of a product, and the launch that packs it. `shape` is that of the
    operand before packing."""

    value: Value
    shape: tuple[Size, ...]
    panel: int
    launch: Launch
    step: None = None

    def matrix(self, batch: Index) -> Size:
        """The number of the packed matrix for an index of the product's batch axes."""
        leading = self.shape[:-2]
        return ravel(broadcast_index(batch, leading), leading)


def pack_right(
    node: Node,
    nodes: Sequence[Node],
    lowering: Lowering,
    few: int,
    on_tiles: bool,
) -> Packed:
    """Packs the right operand of a product. `nodes` lead from memory to the operand.

    The launch does nothing if the left operand has at most `few` rows. If a matrix unit multiplies
    (`on_tiles`), zeros follow to fill up its last step.
    """
    right, target = node.inputs[1], lowering.target
    *batch, known, columns = right.type.shape
    depth = whole_steps(known) if on_tiles else known
    draft = _draft(node, depth, target)
    group_size = draft.group
    panel = panel_of(dims.number(columns)) if on_tiles else plan(draft, target).panel
    matrices = dims.product(batch)
    shape = packed_shape(matrices, draft.depth_steps, columns, panel, group_size)
    packed = Value(TensorType(right.type.dtype, shape))
    fusion = Fusion.of(nodes, lowering.constants)
    symbols = index_symbols(packed.type.shape)

    def element(matrix: Size, k: Size, column: Size) -> Expression:
        index = broadcast_index((*unravel(matrix, batch), k, column), right.type.shape)
        value = fusion.element(right, index)
        return guarded(less(k, known), value, 0) if depth != known else value

    index = tuple(atom(symbol) for symbol in symbols)
    first = 0 if packed.type.shape[0] == 1 else index[0]
    value = packed_element(element, (first, *index[1:]), columns, group_size, depth)
    out = Buffer("out0", packed.type.dtype, packed.type.shape)
    nest = lowering.nest(Piece(flat(out), out.offset(index), flatten_loads(value), symbols))
    launch = lowering.launch(
        [*nodes, node],
        flat_buffers(fusion),
        {packed: flat(out)},
        Computation(
            unless_few(nest.body, node.inputs[0].type.shape[-2], few) if few else nest.body,
            nest.operations,
            name="pack",
        ),
    )
    return Packed(packed, right.type.shape, panel, launch)


@dataclass(frozen=True, eq=False)
class PackedByPanels:
    """A right operand whose panels are packed one at a time inside of the attention kernel, just
    before the product that needs them: the packed panel is then still in the first-level cache.
    `rows` is the number of query rows, all of which use a panel at once."""

    node: Node
    rows: int
    panel: int
    group: int
    depth_steps: Size
    depth: Size

    def write(
        self, builder: KernelBuilder, fusion: Fusion, leading: Index, number: Size, lanes: Lanes
    ) -> Buffer:
        """Adds the packing of panel `number` to a kernel; returns the buffer. `fusion` reads the
        right operand, whose batch indices are the last ones of `leading`."""
        right = self.node.inputs[1]
        steps = packed_shape(1, self.depth_steps, self.panel, self.panel, self.group)[2:]
        shape = tuple(dims.number(size) for size in steps)
        memory = builder.allocate(right.type.dtype, shape)

        def element(_: Size, k: Size, column: Size) -> Expression:
            index = broadcast_index((*leading, k, column), right.type.shape)
            return fusion.element(right, index)

        symbols = index_symbols(shape, "packed")
        index = tuple(atom(symbol) for symbol in symbols)
        columns = right.type.shape[-1]
        value = packed_element(element, (0, number, *index), columns, self.group, self.depth)
        piece = Piece(flat(memory), memory.offset(index), flatten_loads(value), symbols)
        if not write_transpose(builder, piece, lanes):
            write_nest(builder, piece, lanes)
        return flat(memory)


def packed_by_panels(
    attention: Attention, nodes: Sequence[Node], target: Target
) -> PackedByPanels | None:
    """The keys, if each head's are multiplied by one block of rows only, and all panels are whole.
    None otherwise, and for keys that are computed by `nodes`."""
    node = attention.scores
    right = node.inputs[1].type
    *batch, rows, keys = attention.product.inputs[0].type.shape
    heads, height = dims.product(batch), registers_tile(2, target.vector_registers)
    depth = right.shape[-2]
    draft = _draft(node, depth, target)
    panel = plan(draft, target).panel
    is_alone = is_one_block(rows, keys, bytes_of_a_score(attention), height, heads)
    is_alone = is_alone and heads == dims.product(right.shape[:-2])
    if not isinstance(keys, int) or not isinstance(depth, int) or keys % panel:
        return None
    if not is_alone or is_computed(nodes):
        return None
    return PackedByPanels(node, dims.number(rows), panel, draft.group, draft.depth_steps, depth)


def panel_width(node: Node, target: Target) -> int:
    """The columns of a panel of a product. The width depends on the product's number of columns
    only."""
    return plan(_draft(node, node.inputs[1].type.shape[-2], target), target).panel


def _draft(node: Node, depth: Size, target: Target) -> Contraction:
    """A contraction that stands for a product of which only the right operand is known, to plan its
    packing."""
    sums, right = node.output.type.dtype, node.inputs[1].type
    a, b = Buffer("a", right.dtype, (1,)), Buffer("b", right.dtype, (1,))
    rows, along = (RowAxis(1, depth),), (DepthAxis(depth, 1),)
    draft = Contraction(
        dtype=sums,
        a=a,
        a_base=0,
        rows=rows,
        depth=along,
        columns=right.shape[-1],
        b=b,
        epilogue=lambda *_: (),
    )
    return with_group(draft, target)
