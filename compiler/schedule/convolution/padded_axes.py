"""The axes along which the direct sum of a convolution leaves out taps that see padding only.

A tile's rows are mostly neighbours along the last axis of an image: all of them see the padding
above the image, or in front of a volume, through the same taps. (Volumes are small: of a 5x5x5
kernel with dilation 2 that sees 13x8x12, the taps inside are 0.56 of all along the first two axes.)
"""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.valid_taps import Image

_WORTH = 0.95
"""An axis is listed if at most this share of its taps is inside."""
_UNKNOWN, _UNKNOWN_OF_VOLUMES = 32, 12
"""Assumed for symbolic sizes of images and of volumes."""


def padded_axes(
    convolution: Node, producers: Mapping[Value, Node]
) -> dict[int, tuple[Image, float]]:
    """The spatial axes, except the last, where leaving out taps saves enough: each with its image,
    whose rows are not numbered yet, and the share of its products that is inside."""
    x, w = convolution.inputs
    pad = producers.get(x)
    if pad is None or pad.operator.name != "pad":
        return {}
    if pad.attributes["mode"] != "constant" or pad.attributes["value"] != 0:
        return {}
    unknown = _UNKNOWN_OF_VOLUMES if x.type.rank > 4 else _UNKNOWN
    found = {}
    for axis in range(x.type.rank - 3):
        stride, dilation = (convolution.attributes[name][axis] for name in ("strides", "dilations"))
        low, size = pad.attributes["low"][1 + axis], pad.inputs[0].type.shape[1 + axis]
        image = Image(0, stride, dilation, low, size)
        outputs = convolution.output.type.shape[1 + axis]
        share = _share_inside(image, w.type.shape[axis], outputs, unknown)
        if share <= _WORTH:
            found[axis] = image, share
    return found


def _share_inside(image: Image, taps: Size, outputs: Size, unknown: int) -> float:
    """The share of the products along an axis that is inside; `unknown` stands for its size where
    that is not known."""
    if not (isinstance(image.low, int) and isinstance(taps, int)):
        return 1.0
    if not (isinstance(image.size, int) and isinstance(outputs, int)):
        size, count = unknown, -(-unknown // image.stride)
    else:
        size, count = image.size, outputs
    places = (
        output * image.stride + tap * image.dilation - image.low
        for output in range(count)
        for tap in range(taps)
    )
    return sum(0 <= place < size for place in places) / (taps * count)
