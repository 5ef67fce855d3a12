"""TfIdfVectorizer: how often n-grams of a list occur in rows of words, or of numbers.

Words are places in the model's table of strings. Each word is numbered among those of the list,
then each pair among the pairs that n-grams begin with, and so on: numbers are found in tables of
all pairs or, where those would be large, by halving sorted lists. One is added where each n-gram of
a row ends up.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_MOST_NUMBERS = 1 << 14
"""Pairs of numbers up to which there is a table of all, which stays in the second cache."""


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
    pools = _pools(context)
    listed_words = [grams.reshape(-1) for grams, _ in pools]
    vocabulary = np.unique(np.concatenate([np.zeros(0, np.int64), *listed_words]))
    numbers = _numbered(context, rows, vocabulary, text is not None)
    for grams, first in pools:
        counts.append(
            _occurrences(context, numbers, np.searchsorted(vocabulary, grams), len(vocabulary))
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


def _numbered(context: NodeContext, rows: Value, vocabulary: Array, is_text: bool) -> Value:
    """i64: which word of the sorted vocabulary each is; behind its end for any other."""
    if not is_text:
        return _found(context, rows, vocabulary)
    last = int(vocabulary.max(initial=-1)) + 1
    numbers = np.full(last + 1, len(vocabulary), np.int64)
    numbers[vocabulary] = np.arange(len(vocabulary))
    at = binary(context.builder, "min", rows, last)
    return context.apply("gather", context.builder.constant(numbers), at, axis=0)


def _found(context: NodeContext, x: Value, keys: Array, limit: int | None = None) -> Value:
    """i64: where in sorted keys each element is; behind their end where it is none of them.

    Elements are from 0 to `limit`, exclusive, if it is given.
    """
    b, size = context.builder, 1 << len(keys).bit_length()
    if limit is not None and limit <= _MOST_NUMBERS:
        numbers = np.full(limit, len(keys), np.int64)
        numbers[keys] = np.arange(len(keys))
        return b.apply("gather", b.constant(numbers), x, axis=0)
    padded = np.full(size, np.iinfo(np.int64).max)
    padded[: len(keys)] = keys
    table, place = b.constant(padded), context.like(x, 0)
    step = size // 2
    while step:
        key = b.apply("gather", table, binary(b, "add", place, step - 1), axis=0)
        place = b.apply("select", b.apply("lt", key, x), binary(b, "add", place, step), place)
        step //= 2
    same = b.apply("eq", b.apply("gather", table, place, axis=0), x)
    return b.apply("select", same, place, context.like(x, len(keys)))


def _occurrences(context: NodeContext, numbers: Value, grams: Array, words: int) -> Value:
    """f32 [rows, grams]: how often each occurs, its words side by side or with words between."""
    b, (number, size) = context.builder, grams.shape
    # A word alone has nothing between its words.
    steps = range(1, 2 + (context.integer("max_skip_count") if size > 1 else 0))
    numbers, starts = _with_ends(context, numbers, (size - 1) * steps[-1], words)
    rows = numbers.type.shape[0]
    total = b.apply("full", shape=(rows, number + 1), value=0.0, dtype=f32)
    for step in steps:
        length = starts(step * (size - 1))
        if isinstance(length, int) and length < 1:
            break
        column = _columns(context, numbers, grams, words, step, length)
        ones = b.apply("full", shape=(rows, length), value=1.0, dtype=f32)
        total = b.apply("scatter_elements", total, column, ones, axis=1, reduction="add")
    return slice_axis(b, total, 1, 0, number)


def _columns(
    context: NodeContext, numbers: Value, grams: Array, words: int, step: int, length: Size
) -> Value:
    """i64 [rows, length]: the n-gram that starts at each word; behind the last where none does."""
    b, known = context.builder, grams[:, 0].astype(np.int64)
    state = slice_axis(b, numbers, 1, 0, length)
    last = words
    for place in range(1, grams.shape[1]):
        # What is none of the list has the number behind its end, which no n-gram has.
        words_there = slice_axis(b, numbers, 1, place * step, length)
        pairs = known * (words + 1) + grams[:, place]
        keys, known = np.unique(pairs, return_inverse=True)
        pair = b.apply("add", binary(b, "mul", state, words + 1), words_there)
        state, last = _found(context, pair, keys, (last + 1) * (words + 1)), len(keys)
    column = np.full(last + 1, len(grams), np.int64)
    column[known] = np.arange(len(grams))
    if len(np.unique(known)) < len(grams):
        context.wrong("an n-gram is listed twice")
    return b.apply("gather", b.constant(column), state, axis=0)


def _with_ends(
    context: NodeContext, numbers: Value, longest: int, words: int
) -> tuple[Value, Callable[[int], Size]]:
    """The rows, and how many n-grams start in one of them that take so many words more.

    Where the run decides how long rows are, words that are none of the list follow, so that each
    word starts an n-gram.
    """
    rows, length = numbers.type.shape
    if isinstance(length, int):
        return numbers, lambda more: length - more
    if longest:
        ends = context.full(TensorType(i64, (rows, longest)), words)
        numbers = context.apply("concat", numbers, ends, axis=1)
    return numbers, lambda more: length


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
