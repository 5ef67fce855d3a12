"""Cuts the outputs of a convolution into regions, so that taps that see only padding are not
multiplied.

This matters where the taps are far apart:

    conv(pad(x : [1,33,33,c], 12), w : [3,3,c,o], dilations=(12, 12))

Under the first row of taps, the first twelve rows of outputs see no row of the image; under the
last row of taps, the last twelve rows see none. So the outputs are cut into regions, three along
each axis here, each with the taps that it sees. That leaves 7/12 of the products. A region is a
contraction of its own. It has the same input and the same packed weight, of which it leaves out
steps. Where a size is not known, the regions' bounds are formulas of it, and regions may turn out
to be empty: in an image of 12 columns, all outputs see the middle tap only.

If every output sees a tap inside of the image, no region reads padding. Then no padded copy is
needed.

Integers may be padded with a zero point. The taps that a region leaves out then contribute the same
number to all of its outputs of a channel. That number is known at compile time, and the region's
sums begin with it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import prod
from typing import TypeVar

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array, f32, i32
from bessemer.compiler.schedule.contraction.contraction import multiplies
from bessemer.compiler.schedule.convolution.padded_axes import padded_axes
from bessemer.compiler.schedule.convolution.winograd_cost import (
    MOST_OF_DIRECT,
    is_profitable,
    share_in_segments,
)
from bessemer.compiler.schedule.convolution.winograd_taps import Taps

_FEWEST = 3
"""Outputs along an axis of a region: with fewer, tiles would be too low. Such regions pay all the
same where taps are farther apart than half of the image. (Zen 5, dilation 12 on 14x14, 512 -> 256:
880 -> 417 us, dilation 6 on 7x7, 2048 -> 256: 1182 -> 912.)"""
_T = TypeVar("_T")

_WORTH = 0.85
"""The regions pay if at most this fraction of the products is left."""
_UNKNOWN = 32
"""Assumed for unknown sizes: taps that are far apart are mostly applied to small images."""
_FAR, _MOST_TAPS = 8, 3
"""Axes of unknown size are cut only if the taps are farther apart than _FAR, and there are at most
_MOST_TAPS, because an unknown size has more regions than a known one."""


@dataclass(frozen=True)
class Part:
    """Neighbouring outputs along an axis that see the same taps: `taps` of them, from `first_tap`
    on.

    If they see no tap inside of the image, one tap in the padding stands for them, and `inside` is
    false. `likely` is the count, or an assumption where it is not known.
    """

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
    """The regions of a convolution whose input is padded. Empty if they would save little."""
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
    """The convolutions that read the image itself where they would read a padded copy, with their
    regions. These are convolutions that are computed by regions, none of which sees padding.

    Where something else reads the copy, such as the gradient of the weights, they read it, too: the
    image may then be nowhere but in the copy (see `fills_inside` in grouping/destinations.py)."""
    producers = graph.producers()
    found = {}
    for node in graph.nodes:
        if node.operator.name != "conv" or node.inputs[1].type.shape[-1] == 1:
            continue  # of one column there is no contraction
        if not multiplies(node.output.type.dtype, *(value.type.dtype for value in node.inputs)):
            continue
        regions = regions_of(node, producers, graph.constants)
        if not regions or not _are_inside(regions, node, producers):
            continue
        left = products_left(node, producers, regions)
        if not _goes_by_winograd(node, node.inputs[1] in graph.constants, left):
            found[node] = regions
    spared = copies_for(found, graph)
    return {node: r for node, r in found.items() if producers[node.inputs[0]] in spared}


def _goes_by_winograd(convolution: Node, is_constant: bool, left: float) -> bool:
    """Whether Winograd's method would pay. The target is not known here."""
    *kernel, channels, columns = convolution.inputs[1].type.shape
    planes, *counts = _of_volume([dims.number(size) for size in kernel])
    _, *strides = _of_volume(convolution.attributes["strides"])
    _, *dilations = _of_volume(convolution.attributes["dilations"])
    if strides != [1, 1]:
        return False
    images, *spatial, _ = convolution.output.type.shape
    volumes, *sizes = _of_volume(spatial)
    outputs = (images * volumes, *sizes)
    down, across = map(Taps, counts, dilations)
    taps = down, across
    if {*counts} <= {1, 3}:
        dtype = convolution.inputs[0].type.dtype
        return is_profitable(outputs, channels, columns, dtype, taps, is_constant, planes, left)
    return (
        share_in_segments(outputs, channels, columns, taps, False, planes) < MOST_OF_DIRECT * left
    )


