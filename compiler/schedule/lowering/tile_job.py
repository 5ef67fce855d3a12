"""A contraction with its surroundings, as it is before it is decided which kind of tiles computes
it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Contraction, Epilogue
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.lowering.contraction_forms import Form

BASE = "bessemer_base"
"""The kernel's symbol for the flat offset of the left operand's first element."""


@dataclass(frozen=True, eq=False)
class TileJob:
    """A contraction, and how its operands and results are reached.

    `draft` is the contraction, whose `b` means nothing yet. It reads the left operand from `left`,
    which is an input of the program unless it `is_made` by a kernel. The operand begins at `base`;
    the draft has the symbol BASE for that, unless it is 0.

    `epilogue(inputs)` is the draft's epilogue, reading through this fusion. `form` has the order of
    the axes; its `right_matrices` gives a constant right operand as [matrices..., depth, columns].
    `right_element(inputs, matrix, k, column)` gives an element of a right operand that `pack_nodes`
    compute.
    """

    draft: Contraction
    left: Value
    is_made: bool
    right: Value
    matrices: Size
    nodes: Sequence[Node]
    pack_nodes: Sequence[Node]
    out: Destination
    base: Size
    epilogue: Callable[[Fusion], Epilogue]
    form: Form
    right_element: Callable[[Fusion, Size, Size, Size], Expression]

    @property
    def key(self) -> tuple[object, ...]:
        """What the order of the packed right operand depends on."""
        return (type(self.form).__name__, *self.form.key)
