"""Matrix products."""

from __future__ import annotations

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import binary, matmul
from bessemer.compiler.ops.composite.composite_elimination import determinant, inverse
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import (
    agreed_size,
    broadcast_shape,
    broadcast_value,
    with_shape,
    with_size,
    with_sizes_of,
)
from bessemer.frontends.onnx_reader.operators.blocks import narrow_product
from bessemer.frontends.onnx_reader.registry import rule

# Up to so many rows a determinant is a sum of products, part of whatever kernel needs it.
_COFACTORS = 4


def product(context: NodeContext, left: Value, right: Value) -> Value:
    """The matrix product by NumPy's rules; sizes that meet are made to agree."""
    b = context.builder
    if left.type.rank == 0 or right.type.rank == 0:
        context.wrong(f"a product of {left.type} and {right.type}; scalars have no rows")
    narrow = narrow_product(context, left, right)
    if narrow is not None:
        return narrow
    at = -2 if right.type.rank > 1 else -1
    left = with_size(b, left, -1, right.type.shape[at], "the depth of what it is multiplied by")
    right = with_size(b, right, at, left.type.shape[-1])
    fronts = [value.type.shape[:-2] for value in (left, right)]
    if left.type.rank > 2 and right.type.rank > 2:
        common = broadcast_shape(b, fronts)
        left, right = (
            with_sizes_of(b, value, (*common, *value.type.shape[-2:])) for value in (left, right)
        )
    return matmul(b, left, right)


@rule("MatMul")
def read_matmul(context: NodeContext) -> Value:
    return product(context, context.input(0), context.input(1))


def swapped(context: NodeContext, x: Value) -> Value:
    """The last two axes exchanged."""
    rank = x.type.rank
    return context.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


@rule("Gemm")
def read_gemm(context: NodeContext) -> Value:
    left, right = context.input(0), context.input(1)
    if left.type.rank != 2 or right.type.rank != 2:
        context.wrong(f"the inputs are {left.type} and {right.type}, matrices are wanted")
    if context.integer("transA", 0):
        left = swapped(context, left)
    if context.integer("transB", 0):
        right = swapped(context, right)
    alpha, beta = context.number("alpha", 1.0), context.number("beta", 1.0)
    result = scaled(context, product(context, left, right), alpha)
    bias = context.optional(2)
    if bias is None or beta == 0:
        return result
    if bias.type.rank > 2:
        context.wrong(f"the bias is {bias.type}, a matrix or less is wanted")
    broadcast_shape(context.builder, [result.type.shape, bias.type.shape])
    bias = broadcast_value(context.builder, scaled(context, bias, beta), result.type.shape)
    return context.apply("add", result, bias)


@rule("Inverse", domain="com.microsoft")
def read_inverse(context: NodeContext) -> Value:
    x, _ = _square(context)
    return inverse(context.builder, x)


@rule("Det")
def read_det(context: NodeContext) -> Value:
    x, size = _square(context)
    if isinstance(size, int) and 1 <= size <= _COFACTORS:
        return _determinant(context, x, size)
    return determinant(context.builder, x)


def _square(context: NodeContext) -> tuple[Value, Size]:
    """Square matrices, and how many rows they have."""
    x = context.input(0)
    if x.type.rank < 2:
        context.wrong(f"the input is {x.type}, square matrices are wanted")
    size = agreed_size(context.builder, *x.type.shape[-2:])
    return with_shape(context.builder, x, (*x.type.shape[:-2], size, size)), size


def _determinant(context: NodeContext, x: Value, size: int) -> Value:
    """By the cofactors of the first row."""
    b = context.builder
    rows, columns = x.type.rank - 2, x.type.rank - 1
    if size == 1:
        return context.reshape(x, x.type.shape[:-2])
    first, below = slice_axis(b, x, rows, 0, 1), slice_axis(b, x, rows, 1, size - 1)
    total: Value | None = None
    for column in range(size):
        before = slice_axis(b, below, columns, 0, column)
        after = slice_axis(b, below, columns, column + 1, size - 1 - column)
        minor = _determinant(context, b.apply("concat", before, after, axis=columns), size - 1)
        entry = context.reshape(slice_axis(b, first, columns, column, 1), x.type.shape[:-2])
        term = b.apply("mul", entry, minor)
        if total is None:
            total = term
        else:
            total = b.apply("sub" if column % 2 else "add", total, term)
    assert total is not None
    return total


def scaled(context: NodeContext, x: Value, factor: float) -> Value:
    """x * factor, in x's element type."""
    if factor == 1.0:
        return x
    number = factor if x.type.dtype.is_float else int(factor)
    return binary(context.builder, "mul", x, number)
