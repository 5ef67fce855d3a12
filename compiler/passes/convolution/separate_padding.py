"""Makes padding explicit, or puts it inside, as the kernels of convolutions need it.

    conv(x, w, low, high)             becomes      conv(pad(x), w), or conv(slice(x), w)
    conv(exchanged(x), dy, low, high)              conv(exchanged(pad(x)), dy)
    depthwise(pad(x), w)              becomes      depthwise(x, w, low, high), of a cast too
    pad(transpose(x)), few channels   becomes      transpose(pad(x))

The kernel of a tiled convolution reads its input without checking for the border. The padded copy
is written by the kernel that computes the input, or by one of its own. Depthwise convolutions leave
out the border themselves. An image whose few channels lie in planes is padded plane by plane, which
copies rows; the first convolution of a network reads it through the transpose.

The gradient of a weight is a convolution of the input, with samples and channels exchanged. It
reads the copy that was made in the forward half, of which it may read fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from bessemer.compiler.ir.dims import Size, is_nonnegative
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph

FEW_CHANNELS = 8
"""A transpose of pixels with fewer channels than this has too short rows to copy."""


def separate_padding(graph: Graph) -> Graph:
    """The same network with explicit padding, where it is needed."""
    return rewrite_graph(graph, partial(_rule, {}))


_Pads: TypeAlias = dict[Value, list[Node]]
"""The padded copies of a value."""


def _rule(pads: _Pads, rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name == "pad":
        return _padded_planes(rewriter, node)
    if node.operator.name != "conv":
        return None
    low, high = node.attributes["low"], node.attributes["high"]
    x, w = node.inputs
    if w.type.shape[-2] == 1 and node.attributes["groups"] > 1:
        return _with_pad_inside(rewriter, node)
    if not any(size != 0 for size in (*low, *high)):
        return None
    if all(isinstance(size, int) and size <= 0 for size in (*low, *high)):
        seen = _cropped(rewriter, x, (0, *low, 0), (0, *high, 0))
    else:
        seen = _padded(pads, rewriter, x, (0, *low, 0), (0, *high, 0))
    none = tuple(0 for _ in low)
    return (rewriter.emit("conv", seen, w, **{**node.attributes, "low": none, "high": none}),)


def _size_between(x: Value, low: Sequence[Size], high: Sequence[Size]) -> tuple[Size, ...]:
    sizes = zip(x.type.shape, low, high, strict=True)
    return tuple(size + before + after for size, before, after in sizes)


def _cropped(rewriter: GraphRewriter, x: Value, low: Sequence[Size], high: Sequence[Size]) -> Value:
    """What is left of x if the padding is negative, as a view."""
    starts, steps = tuple(-size for size in low), tuple(1 for _ in low)
    shape = _size_between(x, low, high)
    return rewriter.emit("slice", x, starts=starts, shape=shape, steps=steps)


def _padded(
    pads: _Pads, rewriter: GraphRewriter, x: Value, low: tuple[Size, ...], high: tuple[Size, ...]
) -> Value:
    """x with zeros around it: a part of an existing copy, or a new one."""
    transposed = rewriter.producer(x, "transpose")
    if transposed is not None and _is_seen_through(transposed):
        order = transposed.attributes["permutation"]
        ends = (tuple(end[order.index(axis)] for axis in range(len(order))) for end in (low, high))
        inner = _padded(pads, rewriter, transposed.inputs[0], *ends)
        return rewriter.emit("transpose", inner, permutation=order)
    for known in pads.get(x, ()):
        if known.attributes["low"] == low and all(
            is_nonnegative(there - size)
            for there, size in zip(known.attributes["high"], high, strict=True)
        ):
            shape = _size_between(x, low, high)
            if shape == known.output.type.shape:
                return known.output
            starts, steps = tuple(0 for _ in shape), tuple(1 for _ in shape)
            return rewriter.emit("slice", known.output, starts=starts, shape=shape, steps=steps)
    made = rewriter.emit("pad", x, low=low, high=high, mode="constant", value=0)
    node = rewriter.producer(made, "pad")
    if node is not None and node.inputs == (x,):
        pads.setdefault(x, []).append(node)
    return made


def _is_seen_through(transpose: Node) -> bool:
    """Whether a convolution reads a padded input through this transpose. It must exchange samples
    and channels, or move few channels behind their pixels."""
    permutation = transpose.attributes["permutation"]
    last = len(permutation) - 1
    if permutation == (last, *range(1, last), 0):
        return True
    if permutation == (*range(1, last + 1), 0):
        return _is_few(transpose.inputs[0].type.shape[1])
    return _moves_planes(transpose)


def _moves_planes(transpose: Node) -> bool:
    """Whether a transpose moves few channels, whose planes may be on any axis, behind their
    pixels."""
    permutation, shape = transpose.attributes["permutation"], transpose.output.type.shape
    rows_stay = len(permutation) >= 3 and permutation[-2] == len(permutation) - 1
    return rows_stay and permutation[0] == 0 and _is_few(shape[-1])


def _is_few(channels: Size) -> bool:
    return isinstance(channels, int) and channels < FEW_CHANNELS


def _with_pad_inside(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """A depthwise convolution that pads its input itself."""
    x, w = node.inputs
    cast = rewriter.producer(x, "cast")
    pad = rewriter.producer(x if cast is None else cast.inputs[0], "pad")
    if pad is None or pad.attributes["mode"] != "constant" or pad.attributes["value"] != 0:
        return None
    low, high = pad.attributes["low"], pad.attributes["high"]
    if any(size != 0 for size in (low[0], low[-1], high[0], high[-1])):
        return None
    if not all(isinstance(size, int) and size >= 0 for size in (*low, *high)):
        return None
    attributes = {
        **node.attributes,
        "low": tuple(a + b for a, b in zip(node.attributes["low"], low[1:-1], strict=True)),
        "high": tuple(a + b for a, b in zip(node.attributes["high"], high[1:-1], strict=True)),
    }
    inside = pad.inputs[0]
    if cast is not None:
        inside = rewriter.emit("cast", inside, **cast.attributes)
    return (rewriter.emit("conv", inside, w, merged=(pad,), **attributes),)


def _padded_planes(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """The pad of an image whose channels have been moved behind its pixels, done before that
    move."""
    transpose = rewriter.producer(node.inputs[0], "transpose")
    if transpose is None or not _moves_planes(transpose):
        return None
    permutation = transpose.attributes["permutation"]
    rank = len(permutation)
    ends = {
        end: tuple(node.attributes[end][permutation.index(axis)] for axis in range(rank))
        for end in ("low", "high")
    }
    padded = rewriter.emit("pad", transpose.inputs[0], **{**node.attributes, **ends})
    return (rewriter.emit("transpose", padded, permutation=permutation),)
