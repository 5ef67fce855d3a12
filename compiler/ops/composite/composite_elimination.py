"""Inverses and determinants by elimination, Gauss and Jordan's: a loop with a turn for each row.

Turn k exchanges row k and the row, from k on, with the largest number in column k. It divides that
row by this number, the pivot, and takes multiples of it from all others: column k is 0 there then.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast_to,
    cast,
    in_f32,
    reshape,
    where,
)
from bessemer.compiler.ops.composite.composite_shape import eye, slice_axis


def inverse(b: GraphBuilder, x: Value) -> Value:
    """The inverses of matrices [..., n, n]; where there is none, numbers that are not finite."""
    matrices, size = _matrices(b, x)
    unit = eye(b, size, size, 0, matrices.type.dtype)
    units = broadcast_to(b, reshape(b, unit, (1, size, size)), matrices.type.shape)
    both, _ = _eliminated(b, b.apply("concat", matrices, units, axis=2))
    right = slice_axis(b, both, 2, size, size)
    return cast(b, reshape(b, right, x.type.shape), x.type.dtype)


def determinant(b: GraphBuilder, x: Value) -> Value:
    """The determinants of matrices [..., n, n]."""
    _, pivots = _eliminated(b, _matrices(b, x)[0])
    return cast(b, reshape(b, pivots, x.type.shape[:-2]), x.type.dtype)


def _matrices(b: GraphBuilder, x: Value) -> tuple[Value, Size]:
    """[count, n, n] in an element type fit for sums, and n."""
    *front, rows, columns = x.type.shape
    return reshape(b, in_f32(b, x), (product(front), rows, columns)), rows


def _eliminated(b: GraphBuilder, wide: Value) -> tuple[Value, Value]:
    """Rows [count, n, m], m >= n, after all turns, and the products of the pivots [count]."""
    count, rows, _ = wide.type.shape
    ones = b.apply("full", shape=(count,), value=1, dtype=wide.type.dtype)
    ended, products = b.apply_many(
        "loop", b.scalar_size(rows), b.constant(np.array(True)), wide, ones,
        regions=(_turn(b, wide.type, ones.type),), carried=2, has_trips=True, has_condition=False,
        scans=0, count="",
    )  # fmt: skip
    return ended, products


def _turn(outer: GraphBuilder, wide: TensorType, vector: TensorType) -> Graph:
    b = GraphBuilder("elimination", outer)
    at, going = b.input("at", TensorType(i64, ())), b.input("going", TensorType(boolean, ()))
    x, products = b.input("x", wide), b.input("products", vector)
    count, rows, columns = wide.shape
    column = b.apply("gather", x, at, axis=2)
    places = b.apply("iota", shape=(1, rows), axis=1, dtype=i64)
    open_rows = where(b, binary(b, "ge", places, at), b.apply("abs", column), -1.0)
    chosen = reshape(b, b.apply("arg_max", open_rows, axis=1, last=False), (count, 1))
    index = broadcast_to(b, reshape(b, chosen, (count, 1, 1)), (count, 1, columns))
    top = reshape(b, b.apply("gather", x, at, axis=1), (count, 1, columns))
    best = b.apply("gather_elements", x, index, axis=1)
    is_top, is_best = (
        reshape(b, broadcast_to(b, one, (count, rows)), (count, rows, 1))
        for one in (binary(b, "eq", places, at), binary(b, "eq", places, chosen))
    )
    exchanged = where(b, is_best, top, x)
    pivot = b.apply("gather", best, at, axis=2)
    scaled = binary(b, "div", best, reshape(b, pivot, (count, 1, 1)))
    factors = reshape(b, b.apply("gather", exchanged, at, axis=2), (count, rows, 1))
    below = binary(b, "sub", exchanged, binary(b, "mul", factors, scaled))
    result = where(b, is_top, scaled, below)
    stays = binary(b, "eq", reshape(b, chosen, (count,)), at)
    pivot = reshape(b, pivot, (count,))
    signed = b.apply("select", stays, pivot, b.apply("neg", pivot))
    # Behind a pivot of 0 there is nothing but NaNs; the product is 0 all the same.
    product_now = where(b, binary(b, "eq", products, 0.0), 0.0, b.apply("mul", products, signed))
    return b.finish([going, result, product_now])
