"""Computes a convolution to few channels as one matrix product for all taps, in planes, and adds up
the products that fall on the same output.

    conv(x : [n,h,w,c], w : [kh,kw,c,o])
becomes
    p = matmul(w' : [(kh,kw,o), c], x : [n, c, (h,w)])     the products of each input with each tap
    y[n, o, oh, ow] = col2im(p)                            sums of shifted planes
    transpose(y)

A vector holds neighbouring pixels of a plane, so it is full however few the outputs are: the last
layer of an image network has three. (Vectors of channels have 3 of 16 lanes, or 12 of which a third
multiply zeros, see widen_convolutions.py.) The taps are in reverse order, because col2im adds a
product up where a transposed convolution would.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.dims import Size, number, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32
from bessemer.compiler.passes.convolution.convolve_planes import reads_planes
from bessemer.compiler.passes.convolution.widen_convolutions import LANES, pixels_as_channels

_SINGLE, _MULTIPLIED = 1.4, 2
"""Vectors that a cycle multiplies in tiles one vector wide, which load a number for each, and in
wide ones (measured and in theory)."""
_WASTE = 1.1
"""Products take this many times what full vectors would."""
_MOST = 24 << 20
"""Bytes of the input, which the product packs, and of all products: more would not stay in the
last-level cache, nor be worth the memory (3x3 64 -> 3 of 512x512 takes 95 MB in place of 16, 9x9
32 -> 3 of 224x224 1.11 of the time). Images of free sizes may have more."""
_NEAR = 1 << 20
"""Bytes of an input that a second-level cache holds."""
_MOVED, _MOVED_FAR = 0.25, 1
"""Cycles to write a product and read it again, near and farther away."""
_TURNED, _TURNED_FAR = 0.5, 1.5
"""The same for a number that is transposed (both measured: 32 -> 3 channels of 256x256 pixels is
1.07 times slower in planes, of 100x100 0.7)."""
_SUMMED = 16
"""Cycles to add up the lanes of a dot product, which starts one multiply-add in a cycle."""


def sum_tap_planes(graph: Graph) -> Graph:
    """The same network with products in planes in place of convolutions where that pays on a
    processor. A GPU would launch each of their steps."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if not _is_possible(node) or not _pays(node, reads_planes(rewriter, node)):
        return None
    return (_summed(rewriter, node),)


def _is_possible(node: Node) -> bool:
    """Whether a node is a convolution without strides, dilations or groups, to channels that fill
    less than a vector."""
    if node.operator.name != "conv" or node.attributes["groups"] != 1:
        return False
    x, w = node.inputs
    *kernel, _, outputs = w.type.shape
    steps = (*node.attributes["strides"], *node.attributes["dilations"])
    is_known = all(isinstance(size, int) for size in (*w.type.shape, *node.attributes["low"]))
    return (
        is_known
        and product(kernel) != 1
        and 0 < number(outputs) < LANES
        and all(step == 1 for step in steps)
        and x.type.dtype is w.type.dtype is f32
        and _fits(node)
    )


def _fits(node: Node) -> bool:
    """Whether the input and the products are small, of each image where their number is free."""
    samples, *image, channels = node.inputs[0].type.shape
    products = product(node.inputs[1].type.shape[:-2]) * node.output.type.shape[-1]
    count = product(image) * (samples if isinstance(samples, int) else 1) * (channels + products)
    return isinstance(count, int) and count * f32.bytes <= _MOST


def _pays(node: Node, is_in_planes: bool) -> bool:
    """Whether this takes fewer cycles for an output pixel, in which the values transposed before
    either form are counted."""
    *kernel, channels, outputs = map(number, node.inputs[1].type.shape)
    taps = number(product(kernel))
    size = node.inputs[0].type.nbytes
    is_near = isinstance(size, int) and size <= _NEAR
    moved, turned = (_MOVED, _TURNED) if is_near else (_MOVED_FAR, _TURNED_FAR)
    if outputs == 1 and channels >= LANES:
        direct = taps * channels / LANES + _SUMMED
    else:
        direct = _vectors(node, kernel) * _seen(node, kernel) * channels / _SINGLE
    products = taps * outputs
    planes = _WASTE * products / LANES * channels / _MULTIPLIED + products * moved
    planes = planes * _inputs_for_a_pixel(node) + outputs * moved
    if is_in_planes:
        return planes < direct + turned * channels
    return planes + turned * channels < direct


def _vectors(node: Node, kernel: Sequence[int]) -> float:
    """The vectors that the widened convolution multiplies, for a pixel and an input channel."""
    *others, taps = kernel
    pixels = pixels_as_channels(node)
    return number(product(others)) * (taps + pixels - 1) / pixels


def _seen(node: Node, kernel: Sequence[int]) -> float:
    """The share of the taps along outer axes that see the image; convolutions leave out the
    others."""
    seen = 1.0
    images = (v.type.shape[1:-2] for v in (node.inputs[0], node.output))
    for taps, inputs, outputs, low in zip(kernel, *images, node.attributes["low"]):
        if isinstance(inputs, int) and isinstance(outputs, int) and outputs:
            counts = (min(taps, inputs + low - i) - max(0, low - i) for i in range(outputs))
            seen *= sum(max(0, count) for count in counts) / (taps * outputs)
    return seen


def _inputs_for_a_pixel(node: Node) -> float:
    """How many inputs, in vectors that are filled up, there are for an output pixel."""
    inputs, outputs = (product(v.type.shape[1:-1]) for v in (node.inputs[0], node.output))
    if not isinstance(inputs, int) or not isinstance(outputs, int) or outputs == 0:
        return 1.0
    return (inputs + -inputs % LANES) / outputs


def _summed(rewriter: GraphRewriter, node: Node) -> Value:
    emit = rewriter.emit
    x, w = node.inputs
    *kernel, channels, outputs = map(number, w.type.shape)
    n, *spatial, _ = x.type.shape
    rank = len(kernel)
    axes = range(1, rank + 1)
    last, back = (*(k - 1 for k in kernel), 0, 0), (*(-1 for _ in kernel), 1, 1)
    rows = emit("slice", w, starts=last, shape=w.type.shape, steps=back)
    rows = emit("transpose", rows, permutation=(*range(rank), rank + 1, rank))
    rows = emit("reshape", rows, shape=(product(kernel) * outputs, channels))
    planes = emit("transpose", x, permutation=(0, rank + 1, *axes))
    planes = emit("reshape", planes, shape=(n, channels, product(spatial)))
    y = emit("reshape", emit("matmul", rows, planes), shape=(n, *kernel, outputs, *spatial))
    order = (0, rank + 1, *range(rank + 2, 2 * rank + 2), *axes)
    y = emit("transpose", y, permutation=order)
    # Each plane is a sample of its own, so that sums are laid out as planes, too.
    y = emit("reshape", y, shape=(n * outputs, *spatial, *kernel, 1))
    image: tuple[Size, ...] = node.output.type.shape[1:-1]
    ones = tuple(1 for _ in kernel)
    low = tuple(k - 1 - pad for k, pad in zip(kernel, node.attributes["low"], strict=True))
    y = emit("col2im", y, image=image, strides=ones, dilations=ones, low=low)
    y = emit("reshape", y, shape=(n, outputs, *image))
    return emit("transpose", y, permutation=(0, *range(2, rank + 2), 1))
