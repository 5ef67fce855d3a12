"""TfIdfVectorizer: how often n-grams of a list occur in rows of numbers that stand for words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, f32, i64
from bessemer.compiler.ops.composite import binary
from bessemer.compiler.ops.composite_reduce import reduce
from bessemer.compiler.ops.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule


@rule("TfIdfVectorizer")
def read_tf_idf_vectorizer(context: NodeContext) -> Value:
    if not context.has("pool_int64s"):
        context.unsupported("n-grams of strings")
    b, x = context.builder, context.cast(context.input(0), i64)
    rows = x if x.type.rank == 2 else context.reshape(x, (1, x.type.numel))
    places = np.array(context.integers("ngram_indexes"), np.int64)
    width = int(places.max(initial=-1)) + 1
    counts, found = [], []
    for grams, first in _pools(context):
        counts.append(_occurrences(context, rows, grams))
        found.append(places[first : first + len(grams)])
    listed = np.concatenate(found) if found else np.zeros(0, np.int64)
    if len(set(listed)) != len(listed):
        context.unsupported("several n-grams with one index")
    # What no n-gram counts reads a column of zeros behind the counts.
    column = np.full(width, len(listed), np.int64)
    column[listed] = np.arange(len(listed))
    nothing = b.apply("full", shape=(rows.type.shape[0], 1), value=0.0, dtype=f32)
    table = b.apply("concat", *counts, nothing, axis=1) if counts else nothing
    result = _weighted(context, b.apply("gather", table, b.constant(column), axis=1), places)
    return result if x.type.rank == 2 else context.reshape(result, (width,))


def _pools(context: NodeContext) -> list[tuple[Array, int]]:
    """The n-grams [number, n] of every n that counts, and the number of the first of them."""
    pool = np.array(context.integers("pool_int64s"), np.int64)
    starts = (*context.integers("ngram_counts"), len(pool))
    shortest, longest = context.integer("min_gram_length"), context.integer("max_gram_length")
    result, first = [], 0
    for size, (start, end) in enumerate(pairwise(starts), 1):
        number = max(end - start, 0) // size
        if number and shortest <= size <= longest:
            result.append((pool[start : start + number * size].reshape(number, size), first))
        first += number
    return result


def _occurrences(context: NodeContext, rows: Value, grams: Array) -> Value:
    """f32 [rows, grams]: how often each occurs, its words side by side or with words between."""
    b, (number, size) = context.builder, grams.shape
    count, length = rows.type.shape
    if not isinstance(length, int):
        context.unsupported(f"rows of {rows.type}, whose length is not known")
    total = b.apply("full", shape=(count, number), value=0.0, dtype=f32)
    # A word alone has nothing between its words.
    for step in range(1, 2 + (context.integer("max_skip_count") if size > 1 else 0)):
        starts = length - (size - 1) * step
        if starts < 1:
            break
        hits: Value | None = None
        for place in range(size):
            words = slice_axis(b, rows, 1, place * step, starts)
            wanted = b.constant(np.ascontiguousarray(grams[:, place]).reshape(1, 1, number))
            same = binary(b, "eq", context.reshape(words, (count, starts, 1)), wanted)
            hits = same if hits is None else b.apply("and", hits, same)
        assert hits is not None
        total = b.apply("add", total, reduce(b, "sum", context.cast(hits, f32), (1,)))
    return total


def _weighted(context: NodeContext, counts: Value, places: Array) -> Value:
    """Counts as the mode wants them; there is a weight for each n-gram of the list."""
    mode = context.text("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        context.wrong(f"mode is {mode!r}")
    if mode == "IDF":
        counts = context.cast(binary(context.builder, "gt", counts, 0.0), f32)
    weights = context.numbers("weights", ())
    if mode == "TF" or not weights:
        return counts
    columns = np.ones(int(places.max()) + 1, np.float32)
    columns[places] = weights
    return context.elementwise("mul", counts, context.builder.constant(columns))
