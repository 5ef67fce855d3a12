"""Computes a convolution with short sums as a product whose columns are pixels, so that it writes
planes.

    conv(x : [n,h,w,c], w : [kh,kw,c,o]) -> transpose : [n,o,oh,ow]
becomes
    matmul(w : [o, kh*kw*c], windows(x) : [n, kh*kw*c, oh*ow]) -> reshape : [n,o,oh,ow]

The windows are written out when the product's right operand is packed. They are `kh*kw*c` numbers
per pixel, many fewer than the `o` that a transpose would move: the first layer of a network for
sound computes 512 channels from windows of 10 samples.

Pointwise work on the planes is done on the product before the reshape, so that it becomes its
epilogue.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ir.types import f32
from bessemer.compiler.passes.pointwise import is_pointwise

SHARE = 4
"""A pixel must have at least this many times as many channels as its window has numbers. (For
windows that a pack copies by runs of neighbours, pixel_runs.py, the stride instead.)"""
SHORTEST_RUN, MOST_STRIDE = 32, 2
"""Pixels of a row for such windows, as many as a panel has columns, and the distance in the image
from one to the next."""
MOST_CHANNELS = 4
"""An input of more channels is laid out with its channels last, without such runs."""
_LANES = 16
_PRODUCTS_A_MOVE = 8
"""Products that take as long as the transpose of a number: a cycle has 32 or 4 of them."""


def has_short_sums(node: Node) -> bool:
    """Whether a node is a convolution that can be such a product, at a fraction of the cost of a
    transpose."""
    if node.operator.name != "conv" or node.attributes["groups"] != 1:
        return False
    x, w = node.inputs
    *steps, outputs = w.type.shape
    spatial = len(steps) - 1
    pads = (*node.attributes["low"], *node.attributes["high"])
    if spatial < 1 or x.type.dtype is not f32 or w.type.dtype is not f32:
        return False
    if not all(isinstance(size, int) and size >= 0 for size in (*steps, *pads)):
        return False
    length = product(steps)
    if not isinstance(outputs, int) or not isinstance(length, int) or _wastes_lanes(node, length):
        return False
    share = node.attributes["strides"][-1] if _has_runs(node) else SHARE
    return 0 < share * length <= outputs


def _has_runs(node: Node) -> bool:
    """Whether neighbouring pixels see neighbours in long rows of the image's planes."""
    columns, channels = node.output.type.shape[-2], node.inputs[1].type.shape[-2]
    is_long = isinstance(columns, int) and columns >= SHORTEST_RUN
    is_near = isinstance(channels, int) and channels <= MOST_CHANNELS
    return is_long and is_near and node.attributes["strides"][-1] <= MOST_STRIDE


def _wastes_lanes(node: Node, length: int) -> bool:
    """Whether the pixels leave so many lanes of their last vector empty that it takes less time to
    transpose what vectors of channels compute (7x7 pixels on Zen 5, 1x1 512 -> 2048: 565 us as a
    product in planes, 440 transposed)."""
    pixels = product(node.output.type.shape[1:-1])
    if not isinstance(pixels, int):
        return False
    return -pixels % _LANES * length > pixels * _PRODUCTS_A_MOVE


class Planes:
    """The planes that convolutions have become, and what is computed from them, in a graph that is
    being rebuilt."""

    def __init__(self, rewriter: GraphRewriter) -> None:
        self.rewriter = rewriter
        self._merged: dict[Value, Value] = {}  # [n, o, *pixels] as [n, o, pixels]

    def multiply(self, node: Node, x: Value, w: Value) -> Value:
        """The output [n, o, *pixels] of a convolution with short sums, for these operands."""
        outputs = w.type.shape[-1]
        columns = self._windows(node, x)
        order = (w.type.rank - 1, *range(w.type.rank - 1))
        rows = self.rewriter.emit("transpose", w, permutation=order)
        rows = self.rewriter.emit("reshape", rows, shape=(outputs, columns.type.shape[1]))
        product = self.rewriter.emit("matmul", rows, columns)
        return self._split(product, node.output.type.shape[1:-1])

    def pointwise(self, node: Node, inputs: Sequence[Value]) -> Value | None:
        """A pointwise node on planes. None if no input is planes, or another input varies within a
        plane."""
        first = next((value for value in inputs if value in self._merged), None)
        if first is None or not is_pointwise(node.operator):
            return None
        shape = self._merged[first].type.shape
        parts = [self._merge(value, shape) for value in inputs]
        given = [part for part in parts if part is not None]
        if len(given) < len(parts):
            return None
        (result,) = self.rewriter.emit_many(node.operator.name, given, node.attributes)
        return self._split(result, first.type.shape[2:])

    def _windows(self, node: Node, x: Value) -> Value:
        """[n, taps and channels, pixels]."""
        emit = self.rewriter.emit
        *kernel, channels, _ = node.inputs[1].type.shape
        low, high, strides, dilations = (
            node.attributes[name] for name in ("low", "high", "strides", "dilations")
        )
        if any(size != 0 for size in (*low, *high)):
            x = emit("pad", x, low=(0, *low, 0), high=(0, *high, 0), mode="constant", value=0)
        pixels = node.output.type.shape[1:-1]
        for axis, sizes in enumerate(zip(kernel, pixels, strict=True)):
            # Those before it have two axes each.
            steps = (dilations[axis], strides[axis])
            x = emit("windows", x, axis=1 + 2 * axis, start=0, sizes=sizes, steps=steps)
        end = 1 + 2 * len(kernel)
        x = emit("transpose", x, permutation=(0, *range(1, end, 2), end, *range(2, end, 2)))
        shape = (x.type.shape[0], product((*kernel, channels)), product(pixels))
        return emit("reshape", x, shape=shape)

    def _split(self, value: Value, pixels: Sequence[Size]) -> Value:
        planes = self.rewriter.emit("reshape", value, shape=(*value.type.shape[:2], *pixels))
        self._merged[planes] = value
        return planes

    def _merge(self, value: Value, shape: tuple[Size, ...]) -> Value | None:
        """Planes, or a value that is constant in each plane, in this shape."""
        if value in self._merged:
            return self._merged[value]
        node = self.rewriter.producer(value)
        if node is None or node.operator.name not in ("full", "broadcast_to"):
            return None
        if node.operator.name == "full":
            return self.rewriter.emit("full", **{**node.attributes, "shape": shape})
        (x,) = node.inputs
        lead = max(x.type.rank - value.type.rank + 2, 0)
        if any(size != 1 for size in x.type.shape[lead:]):
            return None
        kept = self.rewriter.emit("reshape", x, shape=(*x.type.shape[:lead], 1))
        return self.rewriter.emit("broadcast_to", kept, shape=shape)
