"""Square brackets as NumPy has them, on sizes that may be symbols."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import TypeAlias

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Dim, Size, ceildiv, maximum, minimum
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import reshape

Item: TypeAlias = int | Dim | slice | EllipsisType | Value | None
Plain: TypeAlias = int | Dim | slice | Value | None


def sliced(b: GraphBuilder, x: Value, items: Sequence[Item]) -> Value:
    """x[items]: places, slices, ..., None for a new axis, and one tensor of indices at most."""
    starts: list[Size] = []
    shape: list[Size] = []
    steps: list[int] = []
    result: list[Size] = []
    indices: tuple[int, Value] | None = None
    plain = _without_ellipsis(items, x)
    _check_neighbours(plain)
    for item in plain:
        if item is None:
            result.append(1)
            continue
        size = x.type.shape[len(starts)]
        match item:
            case slice():
                start, count, step = _range(size, item)
                result.append(count)
            case Value():
                if indices is not None:
                    raise CompileError("only one tensor of indices can stand in one [...].")
                indices = (len(result), item)
                start, count, step = 0, size, 1
                result.append(count)
            case _:
                start, count, step = _place(size, item, x), 1, 1
        starts.append(start)
        shape.append(count)
        steps.append(step)
    if tuple(shape) != x.type.shape or any(step != 1 for step in steps):
        x = b.apply("slice", x, starts=tuple(starts), shape=tuple(shape), steps=tuple(steps))
    x = reshape(b, x, result)
    return x if indices is None else b.apply("gather", x, indices[1], axis=indices[0])


def _without_ellipsis(items: Sequence[Item], x: Value) -> list[Plain]:
    """One item for each axis, and None for each new one."""
    used = sum(item is not None and item is not ... for item in items)
    missing = x.type.rank - used
    if missing < 0:
        raise CompileError(f"{used} indices for {x.type}, which has {x.type.rank} axes.")
    places = [place for place, item in enumerate(items) if item is ...]
    if len(places) > 1:
        raise CompileError("an index can have one ... only.")
    place = places[0] if places else len(items)
    first, rest = (
        [item for item in part if not isinstance(item, EllipsisType)]
        for part in (items[:place], items[place:])
    )
    return [*first, *[slice(None)] * missing, *rest]


def _check_neighbours(items: Sequence[Plain]) -> None:
    """NumPy moves a tensor's axes to the front if a place stands apart from it: better say it."""
    if not any(isinstance(item, Value) for item in items):
        return
    picked = [at for at, item in enumerate(items) if isinstance(item, int | Dim | Value)]
    if picked[-1] - picked[0] != len(picked) - 1:
        raise CompileError(
            "places and a tensor of indices must stand next to each other in [...]. "
            "Write x[place][indices]."
        )


def _place(size: Size, place: Size, x: Value) -> Size:
    if isinstance(place, int) and place < 0:
        place = size + place
    if isinstance(place, int) and isinstance(size, int) and not 0 <= place < size:
        raise CompileError(f"the index {place} is outside an axis of {x.type}.")
    return place


def _range(size: Size, part: slice) -> tuple[Size, Size, int]:
    """(start, count, step) of a slice of an axis."""
    step = 1 if part.step is None else part.step
    if not isinstance(step, int) or step == 0:
        raise CompileError(f"a slice has step {step}; it must be a whole number and not 0.")
    if step > 0:
        start = 0 if part.start is None else _bound(part.start, size, 0, size)
        stop = size if part.stop is None else _bound(part.stop, size, 0, size)
        return start, ceildiv(maximum(stop - start, 0), step), step
    last = size - 1
    start = last if part.start is None else _bound(part.start, size, -1, last)
    stop = -1 if part.stop is None else _bound(part.stop, size, -1, last)
    return start, ceildiv(maximum(start - stop, 0), -step), step


def _bound(bound: Size, size: Size, lowest: Size, highest: Size) -> Size:
    """Where a slice begins or ends: below zero counts from the end, and nothing is outside."""
    if isinstance(bound, int) and bound < 0:
        bound = size + bound
    return maximum(minimum(bound, highest), lowest)
