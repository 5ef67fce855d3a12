"""Multiplies 8-bit integers as they are, with corrections for their zero points.

    matmul(cast(a) - az, cast(b) - bz) : i32
                becomes      matmul(a, b, dtype=i32) - az * (columns of b - bz, summed up)
                                                     - bz * (rows of a, summed up)

Machines multiply 8-bit integers four times as fast as floats, but want one unsigned and one signed.
Where b is a constant, what is subtracted from it is subtracted at compile time, unless it then
needs more than 8 bits, and the first correction is one constant row. All of it is exact: integers
wrap, and so nothing depends on the order.

    conv(cast(a) - az, b) : i32, of channels kept apart
                becomes      cast(conv(cast(a) : f32 - az, b : f32)) : i32

Such sums are short: floats hold them exactly, and machines multiply and add these at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, DType, f32, i8, i32, u8
from bessemer.compiler.ops.contractions.conv import is_depthwise
from bessemer.compiler.passes.known_values import known

_VIEWS = ("transpose", "reshape", "slice", "broadcast_to")
_MIDDLE = 128
_MOST_AS_FLOAT = (1 << 24) // 255
"""The most that the weights of a sum of bytes may add up to, signs left out: float32 holds all
integers up to 2^24."""


@dataclass(frozen=True, eq=False)
class _Operand:
    """8-bit integers `value` minus a zero point: a number, or an i32 value of one element."""

    value: Value
    zero: Value | int = 0


@dataclass(frozen=True, eq=False)
class _Found:
    """An operand as it was found in the graph: the 8-bit tensor (or known integers), its zero
    point, and the views through which it is multiplied, the last one first."""

    source: Value | Array
    zero: Value | int = 0
    views: tuple[Node, ...] = ()


def narrow_integers(graph: Graph) -> Graph:
    """The same network with products of 8-bit integers, where operands are computed from such."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name not in ("matmul", "conv") or node.output.type.dtype is not i32:
        return None
    if node.inputs[0].type.dtype is not i32:
        return None
    found = [_found(rewriter, value) for value in node.inputs]
    if found[0] is None or found[1] is None:
        return None
    if is_depthwise(node):
        return _summed_as_floats(rewriter, node, found[0], found[1])
    if not _may_be_corrected(node, found[1]) or not _may_have_border(node, found[0]):
        return None
    left, right = (_settled(rewriter, one) for one in found if one is not None)
    left, right = _one_signed(rewriter, left, right)
    if node.operator.name == "matmul":
        return (_product(rewriter, left, right),)
    return (_convolution(rewriter, node, _padded(rewriter, node, left), right),)


def _may_be_corrected(node: Node, right: _Found) -> bool:
    """Whether the corrections need no sums over groups of channels, nor over windows whose sizes
    are not known."""
    if isinstance(right.source, np.ndarray) and _narrowed(right.source)[1] == 0:
        return True
    window = () if node.operator.name == "matmul" else node.inputs[1].type.shape[:-2]
    return node.attributes.get("groups", 1) == 1 and all(isinstance(s, int) for s in window)


# What operands are made of


def _found(rewriter: GraphRewriter, value: Value) -> _Found | None:
    """An i32 value as 8-bit integers minus a zero point, through views; else None."""
    array = rewriter.constants.get(value)
    if array is None:
        found = _computed(rewriter, value)
        if found is None or not isinstance(found.zero, int) or isinstance(found.source, np.ndarray):
            return found
        # Large weights stay 8 bits wide until here: see fold_constants.
        array = rewriter.constants.get(found.source)
        if array is None or any(node.operator.name == "broadcast_to" for node in found.views):
            return found
        array = array.astype(np.int32) - found.zero
        for view in reversed(found.views):
            (array,) = view.operator.compute((array,), view.attributes)
    fits = array.size > 0 and int(array.max()) - int(array.min()) <= 255
    return _Found(array) if fits else None


