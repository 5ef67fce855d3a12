"""Describes matrix products and convolutions as operands of a `Contract` statement.

A row is an element of the output without its channel, which is the column. Axes that select another
right matrix (the batches of a batched product, the groups of a convolution) are batch indices; all
others count the rows. Padding is not stored: windows say where an input ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Index
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.operands import Axis, Operand, Window
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.schedule.grouping.views import Source


@dataclass(frozen=True)
class Form:
    """The operands of a contraction, and what its rows and columns are in the output, whose shape
    is `shape`.

    `rows` and `batch` are positions of the output's axes. `group_columns` is the number of columns
    of one group of a convolution, 0 where groups are not a batch index.
    """

    left: Operand
    right: Operand
    rows: tuple[int, ...]
    batch: tuple[int, ...]
    shape: tuple[Size, ...]
    group_columns: Size = 0

    @property
    def batch_extents(self) -> tuple[Size, ...]:
        """The extents of the batch indices."""
        return tuple(axis.extent for axis in self.left.batch)

    def output_index(self, batch: Sequence[Size], row: Size, column: Size) -> Index:
        """The index in the output of a sum, given its batch indices, row and column."""
        if self.group_columns != 0:
            column = batch[0] * self.group_columns + column
            batch = ()
        index: list[Size] = [0] * len(self.shape)
        for axis, value in zip(self.batch, batch, strict=True):
            index[axis] = value
        for axis in reversed(self.rows[1:]):
            index[axis] = dims.mod(row, self.shape[axis])
            row = dims.floordiv(row, self.shape[axis])
        if self.rows:
            index[self.rows[0]] = row
        index[-1] = column
        return broadcast_index(index, self.shape)


def form_of(node: Node, left: Source, right: Source) -> Form:
    """The form of a product or convolution whose operands lie in memory as the two sources say."""
    if node.operator.name == "conv":
        return _by_memory(_convolution(node, left, right))
    return _by_memory(_product(node, left, right))


def _by_memory(form: Form) -> Form:
    """The form with its rows counted in another order, so that consecutive rows are neighbours in
    memory. Only if neither the last axis of the rows nor that of the depth has stride 1, as in a
    convolution's gradient by its weight: its rows are taps and channels, its depth is pixels and
    images."""
    left = form.left
    dense = [i for i, axis in enumerate(left.outer) if axis.stride == 1 and axis.extent != 1]
    if not dense or dense[-1] == len(left.outer) - 1 or left.depth[-1].stride == 1:
        return form
    order = [i for i in range(len(left.outer)) if i != dense[-1]] + [dense[-1]]
    windows = tuple(replace(w, outer=order.index(w.outer)) for w in left.windows)
    moved = replace(left, outer=tuple(left.outer[i] for i in order), windows=windows)
    return replace(form, left=moved, rows=tuple(form.rows[i] for i in order))


def _product(node: Node, left: Source, right: Source) -> Form:
    """The form of [..., m, k] x [..., k, n], whose batch axes broadcast."""
    shapes = [value.type.shape for value in node.inputs]
    shape = node.output.type.shape
    batch_rank = len(shape) - 2
    steps = [
        (0,) * (batch_rank - len(of) + 2)
        + tuple(0 if n == 1 else s for n, s in zip(of[:-2], memory.strides[:-2]))
        for of, memory in zip(shapes, (left, right), strict=True)
    ]
    batch = [a for a in range(batch_rank) if steps[1][a] != 0 and shape[a] != 1]
    rows = [a for a in range(batch_rank) if a not in batch]
    k = shapes[0][-1]
    outer = [Axis(shape[a], steps[0][a]) for a in rows]
    left_operand = Operand(
        left.buffer,
        left.base,
        (*outer, Axis(shape[-2], left.strides[-2])),
        (Axis(k, left.strides[-1]),),
        tuple(Axis(shape[a], steps[0][a]) for a in batch),
    )
    right_operand = Operand(
        right.buffer,
        right.base,
        (Axis(shape[-1], right.strides[-1]),),
        (Axis(k, right.strides[-2]),),
        tuple(Axis(shape[a], steps[1][a]) for a in batch),
    )
    return Form(left_operand, right_operand, (*rows, batch_rank), tuple(batch), shape)


def _convolution(node: Node, left: Source, right: Source) -> Form:
    """The form of [n, spatial..., c] * [kernel..., c, columns]. Groups are a batch index."""
    x, w = (value.type.shape for value in node.inputs)
    shape, attributes = node.output.type.shape, node.attributes
    groups: int = attributes["groups"]
    spatial = range(1, len(shape) - 1)
    strides = attributes["strides"]
    dilations = attributes["dilations"]
    lows = attributes.get("low", (0,) * len(spatial))
    outer = [Axis(shape[0], left.strides[0])]
    depth: list[Axis] = []
    windows: list[Window] = []
    base = left.base
    for i, axis in enumerate(spatial):
        step = left.strides[axis]
        outer.append(Axis(shape[axis], strides[i] * step))
        depth.append(Axis(w[i], dilations[i] * step))
        windows.append(Window(axis, i, strides[i], dilations[i], lows[i], x[axis]))
        base = base - lows[i] * step
    depth.append(Axis(w[-2], left.strides[-1]))
    columns = dims.floordiv(w[-1], groups)
    batched = groups > 1
    left_batch = (Axis(groups, w[-2] * left.strides[-1]),) if batched else ()
    right_batch = (Axis(groups, columns * right.strides[-1]),) if batched else ()
    return Form(
        Operand(left.buffer, base, tuple(outer), tuple(depth), left_batch, tuple(windows)),
        Operand(
            right.buffer,
            right.base,
            (Axis(columns, right.strides[-1]),),
            tuple(Axis(n, s) for n, s in zip(w[:-1], right.strides[:-1], strict=True)),
            right_batch,
        ),
        tuple(range(len(shape) - 1)),
        (),
        shape,
        columns if batched else 0,
    )


def simplified(operand: Operand) -> Operand:
    """The operand without windows that never leave its input, and with neighbouring axes merged
    where one stride serves both.

    The two operands may be cut into axes differently afterwards: only the product of the extents
    must agree.
    """
    windows = tuple(window for window in operand.windows if not _is_idle(operand, window))
    fixed = {window.outer for window in windows}, {window.depth for window in windows}
    outer, outer_places = _merged(operand.outer, fixed[0])
    depth, depth_places = _merged(operand.depth, fixed[1])
    moved = tuple(
        Window(outer_places[w.outer], depth_places[w.depth], w.step, w.dilation, w.low, w.extent)
        for w in windows
    )
    return replace(operand, outer=outer, depth=depth, windows=moved)


def _is_idle(operand: Operand, window: Window) -> bool:
    """Whether a window never leaves the input."""
    last = (operand.outer[window.outer].extent - 1) * window.step
    last = last + (operand.depth[window.depth].extent - 1) * window.dilation - window.low
    return window.low <= 0 and dims.is_nonnegative(window.extent - 1 - last)


def _merged(axes: tuple[Axis, ...], fixed: set[int]) -> tuple[tuple[Axis, ...], dict[int, int]]:
    """The merged axes, and the new positions of the fixed ones, which are not merged."""
    found: list[Axis] = []
    places: dict[int, int] = {}
    last_fixed = False
    for position, axis in enumerate(axes):
        if position in fixed:
            places[position] = len(found)
            found.append(axis)
            last_fixed = True
        elif axis.extent == 1:
            continue
        elif found and not last_fixed and found[-1].stride == axis.extent * axis.stride:
            found[-1] = Axis(found[-1].extent * axis.extent, axis.stride)
        else:
            found.append(axis)
            last_fixed = False
    return tuple(found) or (Axis(1, 1),), places
