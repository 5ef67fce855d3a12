"""Moves quantization to where values are computed, and moves operators that only move or select
values behind it.

    x = dequantize(q)                   8-bit integers: (q - zero) * scale

    max_pool(x), nearest resize(x)      becomes    dequantize(max_pool(q)), ...
    transpose(x), reshape, slice, pad   becomes    dequantize(transpose(q)), ...
    concat(x, y)                        becomes    dequantize(concat(q, p)), of one scale and zero
    quantize(x)                         becomes    q, of the same scale and zero
    quantize(concat(x, y))              becomes    concat(quantize(x), quantize(y))

Tools that quantize models put such pairs around every operator. Integers take a quarter of the
memory, and a value that is quantized before a concatenation is quantized by the kernel that
computes it. All of this is exact: quantization keeps the order of numbers, and it is checked that
each integer is quantized to itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, DType, f32, i8, u8

_BYTES = (u8, i8)
_VIEWS = ("transpose", "reshape", "slice")


@dataclass(frozen=True)
class _Scheme:
    """The number that an integer stands for: (integer - zero) * scale."""

    dtype: DType
    scale: float
    zero: float


_Users = Mapping[Value, Sequence[Node]]


def move_quantization(graph: Graph) -> Graph:
    """The same network with more operators on 8-bit integers, and with the same results."""
    return rewrite_graph(graph, partial(_rule, graph.users()))


def _rule(users: _Users, rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    name = node.operator.name
    if name == "cast" and node.output.type.dtype in _BYTES:
        found = _quantized(rewriter, node)
        if found is None:
            return None
        value, scheme = found
        moved = _moved(users, rewriter, value, scheme)
        return None if moved is None else (moved,)
    if name == "concat":
        return _concatenated(rewriter, node)
    if name in _VIEWS or name in ("max_pool", "pad") or _picks_nearest(node):
        return _behind(rewriter, node)
    return None


def _picks_nearest(node: Node) -> bool:
    """Whether a node is a resize each of whose elements is an element of its input."""
    given = node.attributes
    is_nearest = node.operator.name == "resize" and given.get("mode", "nearest") == "nearest"
    return is_nearest and given.get("coordinate") != "tf_crop_and_resize"


# What is quantized


def _quantized(rewriter: GraphRewriter, cast: Node) -> tuple[Value, _Scheme] | None:
    """The value that a cast to integers quantizes, cast(round(value / scale) + zero), and its
    scheme; else None."""
    value, zero = cast.inputs[0], 0.0
    added = rewriter.producer(value, "add")
    if added is not None:
        number = _number(rewriter, added.inputs[1])
        if number is None:
            return None
        value, zero = added.inputs[0], number
    rounded = rewriter.producer(value, "round")
    divided = rounded and rewriter.producer(rounded.inputs[0], "div")
    if not divided or divided.output.type.dtype is not f32:
        return None
    scale = _number(rewriter, divided.inputs[1])
    if scale is None or not scale > 0:
        return None
    return divided.inputs[0], _Scheme(cast.output.type.dtype, scale, zero)


def _dequantized(rewriter: GraphRewriter, value: Value) -> tuple[Value, _Scheme] | None:
    """The integers from which a value is computed, (cast(integers) - zero) * scale, and their
    scheme; else None."""
    product = rewriter.producer(value, "mul")
    if product is None or value.type.dtype is not f32:
        return None
    scale, steps, zero = _number(rewriter, product.inputs[1]), product.inputs[0], 0.0
    moved = rewriter.producer(steps, "sub")
    if moved is not None:
        number = _number(rewriter, moved.inputs[1])
        if number is None:
            return None
        steps, zero = moved.inputs[0], number
    cast = rewriter.producer(steps, "cast")
    if scale is None or not scale > 0 or cast is None:
        return None
    integers = cast.inputs[0]
    # Constants are weights: they are dequantized when the model is compiled.
    if integers.type.dtype not in _BYTES or integers in rewriter.constants:
        return None
    return integers, _Scheme(integers.type.dtype, scale, zero)


def _number(rewriter: GraphRewriter, value: Value) -> float | None:
    """The number that all elements of a constant equal, through views and casts; else None."""
    casts: list[Node] = []
    while (node := rewriter.producer(value)) is not None:
        if node.operator.name not in ("reshape", "broadcast_to", "cast"):
            return None
        if node.operator.name == "cast":
            casts.append(node)
        value = node.inputs[0]
    array = rewriter.constants.get(value)
    if array is None or array.size != 1:
        return None
    for cast in reversed(casts):
        (array,) = cast.operator.compute((array,), cast.attributes)
    return float(array.reshape(-1)[0])


# What is moved


def _moved(users: _Users, rewriter: GraphRewriter, value: Value, scheme: _Scheme) -> Value | None:
    """The value quantized where it is computed; None if that would save nothing."""
    found = _dequantized(rewriter, value)
    if found is not None:
        integers, given = found
        return integers if _comes_back(given, scheme) else None
    node = rewriter.producer(value)
    if node is None or len(users.get(value, ())) > 1:
        return None
    if node.operator.name in _VIEWS:
        inner = _moved(users, rewriter, node.inputs[0], scheme)
        return None if inner is None else _again(rewriter, node, inner)
    if node.operator.name != "concat":
        return None
    parts = [_moved(users, rewriter, part, scheme) for part in node.inputs]
    if all(part is None for part in parts):
        return None
    whole = [
        _quantize(rewriter, part, scheme) if moved is None else moved
        for part, moved in zip(node.inputs, parts, strict=True)
    ]
    return _again(rewriter, node, *whole)


def _concatenated(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """A concatenation of values with one scheme, as a concatenation of integers."""
    found = [_dequantized(rewriter, part) for part in node.inputs]
    parts = [integers for one in found if one is not None for integers in one[:1]]
    schemes = {one[1] for one in found if one is not None}
    if len(parts) != len(found) or len(schemes) != 1:
        return None
    return (_dequantize(rewriter, _again(rewriter, node, *parts), schemes.pop()),)


def _behind(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """A node that moves or selects values, applied to their integers."""
    found = _dequantized(rewriter, node.inputs[0])
    if found is None:
        return None
    integers, scheme = found
    if node.operator.name == "pad":
        border = 0
        if node.attributes["mode"] == "constant":
            if node.attributes["value"] != 0 or not scheme.dtype.has(scheme.zero):
                return None
            border = int(scheme.zero)
        merged = {**node.attributes, "value": border}
        moved = rewriter.emit("pad", integers, merged=(node,), **merged)
    else:
        moved = _again(rewriter, node, integers)
    return (_dequantize(rewriter, moved, scheme),)


def _comes_back(given: _Scheme, wanted: _Scheme) -> bool:
    """Whether each integer of one scheme is quantized to itself by the other."""
    if given.dtype is not wanted.dtype:
        return False
    info = np.iinfo(given.dtype.numpy)
    integers = np.arange(info.min, info.max + 1).astype(given.dtype.numpy)
    real = (integers.astype(np.float32) - np.float32(given.zero)) * np.float32(given.scale)
    with np.errstate(all="ignore"):
        steps = np.rint(real / np.float32(wanted.scale)) + np.float32(wanted.zero)
    (back,) = OPS["cast"].compute((steps,), {"dtype": wanted.dtype})
    return bool((back == integers).all())


def _again(rewriter: GraphRewriter, node: Node, *inputs: Value) -> Value:
    return rewriter.emit(node.operator.name, *inputs, merged=(node,), **node.attributes)


def _quantize(rewriter: GraphRewriter, value: Value, scheme: _Scheme) -> Value:
    steps = rewriter.emit("div", value, _spread(rewriter, value, scheme.scale))
    steps = rewriter.emit("round", steps)
    if scheme.zero != 0:
        steps = rewriter.emit("add", steps, _spread(rewriter, value, scheme.zero))
    return rewriter.emit("cast", steps, dtype=scheme.dtype)


def _dequantize(rewriter: GraphRewriter, integers: Value, scheme: _Scheme) -> Value:
    steps = rewriter.emit("cast", integers, dtype=f32)
    if scheme.zero != 0:
        steps = rewriter.emit("sub", steps, _spread(rewriter, steps, scheme.zero))
    return rewriter.emit("mul", steps, _spread(rewriter, steps, scheme.scale))


def _spread(rewriter: GraphRewriter, like: Value, number: float) -> Value:
    scalar: Array = np.array(number, np.float32)
    return rewriter.emit("broadcast_to", rewriter.constant(scalar), shape=like.type.shape)
