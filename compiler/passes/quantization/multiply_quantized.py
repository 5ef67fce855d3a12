"""Multiplies quantized tensors as integers, where a model would convert them to floats first.

    x = (cast(a) - zero) * scale                 a: u8 or i8; one zero point, one scale
    w = (cast(b) - zero) * scale                 constants; one scale per column, or one for all
    matmul(x, w)    becomes    cast(matmul(cast(a) : i32 - zero, b')) * (scale * scale)

The sum of integers is exact, so the result is nearer to what is meant than a sum of floats. Short
sums, such as those of a depthwise convolution, are exact as floats, too, and faster.

This is done for weights only: a product of two computed tensors is faster as floats, fused with
what is around it. The pass runs before constants are folded, while weights are still known as
integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array, DType, f32, i8, i32, u8

_VIEWS = ("transpose", "reshape", "slice")
_KNOWN = (*_VIEWS, "broadcast_to", "cast", "sub", "mul")
# More products of 8-bit numbers than this may overflow 32 bits.
_LONGEST = (1 << 31) // (255 * 255)
# More of them may be no float32 exactly.
_EXACT = (1 << 24) // (255 * 255)


@dataclass(frozen=True, eq=False)
class _Quantized:
    """(steps - zero) * scale. `zero` and `scale` are scalars; `zero` is a whole number, or None for
    0."""

    steps: Value
    zero: Value | None
    scale: Value


def multiply_quantized(graph: Graph) -> Graph:
    """The same network with sums of products of integers."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name not in ("matmul", "conv") or node.output.type.dtype is not f32:
        return None
    x, w = node.inputs
    depth = product(w.type.shape[:-1]) if node.operator.name == "conv" else w.type.shape[-2]
    if not isinstance(depth, int) or not 0 < depth <= _LONGEST:
        return None
    left = _quantized(rewriter, x)
    right = None if left is None else _weights(rewriter, w)
    if left is None or right is None:
        return None
    steps, scales = right
    has_groups = node.operator.name == "conv" and node.attributes["groups"] > 1
    dtype = f32 if has_groups and w.type.shape[-2] == 1 and depth <= _EXACT else i32
    wide = rewriter.emit("cast", left.steps, dtype=dtype)
    if left.zero is not None:
        zero = rewriter.emit("cast", left.zero, dtype=dtype)
        zero = rewriter.emit("broadcast_to", zero, shape=wide.type.shape)
        wide = rewriter.emit("sub", wide, zero)
    integers = rewriter.constant(steps.astype(dtype.numpy), w.name)
    total = rewriter.emit(node.operator.name, wide, integers, **node.attributes)
    real = total if dtype is f32 else rewriter.emit("cast", total, dtype=f32)
    columns = rewriter.constant(scales)
    scale = rewriter.emit("broadcast_to", left.scale, shape=columns.type.shape)
    scale = rewriter.emit("mul", scale, columns)
    return (
        rewriter.emit("mul", real, rewriter.emit("broadcast_to", scale, shape=real.type.shape)),
    )


def _quantized(rewriter: GraphRewriter, value: Value) -> _Quantized | None:
    """A float tensor as 8-bit integers with a single scale; None if it is not computed from
    such."""
    node = rewriter.producer(value)
    if node is None:
        return None
    if node.operator.name in _VIEWS:
        inner = _quantized(rewriter, node.inputs[0])
        if inner is None:
            return None
        steps = rewriter.emit(node.operator.name, inner.steps, **node.attributes)
        return replace(inner, steps=steps)
    if node.operator.name != "mul":
        return None
    scale = _scalar(rewriter, node.inputs[1])
    steps = node.inputs[0]
    zero: Value | None = None
    moved = rewriter.producer(steps, "sub")
    if moved is not None:
        zero = _scalar(rewriter, moved.inputs[1], is_zero=True)
        if zero is None:
            return None
        steps = moved.inputs[0]
    cast = rewriter.producer(steps, "cast")
    if scale is None or cast is None or cast.inputs[0].type.dtype not in (u8, i8):
        return None
    integers = cast.inputs[0]
    if zero is not None and not _is_one_of(rewriter, zero, integers.type.dtype):
        return None
    return _Quantized(integers, zero, scale)


def _is_one_of(rewriter: GraphRewriter, zero: Value, dtype: DType) -> bool:
    """Whether a zero point is one of the integers of a type, as 127.5 for example is not."""
    array = rewriter.constants.get(zero)
    return zero.type.dtype is dtype if array is None else dtype.has(array.item())


def _scalar(rewriter: GraphRewriter, value: Value, is_zero: bool = False) -> Value | None:
    """The number that a tensor repeats; for a zero point, the value before it was converted to a
    float."""
    while (node := rewriter.producer(value)) is not None:
        is_cast = node.operator.name == "cast" and node.inputs[0].type.dtype in (u8, i8)
        if not (is_zero and is_cast) and node.operator.name not in ("reshape", "broadcast_to"):
            break
        value = node.inputs[0]
    if value.type.numel != 1:
        return None
    return value if value.type.rank == 0 else rewriter.emit("reshape", value, shape=())


def _weights(rewriter: GraphRewriter, value: Value) -> tuple[Array, Array] | None:
    """Known weights as whole numbers, and the scales of their columns (the last axis); else
    None."""
    views: list[Node] = []
    while (node := rewriter.producer(value)) is not None and node.operator.name in _VIEWS:
        views.append(node)
        value = node.inputs[0]
    if node is None or node.operator.name != "mul":
        return None
    before = rewriter.producer(node.inputs[0], "sub")
    source = rewriter.producer(before.inputs[0] if before else node.inputs[0], "cast")
    if source is None or source.inputs[0].type.dtype not in (u8, i8):
        return None
    steps, scales = _known(rewriter, node.inputs[0]), _known(rewriter, node.inputs[1])
    if steps is None or scales is None:
        return None
    if (steps != np.rint(steps)).any() or (np.abs(steps) > 255).any():
        return None
    for view in reversed(views):
        (steps,) = view.operator.compute((steps,), view.attributes)
        (scales,) = view.operator.compute((scales,), view.attributes)
    columns = scales[(0,) * (scales.ndim - 1)] if scales.ndim else scales
    if scales.size == 0 or not (scales == columns).all():
        return None
    return steps, np.ascontiguousarray(columns)


def _known(rewriter: GraphRewriter, value: Value) -> Array | None:
    """The value of an expression of constants that consists of a few operators; else None."""
    array = rewriter.constants.get(value)
    node = rewriter.producer(value)
    if array is not None or node is None:
        return array
    if node.operator.name not in _KNOWN or not value.type.is_static:
        return None
    arrays = [_known(rewriter, given) for given in node.inputs]
    found = [array for array in arrays if array is not None]
    if len(found) < len(arrays):
        return None
    result: Array = node.operator.compute(found, node.attributes)[0]
    return result
