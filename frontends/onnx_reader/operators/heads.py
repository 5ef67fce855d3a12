"""Rows that hold several heads side by side, as heads of their own, and the other way round."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.frontends.onnx_reader.context import NodeContext


def in_heads(context: NodeContext, x: Value, count: int) -> Value:
    """[batch, length, count * size] as [batch, count, length, size]."""
    size = dims.divide_exactly(x.type.shape[2], count)
    if size is None:
        context.wrong(f"{x.type} cannot be shared among {count} heads")
    return _apart(context, x, count, size)


def in_heads_of(context: NodeContext, x: Value, size: Size) -> Value:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    count = dims.divide_exactly(x.type.shape[2], size)
    if count is None:
        context.wrong(f"{x.type} has no heads of {size}")
    return _apart(context, x, count, size)


def _apart(context: NodeContext, x: Value, count: Size, size: Size) -> Value:
    batch, length, _ = x.type.shape
    return context.transpose(context.reshape(x, (batch, length, count, size)), (0, 2, 1, 3))


def side_by_side(context: NodeContext, x: Value) -> Value:
    """[batch, heads, length, size] as [batch, length, heads * size]."""
    batch, heads, length, size = x.type.shape
    return context.reshape(context.transpose(x, (0, 2, 1, 3)), (batch, length, heads * size))