def _of_volume(values: Sequence[_T]) -> list[_T | int]:
    """One value for each axis of a volume; lines and images have one place along the others."""
    return [*[1] * (3 - len(values)), *values]


def _are_inside(regions: list[Region], convolution: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether the regions read the image only: only its rows and columns are padded, and every
    output sees a tap inside of the image."""
    pad = producers[convolution.inputs[0]]
    others = [pad.attributes[end][axis] for end in ("low", "high") for axis in (0, -1)]
    is_around = all(size == 0 for size in others)
    return is_around and all(part.inside for region in regions for part in region)


def copies_for(convolutions: Container[Node], graph: Graph) -> set[Node]:
    """The padding nodes whose output is read by nothing but `convolutions`, which do without it."""
    users = graph.users()
    return {
        node
        for node in graph.nodes
        if node.operator.name == "pad"
        and node.output not in graph.outputs
        and all(user in convolutions for user in users.get(node.output, []))
    }


def left_out(regions: list[Region], number: int, weights: Array) -> Array:
    """What the taps that each region leaves out contribute to its sums, [regions, output
    channels], as i32 that wraps. `number` is the padding's value, which these taps would be
    multiplied with."""
    axes = tuple(range(weights.ndim - 1))
    wide = weights.astype(np.int64)
    found = []
    for region in regions:
        seen = [slice(p.first_tap, p.first_tap + p.taps) for p in region]
        found.append(number * (wide.sum(axes) - wide[tuple(seen)].sum(axes)))
    return np.stack(found).astype(np.int32)


def products_left(
    convolution: Node, producers: Mapping[Value, Node], regions: list[Region]
) -> float:
    """The fraction of its products that the direct sum computes: in its regions if it has some,
    else without the taps that tiles leave out."""
    if regions:
        return _share(regions, convolution)
    return prod(share for _, share in padded_axes(convolution, producers).values())


def _share(regions: list[Region], convolution: Node) -> float:
    """The fraction of the convolution's products that is left."""
    taps = prod(size for size in convolution.inputs[1].type.shape[:-2] if isinstance(size, int))
    sizes = [(prod(p.likely for p in region), prod(p.taps for p in region)) for region in regions]
    seen = sum(outputs * taps for outputs, taps in sizes)
    return seen / (taps * sum(outputs for outputs, _ in sizes))


def _parts(convolution: Node, pad: Node, axis: int) -> list[Part]:
    """The parts along an axis. Empty if a size is not known, or a part would have few outputs."""
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
    is_far = 2 * dilation > size and convolution.output.type.dtype is f32
    return found if is_far or min(part.likely for part in found) >= _FEWEST else []


def _parts_of_any_size(convolution: Node, pad: Node, axis: int) -> list[Part]:
    """The parts along an axis of unknown size. One tap must be at the place of each output itself.
    Empty if the taps are near each other, or many."""
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
    """The first output that sees exactly the taps seen[0] <= tap < seen[1], and the number of such
    outputs."""
    first, end = seen
    before = low - first * dilation
    begin: Size = max(before, 0)
    if end < taps:
        begin = dims.maximum(begin, size + low - end * dilation)
    behind = dims.minimum(size, size + low - (end - 1) * dilation)
    if first > 0:
        behind = dims.minimum(behind, before + dilation)
    return begin, dims.maximum(0, behind - begin)