def _computed(rewriter: GraphRewriter, value: Value) -> _Found | None:
    """The same as `_found` for a value that is not constant."""
    node = rewriter.producer(value)
    if node is None:
        return None
    if node.operator.name in _VIEWS:
        inner = _computed(rewriter, node.inputs[0])
        return None if inner is None else replace(inner, views=(node, *inner.views))
    if node.operator.name == "cast" and node.inputs[0].type.dtype in (i8, u8):
        return _Found(node.inputs[0])
    if node.operator.name not in ("sub", "add"):
        return None
    inner = _computed(rewriter, node.inputs[0])
    zero = _scalar(rewriter, node.inputs[1])
    if inner is None or inner.zero != 0 or zero is None:
        return None
    if node.operator.name == "add":
        return replace(inner, zero=-zero) if isinstance(zero, int) else None
    return replace(inner, zero=zero)


def _scalar(rewriter: GraphRewriter, value: Value) -> Value | int | None:
    """The number that all elements of a value equal; else None."""
    array = known(rewriter, value)
    if array is not None:
        same = array.size > 0 and bool((array == array.flat[0]).all())
        return int(array.flat[0]) if same else None
    while (node := rewriter.producer(value)) is not None and node.operator.name in _VIEWS:
        if value.type.numel == 1:
            break
        value = node.inputs[0]
    return value if value.type.numel == 1 else None


def _narrowed(array: Array) -> tuple[Array, int]:
    """Known integers as i8, and the zero point by which they had to be shifted for that."""
    low, high = int(array.min()), int(array.max())
    zero = 0 if low >= -_MIDDLE and high < _MIDDLE else -_MIDDLE - low
    return (array + zero).astype(np.int8), zero


def _settled(rewriter: GraphRewriter, found: _Found) -> _Operand:
    """The operand with its views applied."""
    if isinstance(found.source, np.ndarray):
        array, zero = _narrowed(found.source)
        return _Operand(rewriter.constant(array), zero)
    value = found.source
    for view in reversed(found.views):
        value = rewriter.emit(view.operator.name, value, **view.attributes)
    if isinstance(found.zero, int) or found.zero.type.rank == 0:
        return _Operand(value, found.zero)
    return _Operand(value, rewriter.emit("reshape", found.zero, shape=()))


def _one_signed(
    rewriter: GraphRewriter, left: _Operand, right: _Operand
) -> tuple[_Operand, _Operand]:
    """The operands, shifted so that one is unsigned and the other signed."""
    if left.value.type.dtype != right.value.type.dtype:
        return left, right
    if left.value.type.dtype is i8:
        return _moved(rewriter, left, _MIDDLE, u8), right
    return left, _moved(rewriter, right, -_MIDDLE, i8)


def _moved(rewriter: GraphRewriter, operand: _Operand, distance: int, dtype: DType) -> _Operand:
    # Bytes wrap: 128 more and 128 less are the same bits, which `dtype` then reads as it should.
    x = operand.value
    number = _MIDDLE if x.type.dtype is u8 else -_MIDDLE
    half = rewriter.emit("full", shape=x.type.shape, value=number, dtype=x.type.dtype)
    moved = rewriter.emit("add", x, half)
    zero: Value | int
    if isinstance(operand.zero, int):
        zero = operand.zero + distance
    else:
        zero = rewriter.emit("add", operand.zero, _number(rewriter, operand.zero, distance))
    return _Operand(rewriter.emit("cast", moved, dtype=dtype), zero)


def _number(rewriter: GraphRewriter, like: Value, number: int) -> Value:
    return rewriter.emit("full", shape=like.type.shape, value=number, dtype=i32)


# Padding


def _has_border(node: Node) -> bool:
    """Whether a node is a convolution whose windows reach beyond its input."""
    ends = (*node.attributes.get("low", ()), *node.attributes.get("high", ()))
    return any(size != 0 for size in ends)


def _may_have_border(node: Node, left: _Found) -> bool:
    """Whether the zero point, which fills the border, is a number of the operand's 8-bit type."""
    if not _has_border(node):
        return True
    if isinstance(left.source, np.ndarray):
        return i8.has(_narrowed(left.source)[1])
    return not isinstance(left.zero, int) or left.source.type.dtype.has(left.zero)


