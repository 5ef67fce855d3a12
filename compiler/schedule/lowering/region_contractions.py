"""The contractions of the regions into which a convolution is cut
(convolution/padding_regions.py)."""

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
    """The contraction of each region, and the values of its kernel's own symbols; through these,
    regions of unknown sizes share kernels. There are none if the contraction's axes are not in the
    order of the convolution's.

    `left_out` makes the buffer of what the regions' sums lack, [regions * columns], or None.
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
    """The part with symbols of the kernel in place of its bounds, if these are not known numbers.
    The symbols' values are added to `arguments`."""
    if isinstance(part.begin, int) and isinstance(part.count, int):
        return part
    named: dict[str, Any] = {}
    for field in ("begin", "count", "first_tap"):
        name = f"bessemer_{field}{axis}"
        arguments[name], named[field] = getattr(part, field), dims.symbol(name)
    return replace(part, **named)


def _place(number: int, columns: Size, arguments: dict[str, Size]) -> Size:
    """Where the row of a region begins in what is left out; a symbol if several regions share the
    kernel."""
    if not arguments:
        return number * columns
    arguments["bessemer_left_out"] = number * columns
    return dims.symbol("bessemer_left_out")


def _rows_of_axes(whole: Contraction, convolution: Node) -> list[int]:
    """The position among the rows of the axis that runs along each spatial axis; it is found by its
    stride. The list is shorter if the first axes of the sum are not those of the taps."""
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
    """How many steps of the right operand one step along each axis of taps takes."""
    *taps, channels = whole.depth
    found: list[Size] = []
    step = dims.ceildiv(channels.extent, whole.group)
    for axis in reversed(taps):
        found.insert(0, step)
        step = step * axis.extent
    return found


@dataclass(frozen=True, eq=False)
class _Moved:
    """The epilogue of a region: that of the whole convolution, at indices that begin elsewhere.
    `left_out` is a buffer and an offset at which the numbers lie that the region's sums lack."""

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
