"""Finds where the operands of a contraction lie in memory, and prepares those that cannot be read
as they are: computed ones are stored first, and few channels are padded to more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.device import DeviceLaunch
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.operands import Axis, Operand
from bessemer.compiler.ir.types import Array, TensorType
from bessemer.compiler.schedule.device.lowering import DeviceLowering
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Grouping
from bessemer.compiler.schedule.grouping.views import Source, source_of
from bessemer.compiler.schedule.lowering.lowering import Computation
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads

LEFT, RIGHT, PACKED = "left", "right", "packed"
"""Names of operands' buffers until the buffers of the kernel are known."""
_PAD_CHANNELS = 4
"""Channels of an unsuitable number are padded to a multiple of this."""


def memory_of(value: Value, inlined: Mapping[Value, Node], side: str) -> Source | None:
    """The memory that a value is read from through the inlined views; None if it is computed. Its
    buffer is named `side`."""
    source = source_of(value, inlined)
    if source is None:
        return None
    memory = source.value.type
    return replace(source, buffer=Buffer(side, memory.dtype, (memory.numel,)))


@dataclass(frozen=True, eq=False)
class Operands:
    """The operands of a product or convolution. `before` collects the launches that prepare
    them."""

    anchor: Node
    lowering: DeviceLowering
    before: list[DeviceLaunch] = field(default_factory=list)

    def left(self, grouping: Grouping) -> Source | None:
        """The left operand in memory; None if it is computed, which the caller must leave to other
        loops."""
        value = self.anchor.inputs[0]
        return memory_of(value, grouping.views(value), LEFT)

    def right(self, node: Node, nodes: Sequence[Node]) -> tuple[Value, Source]:
        """The right operand of a node: a value, and where it lies in memory. If the `nodes` that
        lead to it compute something, a launch that stores it is added to `before`."""
        value = node.inputs[1]
        inlined = {node.output: node for node in nodes}
        memory = memory_of(value, inlined, RIGHT)
        if memory is None:
            fusion = Fusion(inlined, self.lowering.constants)
            made = Value(value.type, value.name)
            self._store(nodes, fusion, made, lambda index: fusion.element(value, index))
            value, memory = made, memory_of(made, {}, RIGHT)
        assert memory is not None
        return value, memory

    def _store(
        self,
        nodes: Sequence[Node],
        fusion: Fusion,
        made: Value,
        element: Callable[[Index], Expression],
    ) -> None:
        """Adds a launch that computes `made` into memory of its own."""
        shape = made.type.shape
        symbols = index_symbols(shape)
        index = as_index(symbols, shape)
        out = Buffer("out0", made.type.dtype, shape)
        value = flatten_loads(element(index))
        buffers = {source: flat(buffer) for source, buffer in fusion.buffers.items()}
        nest = self.lowering.nest(Piece(flat(out), out.offset(index), value, symbols))
        launch = self.lowering.launch(
            [*nodes, self.anchor],
            buffers,
            {made: flat(out)},
            Computation(nest.body, nest.operations, name="prepare"),
        )
        self.before.append(launch)

    def padded(
        self, left: Source, right: Value, memory: Source
    ) -> tuple[Node, Source, Value, Source]:
        """A convolution with few channels whose bytes cannot be copied 8 at a time gets more of
        them, which are 0. Returns the node after that, its left operand, and its right one as a
        value and its memory."""
        node = self.anchor
        channels, bytes_ = right.type.shape[-2], right.type.dtype.bytes
        unsuitable = isinstance(channels, int) and channels > 1 and channels * bytes_ % 8 != 0
        if node.operator.name != "conv" or not unsuitable or node.attributes["groups"] > 1:
            return node, left, right, memory
        assert isinstance(channels, int)
        wide = -(-channels // _PAD_CHANNELS) * _PAD_CHANNELS
        x, left = self._widened(node.inputs[0], left, -1, channels, wide)
        w, memory = self._widened(right, memory, -2, channels, wide)
        return replace(node, inputs=(x, w)), left, w, memory

    def _widened(
        self, value: Value, memory: Source, axis: int, channels: int, wide: int
    ) -> tuple[Value, Source]:
        """A copy of an operand that has `wide` channels, zeros behind the first `channels`, along
        an axis."""
        shape = list(value.type.shape)
        shape[axis] = wide
        made = Value(TensorType(value.type.dtype, tuple(shape)), value.name)
        array = self.lowering.constants.get(value)
        if array is not None:
            width = [(0, 0)] * array.ndim
            width[axis] = (0, wide - channels)
            self.lowering.constants[made] = np.pad(array, width)
        else:
            fusion = Fusion({}, {})
            buffer = flat(fusion.buffer(memory.value))

            def element(index: Index) -> Expression:
                steps = (i * s for i, s in zip(index, memory.strides, strict=True))
                at = dims.total((memory.base, *steps))
                return expr.load(buffer, (at,), expr.less(index[axis], channels))

            self._store([], fusion, made, element)
        found = memory_of(made, {}, memory.buffer.name)
        assert found is not None
        return made, found


def deep(right: Operand) -> Operand:
    """A constant right operand in its packed layout: [batch, column, depth] without gaps."""
    axes: list[Axis] = []
    step: Size = 1
    for axis in reversed(right.depth):
        axes.insert(0, Axis(axis.extent, step))
        step = step * axis.extent
    (columns,) = right.outer
    outer = Axis(columns.extent, step)
    step = step * columns.extent
    batch: list[Axis] = []
    for axis in reversed(right.batch):
        batch.insert(0, Axis(axis.extent, step))
        step = step * axis.extent
    buffer = Buffer(PACKED, right.buffer.dtype, (step,))
    return Operand(buffer, 0, (outer,), tuple(axes), tuple(batch))


def pack_deep(array: Array, groups: int, operator: str) -> Array:
    """The constant's array in that layout, flat. `groups` is the number of groups if the operator
    is a convolution."""
    if operator == "conv":
        matrices = array.reshape(-1, groups, array.shape[-1] // groups).transpose(1, 2, 0)
    else:
        matrices = np.swapaxes(array, -1, -2)
    return np.ascontiguousarray(matrices).reshape(-1)