def _padded(rewriter: GraphRewriter, node: Node, left: _Operand) -> _Operand:
    """The input of a convolution with its border, which is filled with the zero point."""
    if not _has_border(node) or left.zero == 0:
        return left
    low, high = node.attributes["low"], node.attributes["high"]
    border: dict[str, Any] = {"low": (0, *low, 0), "high": (0, *high, 0), "mode": "constant"}
    if isinstance(left.zero, int):
        return replace(left, value=rewriter.emit("pad", left.value, value=left.zero, **border))
    quantized = _quantized(rewriter, left, border)
    if quantized is not None:
        return replace(left, value=quantized)
    # Modulo 256, so in the border the difference from the zero point is 0.
    x, dtype = left.value, left.value.type.dtype
    zero = rewriter.emit("cast", left.zero, dtype=dtype)
    difference = rewriter.emit("sub", x, _spread(rewriter, zero, x.type.shape))
    padded = rewriter.emit("pad", difference, value=0, **border)
    value = rewriter.emit("add", padded, _spread(rewriter, zero, padded.type.shape))
    return replace(left, value=value)


def _quantized(rewriter: GraphRewriter, left: _Operand, border: dict[str, Any]) -> Value | None:
    """The quantized value, computed from padded floats: their 0 becomes the zero point."""
    steps: list[Node] = []
    value = left.value
    for name in ("cast", "add", "round", "div"):
        node = rewriter.producer(value, name)
        if node is None:
            return None
        steps.append(node)
        value = node.inputs[0]
    if _origin(rewriter, steps[1].inputs[1]) is not _origin(rewriter, left.zero):
        return None
    padded = rewriter.emit("pad", value, value=0, **border)
    for node in reversed(steps):
        others = [_widened(rewriter, other, padded) for other in node.inputs[1:]]
        if None in others:
            return None
        listed = [other for other in others if other is not None]
        padded = rewriter.emit(node.operator.name, padded, *listed, **node.attributes)
    return padded


def _origin(rewriter: GraphRewriter, value: Value | int) -> Value | None:
    """The value before views and casts."""
    if isinstance(value, int):
        return None
    while (node := rewriter.producer(value)) is not None:
        if node.operator.name not in (*_VIEWS, "cast"):
            break
        value = node.inputs[0]
    return value


def _widened(rewriter: GraphRewriter, value: Value, like: Value) -> Value | None:
    """A number that was repeated for all elements, repeated for more of them."""
    array = known(rewriter, value)
    if array is not None and array.size == 1:
        number = array.reshape(-1)[0].item()
        return rewriter.emit("full", shape=like.type.shape, value=number, dtype=value.type.dtype)
    while (node := rewriter.producer(value)) is not None and node.operator.name in _VIEWS:
        if value.type.numel == 1:
            break
        value = node.inputs[0]
    return _spread(rewriter, value, like.type.shape) if value.type.numel == 1 else None


def _spread(rewriter: GraphRewriter, value: Value, shape: tuple[Size, ...]) -> Value:
    if value.type.rank > 0 and value.type.numel == 1:
        value = rewriter.emit("reshape", value, shape=())
    return rewriter.emit("broadcast_to", value, shape=shape) if shape != () else value


# Channels kept apart


def _summed_as_floats(
    rewriter: GraphRewriter, node: Node, left: _Found, right: _Found
) -> Sequence[Value] | None:
    """A depthwise convolution with known weights as one of floats, if these hold its sums exactly;
    else None."""
    x, w = left.source, right.source
    if isinstance(x, np.ndarray) or not isinstance(w, np.ndarray):
        return None
    if not _is_byte(rewriter, left.zero, x.type.dtype):
        return None
    if int(np.abs(w.astype(np.int64)).sum(tuple(range(w.ndim - 1))).max()) > _MOST_AS_FLOAT:
        return None
    operand = _settled(rewriter, left)
    wide = rewriter.emit("cast", operand.value, dtype=f32)
    if left.zero != 0:
        zero = operand.zero
        if isinstance(zero, int):
            zero = rewriter.emit("full", shape=(), value=zero, dtype=i32)
        number = rewriter.emit("cast", zero, dtype=f32)
        wide = rewriter.emit("sub", wide, _spread(rewriter, number, wide.type.shape))
    weights = rewriter.constant(w.astype(np.float32))
    attributes = {name: entry for name, entry in node.attributes.items() if name != "dtype"}
    total = rewriter.emit("conv", wide, weights, **attributes)
    return (rewriter.emit("cast", total, dtype=i32),)


