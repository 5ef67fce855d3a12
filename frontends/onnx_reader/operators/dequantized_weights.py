"""Constants of bytes that become floats: by DequantizeLinear, or by the steps that it stands for.

    (cast(integers) - zero) * scale

Files for onnxruntime without quantized operators keep their weights like this: a Cast, maybe a Sub,
and a Mul with one scale, or one for each row or column.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import Array, i8, u8
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.model_state import Dequantized

_Parameter = tuple[Array, int | None]
"""Numbers, and the axis of a matrix that they lie along; None for a single one."""


def dequantized(context: NodeContext, x: Value) -> Dequantized | None:
    """What a matrix of floats is made of, if that is a constant of few bits.

    A scale that a Mul reads may be trained like any other factor, one of DequantizeLinear is not.
    """
    made = context.subgraphs.dequantized.get(x)
    return made if made is not None or context.subgraphs.learns else _by_arithmetic(context, x)


def _by_arithmetic(context: NodeContext, x: Value) -> Dequantized | None:
    node = _producer(context, x, "mul")
    if node is None or x.type.rank != 2 or not x.type.dtype.is_float:
        return None
    for steps, factor in (node.inputs, node.inputs[::-1]):
        scale, zero = _parameter(context, factor), None
        centered = _producer(context, steps, "sub")
        if centered is not None:
            steps, zero = centered.inputs[0], _parameter(context, centered.inputs[1])
            if zero is None:
                continue
        integers = _bytes(context, steps)
        if scale is None or integers is None:
            continue
        axes = {part[1] for part in (scale, zero) if part is not None and part[1] is not None}
        if len(axes) < 2:
            scales, zeros = _alike(scale[0], None if zero is None else zero[0])
            return Dequantized(integers, scales, zeros, axis=min(axes, default=0), block=0)
    return None


def _alike(scale: Array, zero: Array | None) -> tuple[Array, Array | None]:
    """Both as vectors where one of them is."""
    if zero is None:
        return scale, None
    shape = np.broadcast_shapes(scale.shape, zero.shape)
    return np.broadcast_to(scale, shape).copy(), np.broadcast_to(zero, shape).copy()


def _bytes(context: NodeContext, x: Value) -> Array | None:
    """The constant of bytes that is cast to a matrix."""
    node = _producer(context, x, "cast")
    if node is None or node.inputs[0].type.dtype not in (i8, u8):
        return None
    return context.builder.constants.get(node.inputs[0])


def _parameter(context: NodeContext, x: Value) -> _Parameter | None:
    """A constant that is broadcast to a matrix: one number, or one for each row or column."""
    node = _producer(context, x, "broadcast_to")
    array = context.builder.constants.get(x if node is None else node.inputs[0])
    if array is None or array.ndim > 2:
        return None
    if array.size == 1:
        return array.reshape(()), None
    rows, columns = (1, *array.shape)[-2:]
    if (rows > 1) == (columns > 1):
        return None
    return array.reshape(-1), 0 if rows > 1 else 1


def _producer(context: NodeContext, x: Value, operator: str) -> Node | None:
    node = context.builder.producer(x)
    return node if node is not None and node.operator.name == operator else None
