"""Converts indices between shapes: row-major offsets as in NumPy's ravel, and broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size


def _itself(size: Size) -> Size:
    return size


def ravel(index: Sequence[Size], extents: Sequence[Size]) -> Size:
    """The flat position of an index."""
    position: Size = 0
    for i, extent in zip(index, extents, strict=True):
        position = position * extent + i
    return position


def unravel(
    position: Size, extents: Sequence[Size], named: Callable[[Size], Size] = _itself
) -> tuple[Size, ...]:
    """The index of a flat position inside of the extents, outer axis first.

    `named` may put each number that is computed on the way into a local variable of a kernel.
    """
    found: list[Size] = []
    for extent in reversed([1 if size == 0 else size for size in extents[1:]]):
        found.append(named(dims.mod(position, extent)))
        position = named(dims.floordiv(position, extent))
    return (position, *reversed(found)) if extents else ()


def broadcast_index(index: Sequence[Size], shape: Sequence[Size]) -> tuple[Size, ...]:
    """The index into an array of a shape for one into what it is broadcast to, which may have more
    axes in front: 0 along axes of one element."""
    aligned = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else i for i, size in zip(aligned, shape, strict=True))