def _is_byte(rewriter: GraphRewriter, zero: Value | int, dtype: DType) -> bool:
    """Whether a zero point is one of the integers of a type."""
    if isinstance(zero, int):
        return dtype.has(zero)
    behind = _origin(rewriter, zero)
    return behind is not None and behind.type.dtype is dtype


# Products


def _product(rewriter: GraphRewriter, left: _Operand, right: _Operand) -> Value:
    a, b = left.value, right.value
    total = rewriter.emit("matmul", a, b, dtype=i32)
    if left.zero != 0:
        columns = _columns(rewriter, b, (b.type.rank - 2,), right.zero, b.type.shape[-2])
        total = _less(rewriter, total, left.zero, columns)
    if right.zero != 0:
        rows = _summed(rewriter, a, (a.type.rank - 1,))
        total = _less(rewriter, total, right.zero, rows)
    return total


def _convolution(rewriter: GraphRewriter, node: Node, left: _Operand, right: _Operand) -> Value:
    x, w = left.value, right.value
    attributes = dict(node.attributes)
    if left.zero != 0:
        attributes |= {side: tuple(0 for _ in attributes[side]) for side in ("low", "high")}
    total = rewriter.emit("conv", x, w, **{**attributes, "dtype": i32})
    if left.zero != 0:
        axes = tuple(range(w.type.rank - 1))
        count: Size = 1
        for size in w.type.shape[:-1]:
            count = count * size
        columns = _columns(rewriter, w, axes, right.zero, count)
        columns = rewriter.emit("reshape", columns, shape=w.type.shape[-1:])
        total = _less(rewriter, total, left.zero, columns)
    if right.zero != 0:
        pixels = _summed(rewriter, x, (x.type.rank - 1,))
        kernel = tuple(dims.number(size) for size in w.type.shape[:-2])
        ones = rewriter.constant(np.ones((*kernel, 1, 1), np.int32))
        windows = rewriter.emit("conv", pixels, ones, **{**attributes, "groups": 1})
        total = _less(rewriter, total, right.zero, windows)
    return total


def _columns(
    rewriter: GraphRewriter, b: Value, axes: tuple[int, ...], zero: Value | int, count: Size
) -> Value:
    """The sums of b - zero over its depth of `count` elements. The axes stay, with size 1."""
    array = rewriter.constants.get(b)
    if array is not None and isinstance(zero, int):
        return rewriter.constant(
            (array.astype(np.int64) - zero).sum(axes, keepdims=True).astype(np.int32)
        )
    sums = _summed(rewriter, b, axes)
    if zero == 0:
        return sums
    length = rewriter.emit("sizes", sizes=(count,))
    depth = rewriter.emit("cast", rewriter.emit("reshape", length, shape=()), dtype=i32)
    if isinstance(zero, int):
        zero = rewriter.emit("full", shape=(), value=zero, dtype=i32)
    excess = rewriter.emit("mul", depth, zero)
    return rewriter.emit("sub", sums, _spread(rewriter, excess, sums.type.shape))


def _summed(rewriter: GraphRewriter, x: Value, axes: tuple[int, ...]) -> Value:
    """The sums over axes, which stay with size 1."""
    wide = rewriter.emit("cast", x, dtype=i32)
    sums = rewriter.emit("reduce_sum", wide, axes=axes)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.type.shape))
    return rewriter.emit("reshape", sums, shape=kept)


def _less(rewriter: GraphRewriter, total: Value, zero: Value | int, sums: Value) -> Value:
    """total - zero * sums."""
    if isinstance(zero, int):
        factor = _number(rewriter, sums, zero)
    else:
        factor = _spread(rewriter, zero, sums.type.shape)
    part = rewriter.emit("mul", factor, sums)
    shape = total.type.shape
    part = part if part.type.shape == shape else rewriter.emit("broadcast_to", part, shape=shape)
    return rewriter.emit("sub", total, part)
