"""Lowers recurrences (LSTM, GRU and others) to kernels with packed weights, whose columns may be
divided among a team of threads.

A step reads all recurrent weights, and does two operations per weight and row. With few rows, the
speed is that of reading the weights: they are packed in the order in which they are read, and each
member of a team keeps its part in the cache of its core. With many rows and few columns, each core
computes rows of its own; so do the members of a small team, if each core's cache has room for all
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, number
from bessemer.compiler.ir.dims import product as product_of
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import TEAM
from bessemer.compiler.ir.program import Launch, working_memory
from bessemer.compiler.ir.types import Array, DType, TensorType, bf16, f32, i32
from bessemer.compiler.ops.recurrence import (
    byte_lstm,
    gru,
    gru_gradient,
    lstm,
    lstm_gradient,
    rnn,
    rnn_gradient,
)
from bessemer.compiler.ops.recurrence.recurrence_bytes import GROUP
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell, Product, working_dtype
from bessemer.compiler.ops.recurrence.recurrence_kernel import write_recurrence
from bessemer.compiler.ops.recurrence.recurrence_layout import MOST_SUMS, TEAM_OPERATIONS, Layout
from bessemer.compiler.ops.recurrence.recurrence_pairs import PAIR
from bessemer.compiler.schedule.lowering.lower_statements import resolve_lanes
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering
from bessemer.compiler.targets.machine import Target

_CELLS: dict[str, Callable[..., Cell]] = {
    "lstm": lstm.cell,
    "byte_lstm": byte_lstm.cell,
    "gru": gru.cell,
    "rnn": rnn.cell,
    "lstm_gradient": lstm_gradient.cell,
    "gru_gradient": gru_gradient.cell,
    "rnn_gradient": rnn_gradient.cell,
}
ENOUGH_ROWS = 16
_MOST_ROWS = 6
FEWEST_BLOCK_ROWS, MOST_BLOCK_ROWS = 8, 12


def lower_recurrence(node: Node, lowering: Lowering) -> Launch | None:
    """The launch of a recurrence; None if the kernel that the operator writes itself is as good."""
    rule = _CELLS.get(node.operator.name)
    if rule is None:
        return None
    if not all(isinstance(size, int) and size for size in node.inputs[1].type.shape):
        return None
    kernel = _Kernel.of(node, rule, lowering)
    if kernel.is_constant:
        return kernel.launch(kernel.arranged())
    return kernel.launch(kernel.packing()) if kernel.layout.team else None


@dataclass(frozen=True, eq=False)
class _Kernel:
    """A recurrence's kernel while it is being made: its buffers by value, its cell, and its
    layout."""

    node: Node
    lowering: Lowering
    builder: KernelBuilder
    inputs: dict[Value, Buffer]
    outputs: dict[Value, Buffer]
    cell: Cell
    shape: _Shape
    layout: Layout

    @staticmethod
    def of(node: Node, rule: Callable[..., Cell], lowering: Lowering) -> _Kernel:
        inputs: dict[Value, Buffer] = {}
        for value in node.inputs:
            inputs.setdefault(value, _buffer(f"in{len(inputs)}", value.type))
        outputs = {
            value: _buffer(f"out{place}", value.type) for place, value in enumerate(node.outputs)
        }
        builder = KernelBuilder()
        buffers = [inputs[value] for value in node.inputs]
        cell = rule(builder, buffers, list(outputs.values()), **node.attributes)
        is_constant = node.inputs[1] in lowering.constants
        shape = _Shape.of(cell, _group(cell, lowering.target, is_constant))
        layout = _layout(cell, shape, lowering.target, is_constant)
        return _Kernel(node, lowering, builder, inputs, outputs, cell, shape, layout)

    @property
    def is_constant(self) -> bool:
        """Whether the recurrent weights are packed at compile time."""
        return self.node.inputs[1] in self.lowering.constants

    def arranged(self) -> Layout:
        """The layout, with weights that are packed at compile time in place of the input."""
        lowering, inputs, layout = self.lowering, self.inputs, self.layout
        recurrent = self.node.inputs[1]
        if self.node.inputs.count(recurrent) == 1:
            del inputs[recurrent]
        if self.cell.scales is not None:
            type = TensorType(i32, recurrent.type.shape[1:])
            totals = lowering.arrange(recurrent, ("totals",), type, lambda w: w.sum(0, np.int32))
            buffer = inputs.setdefault(totals, _buffer("totals", totals.type))
            layout = replace(layout, totals=buffer)
        packed: list[Buffer] = []
        for product in self.cell.products:
            form = (layout.width, layout.blocked, layout.group)
            key = ("recurrence", product.first, product.gates, form)
            arrangement = _packed(product, form, recurrent.type.dtype, number(self.shape.hidden))
            value = lowering.arrange(recurrent, key, *arrangement)
            packed.append(inputs.setdefault(value, _buffer(f"weights{len(packed)}", value.type)))
        return replace(layout, packed=tuple(packed))

    def packing(self) -> Layout:
        """The layout, with memory for weights that the kernel packs itself."""
        layout, hidden = self.layout, self.shape.hidden
        panels = -(-hidden // layout.width)
        packed: list[Buffer] = []
        for product in self.cell.products:
            depth = product_of(product.depth(hidden))
            gates = len(product.gates)
            inner = (gates, depth) if layout.blocked else (depth, gates)
            shape = (panels, *inner, layout.width)
            packed.append(self.builder.scratch(self.cell.recurrent.dtype, shape))
        return replace(layout, packed=tuple(packed), packs=True)

    def launch(self, layout: Layout) -> Launch:
        """Writes the kernel with this layout, which says where the weights are."""
        cell, builder = self.cell, self.builder
        write_recurrence(builder, cell, layout)
        given, written = cell.replaces or (None, None)
        # What may lie in an input's place comes first among the outputs.
        outputs = dict(sorted(self.outputs.items(), key=lambda item: item[1] is not written))
        launch = self.lowering.launch(
            [self.node],
            self.inputs,
            outputs,
            Computation(
                resolve_lanes(builder.block(), self.lowering),
                _operations(cell, self.shape, layout),
                scratch=working_memory(builder.scratch_buffers),
                members=-(-self.shape.hidden // layout.width) if layout.team else 1,
                arguments={TEAM: 1},
            ),
        )
        if given is None or written is None or given.shape != written.shape:
            return launch
        return replace(launch, replaceable=tuple(v for v, b in self.inputs.items() if b is given))


def _packed(
    product: Product, form: tuple[int, bool, int], dtype: DType, hidden: int
) -> tuple[TensorType, Callable[[Array], Array]]:
    """The type of the packed weights that a product reads, and the function that packs them."""
    depth = number(product_of(product.depth(hidden)))
    rows = slice(product.first, product.first + depth)
    shape = packed_shape(depth, hidden, len(product.gates), *form)
    return TensorType(dtype, shape), lambda w: pack(w[rows], hidden, product.gates, *form)


@dataclass(frozen=True)
class _Shape:
    """The sizes that the layout depends on. `weights` is in bytes, `gates` the number of gates of
    the largest product, `group` the numbers that an instruction multiplies and adds up in a lane,
    `elements` the number of weights."""

    batch: Size
    hidden: int
    gates: int
    weights: int
    group: int
    elements: int

    @staticmethod
    def of(cell: Cell, group: int) -> _Shape:
        gates = max(len(product.gates) for product in cell.products)
        (batch, hidden), size = cell.h.shape, product_of(cell.recurrent.shape)
        assert isinstance(hidden, int) and isinstance(size, int)
        return _Shape(batch, hidden, gates, size * cell.recurrent.dtype.bytes, group, size)

    @property
    def step(self) -> int:
        """The operations of a step, in instructions times lanes. If the number of rows is unknown,
        it is that of one row."""
        rows = self.batch if isinstance(self.batch, int) else 1
        return 2 * self.elements * rows // self.group


def _group(cell: Cell, target: Target, is_constant: bool) -> int:
    """How many neighbours along the depth one instruction multiplies and adds up; 1 for fused
    multiply-adds."""
    if cell.scales is not None:
        return GROUP
    depths = {product.depth(cell.h.shape[1]) for product in cell.products}
    is_paired = (
        target.has_dot_bf16
        and is_constant
        and (cell.h.dtype, cell.recurrent.dtype) == (f32, bf16)
        and depths == {(1, cell.h.shape[1])}
        and cell.h.shape[1] % PAIR == 0
    )
    return PAIR if is_paired else 1


def _layout(cell: Cell, shape: _Shape, target: Target, is_constant: bool) -> Layout:
    """How the work is cut on this machine. Weights that are not constant are packed by a team
    only."""
    lanes = target.lanes(working_dtype(cell.h.dtype))
    # Registers hold a tile's sums, a vector of weights for each gate, and an element of the state.
    most = (target.vector_registers - 2) // shape.gates - 1
    most = max(1, min(_MOST_ROWS, most))
    rows = most
    if isinstance(shape.batch, int) and cell.lengths is None:
        groups = max(1, -(-shape.batch // most))
        rows = max(1, -(-shape.batch // groups))
    if cell.lengths is not None:
        rows = 1
    alone = is_constant and _has_enough_rows(shape, target)
    team = shape.step >= TEAM_OPERATIONS * len(cell.products) and not alone
    vectors = 1
    # With a single gate, no load of the state serves several products: it takes more sums until
    # the arithmetic, and not the loads, limits the speed.
    sums = 2 * MOST_SUMS if shape.gates == 1 and target.vector_registers > 16 else MOST_SUMS
    while 2 * vectors * rows * shape.gates <= sums:
        vectors *= 2
    while vectors > 1 and not _divides(shape.hidden, vectors * lanes, team):
        vectors //= 2
    width = vectors * lanes
    if team and _is_blocked(cell, shape, 2 * lanes):
        rows = min(MOST_BLOCK_ROWS, target.vector_registers // 2 - 2)
        block_rows = _block_rows(shape, target)
        far = shape.weights > target.l2_bytes
        return Layout(
            rows, (), 2 * lanes, lanes, team=True, blocked=True, block_rows=block_rows, far=far
        )
    team = team and shape.hidden > width
    return Layout(rows, (), width, lanes, team, group=shape.group)


def _block_rows(shape: _Shape, target: Target) -> int:
    """The number of rows in a block, if several blocks are as fast separately as all rows together:
    the cache of a core has room for all weights, and enough rows share each load of a weight. An
    even number of blocks is preferred, which two members can share. 0 where there is no such
    number."""
    assert isinstance(shape.batch, int)
    if shape.weights > target.l2_bytes:
        return 0
    fitting = range(FEWEST_BLOCK_ROWS, MOST_BLOCK_ROWS + 1)
    sizes = [rows for rows in fitting if shape.batch % rows == 0 and rows < shape.batch]
    return min(sizes, key=lambda rows: (shape.batch // rows % 2, rows), default=0)


def _is_blocked(cell: Cell, shape: _Shape, width: int) -> bool:
    """Whether it is better to add up the gates one after the other, so that more rows share each
    load of a weight."""
    return (
        cell.lengths is None
        and cell.scales is None
        and isinstance(shape.batch, int)
        and shape.batch > _MOST_ROWS
        and shape.hidden > width
        and _divides(shape.hidden, width, team=True)
    )


def _has_enough_rows(shape: _Shape, target: Target) -> bool:
    """Whether every core can compute rows of its own, with all weights in its cache."""
    rows = shape.batch if isinstance(shape.batch, int) else 0
    return shape.group != GROUP and rows >= ENOUGH_ROWS and shape.weights <= target.l2_bytes // 2


def _divides(hidden: int, width: int, team: bool) -> bool:
    """Whether panels of this width are all full, and for a team their number is even."""
    return hidden % width == 0 and not (team and hidden // width % 2)


def _operations(cell: Cell, shape: _Shape, layout: Layout) -> Size:
    """The scalar operations of all the work for a team, otherwise of a block of rows."""
    rows = shape.batch if layout.team else layout.rows
    return cell.inputs.shape[0] * rows * (2 * shape.elements // shape.group)


def packed_shape(
    depth: int, hidden: int, gates: int, width: int, blocked: bool, group: int
) -> tuple[int, ...]:
    """The shape of what `pack` returns."""
    panels = -(-hidden // width)
    if group > 1:
        return panels, -(-depth // group), gates, width, group
    return (panels, gates, depth, width) if blocked else (panels, depth, gates, width)


def pack(
    recurrent: Array,
    hidden: int,
    gates: tuple[int, ...],
    width: int,
    blocked: bool = False,
    group: int = 1,
) -> Array:
    """Packs [K, all gates * H] as [panels, K, gates, width] or, if `blocked`, as [panels, gates, K,
    width]; in groups as [panels, K / group, gates, width, group]. Zeros follow the last column and
    row. The result is a view."""
    depth = recurrent.shape[0]
    panels, groups = -(-hidden // width), -(-depth // group)
    columns = recurrent.reshape(depth, -1, hidden)[:, gates, :]
    padded = np.zeros((groups * group, len(gates), panels * width), recurrent.dtype)
    padded[:depth, :, :hidden] = columns
    if group == 1:
        order = (2, 1, 0, 3) if blocked else (2, 0, 1, 3)
        split = padded.reshape(depth, len(gates), panels, width)
        return split.transpose(order)
    grouped = padded.reshape(groups, group, len(gates), panels, width)
    return grouped.transpose(3, 0, 2, 4, 1)


def _buffer(name: str, type: TensorType) -> Buffer:
    return Buffer(name, type.dtype, type.shape)
