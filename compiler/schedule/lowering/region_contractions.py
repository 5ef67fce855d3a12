"""The contractions of the regions into which a convolution is cut
(convolution/padding_regions.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, load
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.convolution.padding_regions import Part, Region
from bessemer.compiler.schedule.lowering.contraction_forms import ConvolutionForm, Form


def contractions_of(
    whole: Contraction,
    form: Form,
    regions: list[Region],
    left_out: Callable[[], Buffer | None],
) -> Iterator[tuple[Contraction, Mapping[str, Size]]]:
    """The contraction of each region, and the values of its kernel's own symbols; through these,
    regions of unknown sizes share kernels. There are none if a region sees only some of the taps
    that are multiplied in one group.

    `left_out` makes the buffer of the terms that the regions leave out, [regions * columns], or
    None.
    """
    if not regions or not isinstance(form, ConvolutionForm) or _parts_a_run(whole, form, regions):
        return
    steps = _steps(whole)
    sums = left_out()
    for number, region in enumerate(regions):
        arguments: dict[str, Size] = {}
        region = tuple(_named(part, axis, arguments) for axis, part in enumerate(region))
        rows, begins = list(whole.rows), list[Size]([0] * len(whole.rows))
        depth = [replace(axis, steps=step) for axis, step in zip(whole.depth, steps, strict=True)]
        a_base, first_step = whole.a_base, dims.total(())
        for axis, part in enumerate(region):
            row, tap = form.row_order.index(1 + axis), form.depth_order.index(axis)
            a_base += part.begin * rows[row].a_stride + part.first_tap * depth[tap].a_stride
            step = steps[tap]
            first_step += part.first_tap * (1 if step is None else step)
            rows[row] = replace(rows[row], extent=part.count)
            depth[tap] = replace(depth[tap], extent=part.taps)
            begins[row] = part.begin
        more = None if sums is None else (sums, _place(number, whole.columns, arguments))
        contraction = replace(
            whole,
            a_base=a_base,
            rows=tuple(rows),
            depth=tuple(depth),
            epilogue=_Moved(whole, tuple(begins), more),
            panel_steps=whole.depth_steps,
            first_step=first_step,
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
    """The offset of a region's row among the terms left out; a symbol if several regions share the
    kernel."""
    if not arguments:
        return number * columns
    arguments["bessemer_left_out"] = number * columns
    return dims.symbol("bessemer_left_out")


def _parts_a_run(whole: Contraction, form: ConvolutionForm, regions: list[Region]) -> bool:
    """Whether a region sees only some of the taps that are multiplied in one group: a group may
    have numbers of two taps."""
    if whole.group == 1:
        return False
    placed = zip(form.depth_order, _steps(whole), strict=True)
    run = [axis for axis, step in placed if step is None and axis < len(regions[0])]
    return any(region[axis].taps != form.w[axis] for region in regions for axis in run)


def _steps(whole: Contraction) -> list[Size | None]:
    """The stride along each axis of the sum, in steps of the right operand; None for the innermost
    ones, which are one run where neighbours are multiplied in groups."""
    axes = list(whole.depth)
    run = axes[-1].extent if whole.group == 1 else whole.run
    found: list[Size | None] = []
    taken: Size = 1
    while taken != run or not found:
        taken = taken * axes.pop().extent
        found.insert(0, None)
    step = dims.ceildiv(run, whole.group)
    for axis in reversed(axes):
        found.insert(0, step)
        step = step * axis.extent
    return found


@dataclass(frozen=True, eq=False)
class _Moved:
    """The epilogue of a region: that of the whole convolution, at indices that begin elsewhere.
    `left_out` is a buffer and the offset of the terms that the region left out of its sums."""

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
