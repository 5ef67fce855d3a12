"""Computes a convolution to few channels as products in planes, and adds up those that fall on the
same output.

    conv(x : [n,h,w,c], w : [kh,kw,c,o])
becomes
    t = transpose(pad(x)) : [n, h + kh - 1, c, w]                 rows of all planes, one by one
    p[n, oh] = matmul(w' : [(kw,o), (kh,c)], t[n, oh : oh + kh] : [(kh,c), w])
    y[n, oh, o, ow] = col2im(p)                                   sums of shifted rows
    transpose(y)

A vector holds neighbouring pixels of a plane, so it is full however few the outputs are: the last
layer of an image network has three. (Vectors of channels have 3 of 16 lanes, or 12 of which a third
multiply zeros, see widen_convolutions.py.) The rows of an image that a product reads lie one behind
the other, so that nothing is written out for a window (shared_windows.py). Taps along further axes
of a volume are added up as those along a row are. The taps that are added up are in reverse order,
because col2im adds a product up where a transposed convolution would.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, number, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32
from bessemer.compiler.passes.convolution.convolve_planes import reads_planes
from bessemer.compiler.passes.convolution.widen_convolutions import LANES, pixels_as_channels

_SINGLE, _MULTIPLIED = 1.4, 2
"""Vectors that a cycle multiplies in tiles one vector wide, which load a number for each, and in
wide ones (measured and in theory)."""
_WASTE = 1.2
"""Products take this many times what full vectors would."""
_NEAR = 1 << 20
"""Bytes of an input that a second-level cache holds."""
_MOVED, _MOVED_FAR = 0.25, 0.5
"""Cycles to write a number and read it again, near and farther away."""
_TURNED, _TURNED_FAR = 0.5, 1.0
"""The same for a number that is transposed. (All four are fitted to 93 convolutions on Zen 5.)"""
_LEAST, _LEAST_OF_FREE = LANES, 2 * LANES
"""Pixels of a row, which is filled up to as many: a register tile's width, or any such width."""
_SHORT = 16
"""Of a free size, pixels for which this should still pay."""
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
    )


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
    products = taps * outputs * _inputs_for_a_pixel(node)
    kept = products / (kernel[-2] if len(kernel) > 1 else 1)
    planes = _WASTE * products / LANES * channels / _MULTIPLIED + kept * moved
    if is_in_planes:
        return planes + moved * channels < direct + turned * channels
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
    """How many inputs are multiplied for an output pixel: those that further axes have behind their
    last outputs, and what fills up rows. Free sizes are taken to be short."""
    kernel = node.inputs[1].type.static_shape[:-2]
    axes = list(zip(node.inputs[0].type.shape[1:-1], node.output.type.shape[1:-1], strict=True))
    inputs, outputs = axes[-1]
    if isinstance(inputs, int):
        inputs += -inputs % LANES
    count = _share(inputs, outputs) or _LEAST_OF_FREE / _SHORT
    for taps, sizes in zip(kernel, axes[:-2]):
        count *= _share(*sizes) or (_SHORT + taps - 1) / _SHORT
    return count


def _share(inputs: Size, outputs: Size) -> float | None:
    """The quotient of two sizes, if they are known."""
    if isinstance(inputs, int) and isinstance(outputs, int) and outputs:
        return inputs / outputs
    return None


def _summed(rewriter: GraphRewriter, node: Node) -> Value:
    emit = rewriter.emit
    *kernel, _, outputs = map(number, node.inputs[1].type.shape)
    *pixels, columns = node.output.type.shape[1:-1]
    low, rank = node.attributes["low"], len(kernel)
    rows, windows = _weights(rewriter, node), _windows(rewriter, node)
    y = emit("matmul", rows, windows)
    n, *lead, _, width = y.type.shape
    # Axes: n, others, height, taps along the others and the row, outputs, row.
    added = [axis for axis in range(rank) if axis != rank - 2]
    taps, begins = [kernel[axis] for axis in added], [low[axis] for axis in added]
    y = emit("reshape", y, shape=(n, *lead, *taps, outputs, width))
    others, first = list(range(1, len(added))), len(lead) + 1
    height, place = lead[len(others) :], first + len(added)
    order = (0, *range(len(added), first), place, *others, place + 1, *range(first, place))
    y = emit("transpose", y, permutation=order)
    # Each row is a sample of its own, so that sums are laid out as rows, too.
    shape = (n * product(height) * outputs, *lead[: len(others)], width, *taps, 1)
    y = emit("reshape", y, shape=shape)
    image = (*pixels[: len(others)], columns)
    ones = tuple(1 for _ in taps)
    lows = tuple(k - 1 - begin for k, begin in zip(taps, begins, strict=True))
    y = emit("col2im", y, image=image, strides=ones, dilations=ones, low=lows)
    y = emit("reshape", y, shape=(n, *height, outputs, *image))
    at = 1 + len(height)  # of the outputs
    order = (0, *range(at + 1, at + len(image)), *range(1, at), at + len(image), at)
    return emit("transpose", y, permutation=order)


def _weights(rewriter: GraphRewriter, node: Node) -> Value:
    """[(taps that are added up, o), (kh, c)], of which the former are in reverse order."""
    w = node.inputs[1]
    *kernel, channels, outputs = map(number, w.type.shape)
    rank = len(kernel)
    inner = [rank - 2] if rank > 1 else []
    added = [axis for axis in range(rank) if axis not in inner]
    last = tuple(kernel[axis] - 1 if axis in added else 0 for axis in range(rank))
    back = tuple(-1 if axis in added else 1 for axis in range(rank))
    w = rewriter.emit("slice", w, starts=(*last, 0, 0), shape=w.type.shape, steps=(*back, 1, 1))
    w = rewriter.emit("transpose", w, permutation=(*added, rank + 1, *inner, rank))
    depth = product(kernel[axis] for axis in inner) * channels
    rows = product(kernel[axis] for axis in added) * outputs
    return rewriter.emit("reshape", w, shape=(rows, depth))


def _windows(rewriter: GraphRewriter, node: Node) -> Value:
    """[n, others, oh, (kh, c), w]: the rows of the image's planes that each row of outputs sees. Of
    a line, without windows: [n, c, w]."""
    emit = rewriter.emit
    (x, w), last = node.inputs, node.inputs[0].type.rank - 1
    x = emit("transpose", x, permutation=(*range(last - 1), last, last - 1))
    if last == 2:
        return x
    kernel, axis = number(w.type.shape[last - 3]), last - 2
    low: list[Size] = [0] * (last + 1)
    high = list(low)
    low[axis], high[axis] = (node.attributes[side][axis - 1] for side in ("low", "high"))
    width = x.type.shape[-1]
    least = _LEAST if isinstance(width, int) else _LEAST_OF_FREE
    # In this form it is certain that the sum is not less.
    high[last] = least + dims.maximum(0, width - least) - width
    x = emit("pad", x, low=tuple(low), high=tuple(high), mode="constant", value=0)
    sizes = (node.output.type.shape[axis], kernel)
    x = emit("windows", x, axis=axis, start=0, sizes=sizes, steps=(1, 1))
    *lead, _, channels, width = x.type.shape
    return emit("reshape", x, shape=(*lead, kernel * channels, width))
