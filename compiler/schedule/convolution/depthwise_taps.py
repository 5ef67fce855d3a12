"""Adds the taps of large depthwise windows to the sums of one tile, which is one row of outputs.

    for plane of taps                          volumes only
      for row of taps
        for segment of the row                 a few have code of their own, more are a loop
          for member of the group              narrow groups only
            the segment's weights are loaded, then every input once

Only planes, rows and segments that see the image are visited. Segments wholly inside of the image
have a loop of their own; those of the loops before and behind it check every column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Constant,
    Expression,
    constant,
    index_value,
    less,
    within,
)
from bessemer.compiler.ir.types import boolean
from bessemer.compiler.schedule.convolution.depthwise_plan import Depthwise

Range: TypeAlias = tuple[Size, Size]
"""The first tap that sees the image, and the number of taps that see it."""
Output: TypeAlias = tuple[int, int]
"""The row and column of an output in its tile."""


def rows_of_taps(builder: KernelBuilder, work: Depthwise, begin: Size) -> Range:
    """The rows of taps that the outputs of row `begin` need."""
    taps, rows = work.kernel[0], work.inputs[0]
    if rows is None:
        return 0, taps
    before = work.low[0] - begin * work.strides[0]
    return _seeing(builder, before, rows, taps, work.dilations[0])


def planes_of_taps(builder: KernelBuilder, work: Depthwise, image: Size) -> Range:
    """The planes of taps that the outputs of plane `image` need."""
    planes = work.planes
    if planes is None:
        return 0, 1
    before = planes.low - dims.mod(image, planes.outputs) * planes.stride
    return _seeing(builder, before, planes.inputs, planes.taps, planes.dilation)


def _seeing(builder: KernelBuilder, before: Size, inputs: Size, taps: int, dilation: int) -> Range:
    """The taps that see one of `inputs` places; the first of these is `before` places behind the
    place of the first tap."""
    first = dims.ceildiv(dims.maximum(before, 0), dilation)
    end = dims.minimum(dims.ceildiv(dims.maximum(before + inputs, 0), dilation), taps)
    first = builder.define(index_value(first), "first").index
    count = builder.define(index_value(dims.maximum(end - first, 0)), "taps").index
    return first, count


@dataclass(frozen=True, eq=False)
class TapLoops:
    """The loops over the taps of a tile, whose first output is `at` (image, row, column). If it
    `is_checked`, not all of its outputs may exist, nor the inputs that these would see."""

    builder: KernelBuilder
    work: Depthwise
    at: tuple[Size, Size, Size]
    width: int
    is_checked: bool
    rows: Range
    planes: Range

    def add(self, sums: Mapping[Output, Local], channel: Size) -> None:
        """Adds all rows of taps that see a row of the image, or of one of its planes."""
        image, planes = self.at[0], self.work.planes
        if planes is None:
            self._add_rows(image, (), sums, channel)
            return
        first, count = self.planes
        volume = dims.floordiv(image, planes.outputs)
        place = dims.mod(image, planes.outputs) * planes.stride - planes.low
        with self.builder.loop(count) as number:
            tap = first + number
            plane = volume * planes.inputs + place + tap * planes.dilation
            self._add_rows(plane, (tap,), sums, channel)

    def _add_rows(
        self, image: Size, plane_tap: tuple[Size, ...], sums: Mapping[Output, Local], channel: Size
    ) -> None:
        """Adds the rows of one image, each in segments of its taps; `plane_tap` is the index of
        the plane in the weights, if these have planes."""
        work, builder = self.work, self.builder
        columns, (_, length) = work.kernel[1], work.segments()
        whole = columns // length if work.loops_over_segments else 0
        segments = self._segments(whole, length) if whole else ()
        first, count = self.rows
        with builder.loop(count) as number:
            tap = first + number
            row = (image, work.place(0, self.at[1], tap * work.dilations[0]))
            for (begin, times), is_checked in segments:
                with builder.loop(times) as segment:
                    at = (*plane_tap, tap, (begin + segment) * length)
                    self._add_segment(row, at, length, sums, channel, is_checked)
            for begin in range(whole * length, columns, length):
                at = (*plane_tap, tap, begin)
                taps = min(length, columns - begin)
                self._add_segment(row, at, taps, sums, channel, self.is_checked or whole > 0)

    def _segments(self, count: int, length: int) -> list[tuple[Range, bool]]:
        """Those of `count` segments of which some output of the tile sees an input, in runs, and
        whether each run checks its columns."""
        work, step, builder = self.work, length * self.work.dilations[1], self.builder
        extent = _extent(work, self.is_checked)
        if extent is None:
            return [((0, count), False)]
        behind = self._inputs(length) - 1
        before = -work.place(1, self.at[2], 0)
        first, seen = _seeing(builder, before - behind, extent + behind, count, step)
        inner, inside = _seeing(builder, before, extent - behind, count, step)
        inner = builder.define(index_value(dims.minimum(inner, first + seen)), "inner").index
        after = inner + inside
        runs = (first, inner - first), (inner, inside), (after, first + seen - after)
        return list(zip(runs, (True, False, True)))

    def _inputs(self, taps: int) -> int:
        """The inputs that the tile's outputs see under so many taps."""
        work = self.work
        return (self.width - 1) * work.strides[1] + (taps - 1) * work.dilations[1] + 1

    def _add_segment(
        self,
        row: tuple[Size, Size],
        tap: tuple[Size, ...],
        length: int,
        sums: Mapping[Output, Local],
        channel: Size,
        is_checked: bool,
    ) -> None:
        """Adds what the inputs of one row (image, row) contribute under `length` taps of a row of
        the window, the first of which has the index `tap`."""
        group = self.work.group
        if group == 1:
            self._add_member(row, tap, length, sums, (channel,), is_checked)
            return
        with self.builder.loop(group) as member:
            self._add_member(row, tap, length, sums, (member, channel), is_checked)

    def _add_member(
        self,
        row: tuple[Size, Size],
        tap: tuple[Size, ...],
        length: int,
        sums: Mapping[Output, Local],
        channels: tuple[Size, ...],
        is_checked: bool,
    ) -> None:
        """Adds what one input of each group contributes; `channels` are the indices of its
        weights."""
        work, builder = self.work, self.builder
        *outer, begin = tap
        left = work.place(1, self.at[2], begin * work.dilations[1])
        weights = [
            builder.define(work.weights[*outer, begin + k, *channels], "w").value
            for k in range(length)
        ]
        *member, channel = channels
        source = work.source(channel, *member)
        self._add_inputs(row, left, weights, sums, source, is_checked)

    def _add_inputs(
        self,
        row: tuple[Size, Size],
        left: Size,
        weights: list[Expression],
        sums: Mapping[Output, Local],
        channel: Size,
        is_checked: bool,
    ) -> None:
        """Adds the products of a segment's weights with the inputs of a row from column `left`
        on."""
        work, builder = self.work, self.builder
        for x in range(self._inputs(len(weights))):
            seen = {at: work.tap(1, x, at) for at in range(self.width)}
            seen = {at: tap for at, tap in seen.items() if 0 <= tap < len(weights)}
            exists = column_exists(work, left + x, is_checked)
            if not seen or is_false(exists):
                continue
            with when(builder, exists):
                value = builder.define(work.x(*row, left + x, channel), "x").value
                for at, tap in seen.items():
                    sums[0, at].accumulate("add", value * weights[tap])


def column_exists(work: Depthwise, column: Size, is_checked: bool) -> Expression:
    """A condition that the image has a column; code that is not checked knows it of the columns
    that are no constants."""
    extent = _extent(work, is_checked)
    if extent is None or not (is_checked or isinstance(column, int)):
        return constant(True, boolean)
    return less(column, extent) if work.inputs[1] is None else within(column, extent)


def _extent(work: Depthwise, is_checked: bool) -> Size | None:
    """The end of the columns that may be read; None if no window leaves them."""
    columns = work.inputs[1]
    if columns is None and is_checked:
        seen = (work.outputs[2] - 1) * work.strides[1] + work.reach(1, 1)
        return seen - work.low[1]
    return columns


def is_false(condition: Expression) -> bool:
    """Whether a condition is known to be false."""
    return isinstance(condition, Constant) and not condition.value


@contextmanager
def when(builder: KernelBuilder, condition: Expression) -> Iterator[None]:
    """A branch, unless it is always taken."""
    if isinstance(condition, Constant) and condition.value:
        yield
        return
    with builder.when(condition):
        yield
