"""An operator is one frozen record: its name and its rules. `OPS` holds them all.

The rules take the node's attributes as keyword arguments, so that a rule's signature documents
them. An attribute is an int, float, bool, str, DType, or a tuple of these; entries of a shape or of
offsets may be `Size`s. `reference` gets every Size evaluated.

What a machine runs is said in one of three ways:
- `element`: what one element of the (only) output is, as an expression of elements of the inputs.
  Operators with this rule fuse with each other.
- `statements`: a kernel written in the loop language, for what is not one expression (sorting,
  recurrences, scatter).
- neither: the node is carried out by the run body itself (if, loop, binding of dimensions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.types import Array, TensorType

Attributes = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Example:
    """Inputs and attributes that the generated tests run an operator on.

    `inputs` are arrays, or shapes that stand for float32 arrays of seeded normal numbers.
    """

    inputs: tuple[Any, ...]
    attributes: Attributes = field(default_factory=dict)
    tolerance: float = 1e-5


@dataclass(frozen=True, eq=False)
class Operator:
    """A graph operator.

    infer(*types, **attributes) -> TensorType or a tuple of them; raises CompileError on a misfit.
    reference(*arrays, **attributes) -> array or a tuple: the definition, in NumPy.
    element(*operands, index, **attributes) -> Expression of the output's element at `index`.
    statements(builder, inputs, outputs, **attributes): writes a kernel (see ir/build_loops.py).
    over(builder, inputs, outputs, **attributes): the same where the (only) output begins as a copy
    of the first input, which `inputs` leaves out; where it is larger, with zeros behind that.
    capacity(*types, **attributes) -> for each output the largest number of elements it can have, or
    None where its type says it: for outputs whose shape the kernel finds out (SetDim).
    gradient(differential) -> the cotangents of the inputs (see ir/differential.py). None: there is
    no rule, and to differentiate through the node is an error that names it.
    `is_view`: no arithmetic, only another index: always folded into its readers.
    `is_random`: not to be folded, merged or removed as if it were pure.
    """

    name: str
    infer: Callable[..., TensorType | tuple[TensorType, ...]]
    reference: Callable[..., Any]
    element: Callable[..., Any] | None = None
    statements: Callable[..., None] | None = None
    over: Callable[..., None] | None = None
    capacity: Callable[..., tuple[Any, ...]] | None = None
    gradient: Callable[..., Any] | None = None
    examples: tuple[Example, ...] = ()
    is_view: bool = False
    is_random: bool = False

    def infer_types(
        self, types: Sequence[TensorType], attributes: Attributes
    ) -> tuple[TensorType, ...]:
        """The types of the outputs; raises CompileError when the inputs do not fit."""
        result = self.infer(*types, **attributes)
        return result if isinstance(result, tuple) else (result,)

    def compute(self, arrays: Sequence[Array], attributes: Attributes) -> tuple[Array, ...]:
        """The outputs for given arrays, by the reference."""
        result = self.reference(*arrays, **attributes)
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)

    def __str__(self) -> str:
        return self.name


OPS: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Adds an operator to `OPS`, once."""
    if operator.name in OPS:
        raise InternalError(f"operator {operator.name} is registered twice")
    OPS[operator.name] = operator
    return operator
