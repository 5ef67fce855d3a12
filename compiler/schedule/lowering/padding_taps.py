"""Tells a convolution's contraction which taps see nothing but padding.

A tile's rows are mostly neighbours along the last axis of an image: all of them see the padding
above the image, or in front of a volume, through the same taps. The loops over these begin and end
where the image does. (Volumes are small: of a 5x5x5 kernel with dilation 2 that sees 13x8x12, the
taps inside are 0.56 of all along the first two axes.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Contraction, merge_depth
from bessemer.compiler.schedule.contraction.taps_inside import Image
from bessemer.compiler.schedule.lowering.contraction_forms import ConvolutionForm, Form

_WORTH = 0.95
"""The share of an axis' taps that may be inside at most."""
_UNKNOWN = 32
"""Stands for an unknown size."""


def without_padding(
    whole: Contraction, form: Form, convolution: Node, producers: Mapping[Value, Node]
) -> Contraction:
    """The contraction of a convolution of a padded input, with images where they save enough."""
    pad = producers.get(convolution.inputs[0])
    if not isinstance(form, ConvolutionForm) or pad is None or pad.operator.name != "pad":
        return whole
    if pad.attributes["mode"] != "constant" or pad.attributes["value"] != 0:
        return whole
    depth, merged = list(whole.depth), merge_depth(whole.depth)
    groups = len(whole.rows) - len(form.row_order)
    for axis in range(len(depth) - 2):
        row, tap = groups + form.row_order.index(1 + axis), form.depth_order.index(axis)
        stride, dilation = (convolution.attributes[name][axis] for name in ("strides", "dilations"))
        low, size = pad.attributes["low"][1 + axis], pad.inputs[0].type.shape[1 + axis]
        image = Image(row, stride, dilation, low, size)
        saves = _share(image, depth[tap].extent, whole.rows[row].extent) <= _WORTH
        if saves and depth[tap] in merged[:-1]:
            depth[tap] = replace(depth[tap], image=image)
    return replace(whole, depth=tuple(depth))


def _share(image: Image, taps: Size, outputs: Size) -> float:
    """The share of the products along an axis that is inside."""
    if not (isinstance(image.low, int) and isinstance(taps, int)):
        return 1.0
    if not (isinstance(image.size, int) and isinstance(outputs, int)):
        size, count = _UNKNOWN, -(-_UNKNOWN // image.stride)
    else:
        size, count = image.size, outputs
    places = (
        output * image.stride + tap * image.dilation - image.low
        for output in range(count)
        for tap in range(taps)
    )
    return sum(0 <= place < size for place in places) / (taps * count)
