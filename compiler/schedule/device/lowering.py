"""What the groups of a program for a GPU share; every launch gets the threads that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from typing import Any

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.device import DeviceLaunch, ThreadMapping
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import TEAM, Block, Kernel
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.schedule.device.joint_outputs import lower_together
from bessemer.compiler.schedule.device.nests import DeviceNest, lower_device_nest
from bessemer.compiler.schedule.device.sharing import mapping_of_statements
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import Nest
from bessemer.compiler.schedule.symbols import kernel_symbols
from bessemer.compiler.targets.nvptx import DeviceTarget

_DIGITS = 16
"""Of a hash of a kernel's text, which names it."""


@dataclass(eq=False)
class DeviceLowering(Lowering):
    """As `Lowering`, for the threads of a GPU."""

    target: DeviceTarget
    _mappings: dict[int, tuple[Block, ThreadMapping]] = field(default_factory=dict)
    _open: dict[int, tuple[DeviceNest, Piece]] = field(default_factory=dict)

    def nest(self, piece: Piece) -> Nest:
        """The loops of a piece; the launch of their block will know their threads."""
        nest = lower_device_nest(piece, self.target)
        self.map_block(nest.body, nest.mapping)
        if nest.others and self.choices.is_tuned:
            self._open[id(nest.body)] = nest, piece
        return nest

    def nest_together(self, pieces: Sequence[Piece]) -> Nest:
        """A thread for every few neighbours, with all that is stored there."""
        nest = lower_together(pieces)
        self.map_block(nest.body, nest.mapping)
        return nest

    def map_block(self, body: Block, mapping: ThreadMapping) -> None:
        """Says which threads the coming launch of a kernel with this body is for."""
        self._mappings[id(body)] = (body, mapping)

    def launch(
        self,
        nodes: Sequence[Node],
        inputs: Mapping[Value, Buffer],
        outputs: Mapping[Value, Buffer],
        made: Computation,
    ) -> DeviceLaunch:
        """A launch of the kernel that computes this; equal kernels are the same object."""
        body = made.body
        _, mapping = self._mappings.pop(id(body), (body, mapping_of_statements(body)))
        if id(body) in self._open and nodes:
            buffers = (*inputs.values(), *outputs.values(), *made.scratch.values())
            nest, piece = self._open.pop(id(body))
            chosen = self._chosen(nodes[0], nest, piece, buffers)
            made = replace(made, body=chosen.body, operations=chosen.operations)
            mapping = chosen.mapping
        # A team of one: its member runs alone.
        made = replace(made, arguments={TEAM: 1, **made.arguments})
        return with_mapping(super().launch(nodes, inputs, outputs, made), mapping)

    def _chosen(
        self, node: Node, nest: DeviceNest, piece: Piece, buffers: tuple[Buffer, ...]
    ) -> DeviceNest:
        """The rows' loops for the threads that a tuner wants."""
        symbols = kernel_symbols(nest.body, buffers, nest.operations)
        kernel = Kernel("rows", buffers, 0, symbols, nest.body, nest.operations)
        digest = sha256(print_kernel(kernel).encode()).hexdigest()[:_DIGITS]
        shape = "x".join(str(symbol.extent) for symbol in piece.symbols)
        options = [
            {"threads": mapping.threads, "group": mapping.group}
            for mapping in (nest.mapping, *nest.others)
        ]
        chosen = self.choices.one_of(node, f"rows {shape or 1} {digest}", options)
        if chosen > 0:
            return lower_device_nest(piece, self.target, nest.others[chosen - 1])
        return nest


def with_mapping(launch: Launch, mapping: ThreadMapping) -> DeviceLaunch:
    """A launch with the threads that it is for."""
    if isinstance(launch, DeviceLaunch):
        raise InternalError(f"{launch.kernel.name} has a mapping already")
    values: dict[str, Any] = {f.name: getattr(launch, f.name) for f in fields(Launch)}
    return DeviceLaunch(**values, mapping=mapping)
