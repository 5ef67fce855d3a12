"""Kernels over a tensor's rows: all positions along one axis, for each place of the other axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.expr import Index

Row: TypeAlias = Callable[[Size], Index]
"""The indices of a row's element, from its position in the row."""


@contextmanager
def each_row(builder: KernelBuilder, shape: Sequence[Size], axis: int) -> Iterator[Row]:
    """A parallel loop over the rows along an axis."""
    others = (*shape[:axis], *shape[axis + 1 :])
    with builder.loop(product(others), "parallel") as flat:
        place = unravel(flat, others)
        yield lambda position: (*place[:axis], position, *place[axis:])


def unravel(flat: Size, shape: Sequence[Size]) -> Index:
    """The indices of the element that lies at position `flat` of a dense tensor."""
    place: list[Size] = []
    for size in reversed(shape[1:]):
        place.append(flat % size)
        flat = flat // size
    return (flat, *reversed(place)) if shape else ()
