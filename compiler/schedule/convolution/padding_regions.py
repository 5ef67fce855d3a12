"""Convolutions whose windows are spread so far that many products are with padding.

    conv(pad(x : [1,33,33,c], 12), w : [3,3,c,o], dilations=(12, 12))

The first twelve rows of outputs see no row of the image under the first row of taps, the last
twelve none under the last one. So the outputs are cut into regions, three along each axis, each
with the taps that it sees: 7/12 of the products in all. A region is a contraction of its own, of
the same input and the same packed weight, of which it leaves steps out. Where a size is not known,
regions begin and end where they would by any size, and may turn out to be empty: of an image of 12
columns, all see the middle tap only. No region reads padding where every output sees a tap inside:
then there need be no padded copy.

Integers may be padded with a zero point. What a region leaves out is then the same number for all
its outputs of a channel, which is known at compile time, and begins their sums.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import groupby, product
from math import prod

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array, i32
from bessemer.compiler.schedule.convolution.winograd_pays import pays, segments_pay
from bessemer.compiler.schedule.convolution.winograd_taps import Taps

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
    """Neighbouring outputs along an axis, `likely` so many, and the taps that they see; or a tap
    in the padding where they see none, which is not `inside`."""

    begin: Size
    count: Size
    first_tap: Size
    taps: int
    likely: int
    inside: bool = True


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


def read_without_padding(graph: Graph) -> dict[Node, list[Region]]:
    """The convolutions that read an image in memory in place of a padded copy, and their regions:
    those that need them, if no region sees padding."""
    producers = graph.producers()
    found = {}
    for node in graph.nodes:
        if node.operator.name != "conv" or node.inputs[1].type.shape[-1] == 1:
            continue  # of one column there is no contraction
        regions = regions_of(node, producers, graph.constants)
        if not regions or not _are_inside(regions, node, producers):
            continue
        is_constant = node.inputs[1] in graph.constants
        if is_better_than_winograd(regions, node) or not _goes_by_winograd(node, is_constant):
            found[node] = regions
    return found


def _goes_by_winograd(convolution: Node, is_constant: bool) -> bool:
    """Whether Winograd's method would pay, seen from where the target is not known."""
    *taps, channels, columns = convolution.inputs[1].type.shape
    if len(taps) != 2 or {*convolution.attributes["strides"]} != {1}:
        return len(taps) != 2
    rows, across = (
        Taps(dims.number(count), dilation)
        for count, dilation in zip(taps, convolution.attributes["dilations"], strict=True)
    )
    *sizes, _ = convolution.output.type.shape
    if {rows.count, across.count} <= {1, 3}:
        dtype = convolution.inputs[0].type.dtype
        return pays(sizes, channels, columns, dtype, (rows, across), is_constant)
    return segments_pay(sizes, channels, columns, (rows, across), is_across=False)


def _are_inside(regions: list[Region], convolution: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether regions see the image only: its rows and columns have the padding, and every output
    has a tap inside."""
    pad = producers[convolution.inputs[0]]
    others = [pad.attributes[end][axis] for end in ("low", "high") for axis in (0, -1)]
    is_around = all(size == 0 for size in others)
    return is_around and all(part.inside for region in regions for part in region)


def copies_for(convolutions: Container[Node], graph: Graph) -> set[Node]:
    """The padding that nobody reads but these convolutions, which need it not."""
    users = graph.users()
    return {
        node
        for node in graph.nodes
        if node.operator.name == "pad"
        and node.output not in graph.outputs
        and all(user in convolutions for user in users.get(node.output, []))
    }


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

    def seen(output: int) -> tuple[int, int, bool]:
        places = [output * stride - low + tap * dilation for tap in range(taps)]
        inside = [tap for tap, place in enumerate(places) if 0 <= place < size]
        return (inside[0], inside[-1] + 1, True) if inside else (0, 1, False)

    found = []
    for (first, end, inside), members in groupby(range(outputs), seen):
        places = list(members)
        found.append(Part(places[0], len(places), first, end - first, len(places), inside))
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
