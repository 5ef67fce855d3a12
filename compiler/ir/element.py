"""What element rules are written with: operands that can be indexed, and symbols for reductions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Expression, Index
from bessemer.compiler.ir.types import DType, TensorType


@dataclass(frozen=True, eq=False)
class Operand:
    """An input of an operator as its element rule sees it: a type, and elements by index.

    Whether an element is loaded, a constant, or computed on the spot is not the rule's concern.
    """

    type: TensorType
    element: Callable[[Index], Expression]

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.type.shape

    def __getitem__(self, index: Index) -> Expression:
        return self.element(index)


_COUNTER = itertools.count()


def reduction_symbols(extents: Sequence[Size]) -> tuple[Symbol, ...]:
    """New symbols to reduce over. Lowering renames them, so that their names never matter."""
    return tuple(Symbol(f"r{next(_COUNTER)}", extent) for extent in extents)
