"""Convolutions whose windows are spread so far that many products are with padding.

    conv(pad(x : [1,33,33,c], 12), w : [3,3,c,o], dilations=(12, 12))

The first twelve rows of outputs see no row of the image under the first row of taps, the last
twelve none under the last one. So the outputs are cut into regions, three along each axis, each
with the taps that it sees: 7/12 of the products in all. A region is a contraction of its own, of
the same input and the same packed weight, of which it leaves steps out. Where a size is not known,
regions begin and end where they would by any size, and may turn out to be empty: of an image of 12
columns, all see the middle tap only.

Integers may be padded with a zero point. What a region leaves out is then the same number for all
its outputs of a channel, which is known at compile time, and begins their sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, product
from math import prod
from typing import Any

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.ir.types import Array, i32
from bessemer.compiler.schedule.contraction.contraction import Contraction

_FEWEST = 3
"""Outputs along an axis of a region: with fewer, tiles would be too low."""
_WORTH, _FEWER_THAN_WINOGRAD = 0.85, 0.5
"""The shares of the products that may be left at most."""
_UNKNOWN = 32
"""Stands for an unknown size: images that have become small are looked at from afar."""
_FAR, _MOST_TAPS = 8, 3
"""Regions of an unknown size are for taps farther apart than that, and for so many at most, as
there are more of them than of a known one."""


@dataclass(frozen=True)
class Part:
    """Neighbouring outputs along an axis, `likely` so many, and the taps that they see."""

    begin: Size
    count: Size
    first_tap: Size
    taps: int
    likely: int


Region = tuple[Part, ...]
"""A part along each spatial axis."""


def regions_of(
    convolution: Node, producers: Mapping[Value, Node], constants: Mapping[Value, Array]
) -> list[Region]:
    """The regions of a convolution of a padded input; none where that saves little."""
    x, w = convolution.inputs
    pad = producers.get(x)
    if pad is None or pad.operator.name != "pad" or convolution.attributes["groups"] != 1:
        return []
    if pad.attributes["mode"] != "constant":
        return []
    has_known_sums = w in constants and convolution.output.type.dtype is i32
    if pad.attributes["value"] != 0 and not has_known_sums:
        return []
    parts = [
        _parts(convolution, pad, axis) or _parts_of_any_size(convolution, pad, axis)
        for axis in range(w.type.rank - 2)
    ]
    regions = list(product(*parts))
    return regions if regions and _share(regions, convolution) <= _WORTH else []


def left_out(regions: list[Region], number: int, weights: Array) -> Array:
    """The products of the taps that each region leaves out with the `number` that they see, summed
    up by output channels; integers wrap."""
    axes = tuple(range(weights.ndim - 1))
    wide = weights.astype(np.int64)
    found = []
    for region in regions:
        seen = [slice(p.first_tap, p.first_tap + p.taps) for p in region]
        found.append(number * (wide.sum(axes) - wide[tuple(seen)].sum(axes)))
    return np.stack(found).astype(np.int32)


def is_better_than_winograd(regions: list[Region], convolution: Node) -> bool:
    """Whether the regions have less to do than Winograd's method, with its transforms."""
    return bool(regions) and _share(regions, convolution) <= _FEWER_THAN_WINOGRAD


def _share(regions: list[Region], convolution: Node) -> float:
    """The share of the products that is left."""
    taps = prod(size for size in convolution.inputs[1].type.shape[:-2] if isinstance(size, int))
    sizes = [(prod(p.likely for p in region), prod(p.taps for p in region)) for region in regions]
    seen = sum(outputs * taps for outputs, taps in sizes)
    return seen / (taps * sum(outputs for outputs, _ in sizes))


def _parts(convolution: Node, pad: Node, axis: int) -> list[Part]:
    """The parts along an axis; none if a size is not known, or a part has few outputs."""
    size, low = pad.inputs[0].type.shape[1 + axis], pad.attributes["low"][1 + axis]
    taps = convolution.inputs[1].type.shape[axis]
    outputs = convolution.output.type.shape[1 + axis]
    numbers = [entry for entry in (size, low, taps, outputs) if isinstance(entry, int)]
    if len(numbers) < 4:
        return []
    size, low, taps, outputs = numbers
    stride, dilation = (convolution.attributes[name][axis] for name in ("strides", "dilations"))

    def seen(output: int) -> tuple[int, int]:
        places = [output * stride - low + tap * dilation for tap in range(taps)]
        inside = [tap for tap, place in enumerate(places) if 0 <= place < size]
        return (inside[0], inside[-1] + 1) if inside else (0, 1)

    found = []
    for (first, end), members in groupby(range(outputs), seen):
        places = list(members)
        found.append(Part(places[0], len(places), first, end - first, len(places)))
    return found if min(part.likely for part in found) >= _FEWEST else []


def _parts_of_any_size(convolution: Node, pad: Node, axis: int) -> list[Part]:
    """The parts along an axis of an image of a size that is not known, of which one tap is seen by
    every output; none where taps are near or many."""
    size, low = pad.inputs[0].type.shape[1 + axis], pad.attributes["low"][1 + axis]
    taps = convolution.inputs[1].type.shape[axis]
    stride, dilation = (convolution.attributes[name][axis] for name in ("strides", "dilations"))
    if isinstance(size, int) or not (isinstance(low, int) and isinstance(taps, int)):
        return []
    if pad.output.type.rank != 4:
        return []  # lines are long, and volumes would have too many regions
    if stride != 1 or dilation <= _FAR or taps > _MOST_TAPS or low % dilation != 0:
        return []
    middle = low // dilation
    if not 0 <= middle < taps or convolution.output.type.shape[1 + axis] != size:
        return []
    found = []
    for taps_seen in product(range(middle + 1), range(middle + 1, taps + 1)):
        begin, count = _outputs(taps_seen, taps, low, dilation, size)
        _, likely = _outputs(taps_seen, taps, low, dilation, _UNKNOWN)
        if count != 0:
            first, end = taps_seen
            found.append(Part(begin, count, first, end - first, dims.number(likely)))
    return found


def _outputs(
    seen: tuple[int, int], taps: int, low: int, dilation: int, size: Size
) -> tuple[Size, Size]:
    """The first of the outputs that see just these of the taps, begin and end, and their number."""
    first, end = seen
    before = low - first * dilation
    begin: Size = max(before, 0)
    if end < taps:
        begin = dims.maximum(begin, size + low - end * dilation)
    behind = dims.minimum(size, size + low - (end - 1) * dilation)
    if first > 0:
        behind = dims.minimum(behind, before + dilation)
    return begin, dims.maximum(0, behind - begin)


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
