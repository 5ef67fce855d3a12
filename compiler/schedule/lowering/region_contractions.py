"""The contractions of a convolution's regions (padding_regions.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, load
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.convolution.padding_regions import Part, Region


def contractions_of(
    whole: Contraction,
    convolution: Node,
    regions: list[Region],
    left_out: Callable[[], Buffer | None],
) -> Iterator[tuple[Contraction, Mapping[str, Size]]]:
    """The contraction of each region, and what its own symbols are, by which regions of unknown
    sizes share kernels; none where memory has another order than the convolution.

    `left_out` makes what their sums are without, [regions * columns], if that is not 0.
    """
    places = _rows_of_axes(whole, convolution)
    steps = _steps(whole)
    if not regions or len(places) < len(steps):
        return
    sums = left_out()
    for number, region in enumerate(regions):
        arguments: dict[str, Size] = {}
        region = tuple(_named(part, axis, arguments) for axis, part in enumerate(region))
        rows, begins = list(whole.rows), list[Size]([0] * len(whole.rows))
        for part, place in zip(region, places, strict=True):
            rows[place] = replace(rows[place], extent=part.count)
            begins[place] = part.begin
        *taps, channels = whole.depth
        more = None if sums is None else (sums, _place(number, whole.columns, arguments))
        first = dims.total(begin * row.a_stride for begin, row in zip(begins, rows))
        first += dims.total(part.first_tap * tap.a_stride for part, tap in zip(region, taps))
        taps = [
            replace(tap, extent=part.taps, steps=step)
            for part, tap, step in zip(region, taps, steps, strict=True)
        ]
        contraction = replace(
            whole,
            a_base=whole.a_base + first,
            rows=tuple(rows),
            depth=(*taps, channels),
            epilogue=_Moved(whole, tuple(begins), more),
            panel_steps=whole.depth_steps,
            first_step=dims.total(part.first_tap * step for part, step in zip(region, steps)),
        )
        yield contraction, arguments


def _named(part: Part, axis: int, arguments: dict[str, Size]) -> Part:
    """The part by symbols of the kernel's own, where its size is not known."""
    if isinstance(part.begin, int) and isinstance(part.count, int):
        return part
    named: dict[str, Any] = {}
    for field in ("begin", "count", "first_tap"):
        name = f"bessemer_{field}{axis}"
        arguments[name], named[field] = getattr(part, field), dims.symbol(name)
    return replace(part, **named)


def _place(number: int, columns: Size, arguments: dict[str, Size]) -> Size:
    """Where the row of a region begins; an argument where its kernel is for several regions."""
    if not arguments:
        return number * columns
    arguments["bessemer_left_out"] = number * columns
    return dims.symbol("bessemer_left_out")


def _rows_of_axes(whole: Contraction, convolution: Node) -> list[int]:
    """Which of the rows' axes runs along each spatial axis: the one with its step in memory. Fewer
    if the first axes of the sum are not those of the taps."""
    found = []
    for axis, tap in enumerate(whole.depth[:-1]):
        stride, dilation = (convolution.attributes[name][axis] for name in ("strides", "dilations"))
        steps = [row.a_stride * dilation for row in whole.rows]
        extents = [row.extent for row in whole.rows]
        known = (tap.a_stride * stride, convolution.output.type.shape[1 + axis])
        if tap.extent == convolution.inputs[1].type.shape[axis] and known in zip(steps, extents):
            found.append(list(zip(steps, extents)).index(known))
    return found


def _steps(whole: Contraction) -> list[Size]:
    """Steps of the right operand for each tap along the axes of taps."""
    *taps, channels = whole.depth
    found: list[Size] = []
    step = dims.ceildiv(channels.extent, whole.group)
    for axis in reversed(taps):
        found.insert(0, step)
        step = step * axis.extent
    return found


@dataclass(frozen=True, eq=False)
class _Moved:
    """The epilogue of a region, whose rows begin elsewhere, and what its sums are without: a row of
    a buffer, from a place on."""

    whole: Contraction
    begins: tuple[Size, ...]
    left_out: tuple[Buffer, Size] | None

    def __call__(
        self, rows: tuple[Size, ...], column: Size, total: Expression
    ) -> tuple[Store, ...]:
        moved = tuple(row + begin for row, begin in zip(rows, self.begins, strict=True))
        if self.left_out is not None:
            buffer, place = self.left_out
            total = total + load(buffer, (place + column,))
        return self.whole.epilogue(moved, column, total)
