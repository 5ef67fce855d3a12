"""TfIdfVectorizer: how often n-grams of a list occur in rows of words, or of numbers.

Words are places in the model's table of strings. A single word's column is a look-up by its place;
n-grams of several are compared with each start in each row.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.ops.composite import binary
from bessemer.compiler.ops.composite_reduce import reduce
from bessemer.compiler.ops.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_NO_WORD = -(2**31)
"""A number that no n-gram has."""


@rule("TfIdfVectorizer")
def read_tf_idf_vectorizer(context: NodeContext) -> Value:
    text = context.text_at(0)
    if (text is None) == context.has("pool_strings"):
        context.wrong("the n-grams are of another type than the input")
    b, x = context.builder, context.cast(context.input(0), i64) if text is None else text.value
    rows = x if x.type.rank == 2 else context.reshape(x, (1, x.type.numel))
    places = np.array(context.integers("ngram_indexes"), np.int64)
    width = int(places.max(initial=-1)) + 1
    counts, found = [], []
    for grams, first in _pools(context):
        is_word = text is not None and grams.shape[1] == 1
        counts.append(
            _words(context, rows, grams) if is_word else _occurrences(context, rows, grams)
        )
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


def _pool(context: NodeContext) -> Array:
    if context.has("pool_strings"):
        return context.subgraphs.strings.array(context.texts("pool_strings"))
    return np.array(context.integers("pool_int64s"), np.int64)


def _pools(context: NodeContext) -> list[tuple[Array, int]]:
    """The n-grams [number, n] of every n that counts, and the number of the first of them."""
    pool = _pool(context)
    starts = (*context.integers("ngram_counts"), len(pool))
    shortest, longest = context.integer("min_gram_length"), context.integer("max_gram_length")
    result, first = [], 0
    for size, (start, end) in enumerate(pairwise(starts), 1):
        number = max(end - start, 0) // size
        if number and shortest <= size <= longest:
            result.append((pool[start : start + number * size].reshape(number, size), first))
        first += number
    return result


def _words(context: NodeContext, rows: Value, grams: Array) -> Value:
    """f32 [rows, grams]: how often each single word occurs: each word adds one to its column."""
    b, number = context.builder, len(grams)
    last = int(grams.max()) + 1
    columns = np.full(last + 1, number, np.int32)  # of all other words, left out below
    columns[grams[:, 0]] = np.arange(number)
    column = b.apply("gather", b.constant(columns), binary(b, "min", rows, last), axis=0)
    zeros = b.apply("full", shape=(rows.type.shape[0], number + 1), value=0.0, dtype=f32)
    ones = b.apply("full", shape=rows.type.shape, value=1.0, dtype=f32)
    counts = b.apply("scatter_elements", zeros, column, ones, axis=1, reduction="add")
    return slice_axis(b, counts, 1, 0, number)


def _occurrences(context: NodeContext, rows: Value, grams: Array) -> Value:
    """f32 [rows, grams]: how often each occurs, its words side by side or with words between."""
    b, (number, size) = context.builder, grams.shape
    # A word alone has nothing between its words.
    steps = range(1, 2 + (context.integer("max_skip_count") if size > 1 else 0))
    rows, starts = _with_ends(context, rows, (size - 1) * steps[-1])
    count = rows.type.shape[0]
    total = b.apply("full", shape=(count, number), value=0.0, dtype=f32)
    for step in steps:
        length = starts(step * (size - 1))
        if isinstance(length, int) and length < 1:
            break
        hits: Value | None = None
        for place in range(size):
            words = slice_axis(b, rows, 1, place * step, length)
            wanted = b.constant(np.ascontiguousarray(grams[:, place]).reshape(1, 1, number))
            same = binary(b, "eq", context.reshape(words, (count, length, 1)), wanted)
            hits = same if hits is None else b.apply("and", hits, same)
        assert hits is not None
        total = b.apply("add", total, reduce(b, "sum", context.cast(hits, f32), (1,)))
    return total


def _with_ends(
    context: NodeContext, rows: Value, longest: int
) -> tuple[Value, Callable[[int], Size]]:
    """The rows, and how many n-grams start in one of them that take so many words more.

    Where the run decides how long rows are, words that are none follow, so that each word starts an
    n-gram.
    """
    count, length = rows.type.shape
    if isinstance(length, int):
        return rows, lambda more: length - more
    if not longest:
        return rows, lambda more: length
    end = TensorType(rows.type.dtype, (count, longest))
    return context.apply("concat", rows, context.full(end, _NO_WORD), axis=1), lambda more: length


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
