"""The state that all groups of a GPU program share while they are lowered. It gives every launch
its number of threads."""

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
from bessemer.compiler.schedule.nests.nest import Nest
from bessemer.compiler.schedule.symbols import kernel_symbols
from bessemer.compiler.targets.nvptx import DeviceTarget

_DIGITS = 16
"""Digits of the hash of a kernel's text by which a tuner knows it."""


@dataclass(eq=False)
class DeviceLowering(Lowering):
    """`Lowering` for GPUs: its nests are distributed over threads."""

    target: DeviceTarget
    _mappings: dict[int, tuple[Block, ThreadMapping]] = field(default_factory=dict)
    _open: dict[int, tuple[DeviceNest, Piece]] = field(default_factory=dict)

    def nest(self, piece: Piece) -> Nest:
        """The loops that compute a piece. Their threads are remembered for the launch of these
        loops."""
        nest = lower_device_nest(piece, self.target)
        self.map_block(nest.body, nest.mapping)
        if nest.others and self.choices.is_tuned:
            self._open[id(nest.body)] = nest, piece
        return nest

    def nest_together(self, pieces: Sequence[Piece]) -> Nest:
        """The loops that compute several pieces element by element (joint_outputs.py)."""
        nest = lower_together(pieces)
        self.map_block(nest.body, nest.mapping)
        return nest

    def map_block(self, body: Block, mapping: ThreadMapping) -> None:
        """Sets the threads for the launch of a kernel with this body, which is to follow."""
        self._mappings[id(body)] = (body, mapping)

    def launch(
        self,
        nodes: Sequence[Node],
        inputs: Mapping[Value, Buffer],
        outputs: Mapping[Value, Buffer],
        made: Computation,
    ) -> DeviceLaunch:
        """A launch of the kernel with this computation, with the threads that were set for its
        body. Equal kernels become the same object."""
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
        """The loops again, for the number of threads that a tuner has chosen."""
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
    """The launch as a DeviceLaunch. Raises InternalError if it is one."""
    if isinstance(launch, DeviceLaunch):
        raise InternalError(f"{launch.kernel.name} has a mapping already")
    values: dict[str, Any] = {f.name: getattr(launch, f.name) for f in fields(Launch)}
    return DeviceLaunch(**values, mapping=mapping)
