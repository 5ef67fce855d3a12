"""SparseAttention of com.microsoft: heads see some blocks of a cache only, as layouts tell that the
file holds; heads take these in turn."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, i64
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.compiler.ops.composite.composite_reduce import softmax
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.contrib_decoder import (
    Rows,
    angles_at,
    extended,
    group_mixture,
    group_scores,
    parts_of,
    rotated,
    rows_of,
)
from bessemer.frontends.onnx_reader.operators.heads import side_by_side
from bessemer.frontends.onnx_reader.registry import rule


@rule("SparseAttention", domain="com.microsoft")
def read_sparse_attention(context: NodeContext) -> list[Item]:
    query, key, value = parts_of(context)
    length = query.type.shape[2]
    new = context.cast(context.builder.scalar_size(length), i64)
    before = context.elementwise("sub", context.cast(context.input(8), i64), new)
    rows = rows_of(context, before, 7, length)
    if context.integer("do_rotary", 0):
        tables = context.input(9), context.input(10)
        angles = angles_at(context, rows.places(context), tables)
        interleaved = bool(context.integer("rotary_interleaved", 0))
        query, key = (rotated(context, x, angles, interleaved) for x in (query, key))
    keys, values = (
        extended(context, context.input(position), new, rows)
        for position, new in ((3, key), (4, value))
    )
    scores = group_scores(context, query, keys, rows)
    seen = _seen(context, scores, rows)
    shares = softmax(context.builder, where(context.builder, seen, scores, -1e30), (4,))
    return [side_by_side(context, group_mixture(context, shares, values, rows)), keys, values]


def _seen(context: NodeContext, scores: Value, rows: Rows) -> Value:
    """Which keys a query sees: those up to its own place, of the blocks in its head's layout."""
    batch, groups, each, length, longest = scores.type.shape
    block = context.integer("sparse_block_size")
    layouts = _layouts(context)
    heads, count = dims.product((groups, each)), layouts.shape[0]
    if dims.divide_exactly(heads, count) is None:
        context.wrong(f"{heads} heads cannot take {count} layouts in turn")
    own = rows.places(context)
    steps = context.apply("iota", shape=(longest,), axis=0, dtype=i64)
    table = context.builder.constant(layouts)
    table = context.apply("gather", table, binary(context.builder, "div", own, block), axis=1)
    table = context.apply("gather", table, binary(context.builder, "div", steps, block), axis=3)
    # [layouts, batch, length, longest] for each head: those of a group are neighbours.
    table = context.reshape(
        context.transpose(table, (1, 0, 2, 3)), (batch, 1, *table.type.shape[:1], length, longest)
    )
    turns = dims.floordiv(heads, count)
    table = context.apply("broadcast_to", table, shape=(batch, turns, count, length, longest))
    table = context.reshape(table, scores.type.shape)
    own = context.reshape(own, (batch, 1, 1, length, 1))
    steps = context.reshape(steps, (1, 1, 1, 1, longest))
    return context.elementwise("and", table, context.elementwise("le", steps, own))


def _layouts(context: NodeContext) -> Array:
    """Which blocks of keys a block of queries sees, bool [layouts, blocks, blocks]."""
    starts, columns = (
        context.constant_array(position, what)
        for position, what in ((5, "block_row_indices"), (6, "block_col_indices"))
    )
    blocks = starts.shape[1] - 1
    found = np.zeros((len(starts), blocks, blocks), np.bool_)
    for layout, (own_starts, own_columns) in enumerate(zip(starts, columns, strict=True)):
        for row in range(blocks):
            found[layout, row, own_columns[own_starts[row] : own_starts[row + 1]]] = True
    return found
