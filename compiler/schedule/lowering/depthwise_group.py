"""Lowers groups around depthwise convolutions, and around those with few channels in each group.

This file finds out what the kernel reads and stores; ../convolution/depthwise.py writes its loops.
"""

from __future__ import annotations

from functools import partial

from bessemer.compiler.ir.dims import product, symbol
from bessemer.compiler.ir.expr import Buffer, fragment_element
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.schedule.convolution.depthwise import lower_depthwise
from bessemer.compiler.schedule.convolution.depthwise_plan import (
    Depthwise,
    has_narrow_groups,
    is_by_channels,
)
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.lowering.image_groups import ImageGroup, planes_of
from bessemer.compiler.schedule.lowering.kernel_table import content
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers

_PROBE, _FAR = ("probe image", "probe row", "probe column", "probe channel"), 1 << 20
"""Symbols that stand for any element, and what is subtracted from them because an index may be
negative in a border."""


def lower_depthwise_group(
    group: Group, grouping: Grouping, lowering: Lowering
) -> list[Launch] | None:
    """The launch of a convolution with one filter per channel, or in groups of few channels; None
    if the depthwise kernel cannot compute it."""
    anchor = group.anchor
    assert anchor is not None
    if not (is_by_channels(anchor) or has_narrow_groups(anchor)):
        return None
    image = ImageGroup(group, grouping, lowering)
    body = _depthwise_body(image, image.fusion.buffer(image.right))
    operations = 2 * product(anchor.inputs[1].type.shape) * image.sizes[2]
    return [
        lowering.launch(
            image.nodes,
            flat_buffers(image.fusion),
            {image.out.value: image.out.buffer},
            Computation(body, operations),
        )
    ]


def _depthwise(image: ImageGroup, weights: Buffer) -> Depthwise:
    """What the kernel computes; it reads through the buffers of `image`."""
    *kernel, width, channels = image.right.type.shape
    assert isinstance(width, int) and isinstance(channels, int)
    taps = (1, kernel[0]) if image.is_line else tuple(kernel)
    return Depthwise(
        image.pixel(),
        Buffer(weights.name, weights.dtype, (*taps, *([width] if width > 1 else []), channels)),
        image.padded("strides", 1),
        image.padded("dilations", 1),
        image.sizes,
        channels,
        image.epilogue,
        low=image.padded("low", 0),
        inputs=image.padded_inputs,
        planes=planes_of(image.anchor) if image.is_volume else None,
        group=width,
        filters=channels // image.anchor.attributes["groups"],
    )


def _depthwise_body(image: ImageGroup, weights: Buffer) -> Block:
    """The body of the kernel. Convolutions whose elements of input and output are the same
    expressions have one body. The image's fusion gets the buffers that it reads."""
    lowering, work = image.lowering, _depthwise(image, weights)
    tile = lowering.choices.depthwise(image.anchor, work, lowering.target)
    others = image.copy()
    probe = _depthwise(others, weights)
    n, row, column, channel = (symbol(name) - _FAR for name in _PROBE)
    element = probe.x(n, row, column, probe.source(channel))
    total = fragment_element("sum", 0, image.anchor.output.type.dtype)
    (store,) = probe.epilogue((n, row, column), channel, total)
    key = (*content(work), tile, element, *content(store), *flat_buffers(others.fusion).values())
    lower = partial(lower_depthwise, work, tile)
    return lowering.kernels.body(key, image.fusion, others.fusion, lower)
