"""Trees for many samples at once: every question is asked, none is walked to.

The leaves of a tree are the bits of a mask, those where a question is true before those where it
is false. A question that is false strikes out the leaves that its truth leads to; the lowest bit
that is left is the leaf that a walk would find. Samples are lanes, so there is neither a branch
that depends on data nor a wait for a node's address.

A mask is words of 32 leaves. A question is asked for every word in which it strikes out leaves:
for one word, as a rule, since most questions are close to the leaves.

Source of the algorithm: Lucchese et al., "QuickScorer", SIGIR 2015; its form for vectors, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    as_index,
    binary,
    bits,
    constant,
    convert,
    neutral,
    select,
    unary,
)
from bessemer.compiler.ir.types import Array, DType, f32, i32, i64

SAMPLES = 32
"""Samples of a block."""
MOST_BYTES = 1 << 15
"""Of a block's features, and of its sums."""
COMPARISONS = ("le", "lt", "ge", "gt", "eq", "ne")
"""What a node can ask; a table of modes holds places in this list."""
OPPOSITE = {"le": "gt", "lt": "ge", "ge": "lt", "gt": "le"}
"""The comparisons that masks support, with their negations (which differ for a NaN only)."""
TABLES = ("words", "first_words", "masks", "asked_splits", "asked_features")
"""The inputs of an ensemble that has masks, beside those that others have."""
_LEAVES = 32
"""Of a word."""
_BEGIN, _MIDDLE, _LEAF = range(3)
"""Columns of `words`."""
_FEWEST = 7
"""For fewer samples walks are faster, since they ask only some of the questions."""


@dataclass(frozen=True, eq=False)
class Questions:
    """An ensemble with the tables of `Masks`. `totals` is the type that sums have."""

    builder: KernelBuilder
    x: Buffer
    weights: Buffer
    words: Buffer
    first_words: Buffer
    masks: Buffer
    splits: Buffer
    features: Buffer
    comparison: str
    aggregation: str
    width: int
    totals: DType


class MaskedBlock:
    """The samples from `first` on; in place of those beyond the last one, the last again."""

    def __init__(self, questions: Questions, first: Size) -> None:
        self._of, self._builder = questions, questions.builder
        builder, x = questions.builder, questions.x
        self._columns = builder.allocate(x.dtype, (questions.width, SAMPLES))
        targets = questions.weights.shape[1]
        assert isinstance(targets, int)
        self._totals = builder.allocate(questions.totals, (targets, SAMPLES))
        with builder.loop(SAMPLES) as lane:
            sample = builder.local(dims.minimum(first + lane, x.shape[0] - 1))
            with builder.loop(questions.width) as feature:
                builder.store(self._columns, (feature, lane), x[sample, feature])
        with builder.loop(targets) as target, builder.loop(SAMPLES, "vector", lanes=0) as lane:
            zero = neutral(questions.aggregation, questions.totals)
            builder.store(self._totals, (target, lane), zero)

    def add(self, tree: Size) -> None:
        """Adds the leaves of one more tree."""
        builder, of = self._builder, self._of
        first, end = (
            builder.define(convert(of.first_words[tree + i], i64), "word").index for i in range(2)
        )
        with builder.loop(SAMPLES, "vector", lanes=SAMPLES) as lane:
            leaf = builder.define(constant(0, i32), "leaf")
            with builder.loop(end - first) as number:
                self._ask_word(leaf, first + number, lane)
            row = builder.define(convert(leaf.value, i64), "row").index
            with builder.loop(of.weights.shape[1]) as target:
                weight = convert(of.weights[row, target], of.totals)
                total = self._totals[target, lane]
                builder.store(self._totals, (target, lane), binary(of.aggregation, total, weight))

    def _ask_word(self, leaf: Local, word: Size, lane: Size) -> None:
        """Sets the leaf where this word has one left; a tree's first word, asked last, decides."""
        builder, words = self._builder, self._of.words
        begin, middle, end = (
            builder.define(convert(words[at], i64), "begin").index
            for at in ((word, _BEGIN), (word, _MIDDLE), (word + 1, _BEGIN))
        )
        left = builder.define(constant(-1, i32), "left")
        self._ask(left, begin, middle - begin, lane, self._is_false)
        self._ask(left, middle, end - middle, lane, self._is_opposite)
        found = words[word, _LEAF] + _lowest_bit(left.value)
        leaf.set(select(binary("ne", left.value, 0), found, leaf.value))

    def _ask(
        self,
        left: Local,
        begin: Size,
        count: Size,
        lane: Size,
        strikes: Callable[[Expression, Expression], Expression],
    ) -> None:
        of = self._of
        with self._builder.loop(count) as number:
            question = begin + number
            feature = as_index(convert(of.features[question], i64))
            struck = strikes(self._columns[feature, lane], of.splits[question])
            left.set(select(struck, binary("and", left.value, of.masks[question]), left.value))

    def _is_false(self, value: Expression, split: Expression) -> Expression:
        return unary("not", binary(self._of.comparison, value, split))

    def _is_opposite(self, value: Expression, split: Expression) -> Expression:
        """As `_is_false`, but not for a NaN."""
        return binary(OPPOSITE[self._of.comparison], value, split)

    def finish(
        self, out: Buffer, at: Callable[[Size, Size], tuple[Size, ...]], first: Size
    ) -> None:
        """Writes the sums of (sample, target) to where `at` says."""
        count = self._builder.local(dims.minimum(self._of.x.shape[0] - first, SAMPLES))
        with (
            self._builder.loop(count) as lane,
            self._builder.loop(self._of.weights.shape[1]) as target,
        ):
            self._builder.store(out, at(first + lane, target), self._totals[target, lane])


def _lowest_bit(mask: Expression) -> Expression:
    """The number of the lowest bit that is set: the exponent of the float that this bit is."""
    lowest = binary("and", mask, unary("neg", mask))
    exponent = binary("shr", bits(convert(lowest, f32), i32), 23)
    return binary("and", exponent, 0xFF) - 0xFF // 2


@dataclass(frozen=True, eq=False)
class Masks:
    """The tables for `Questions`: of `words`, in the order of trees and from a tree's last to its
    first; of `trees`; and of `questions`, in the order of their words.

    words: i32 [words + 1, 3], the first question of a word, the first of those for which a NaN
        counts as true, which are behind the others, and the place of its first leaf
    first_words: i32 [trees + 1]
    masks: i32 [questions], the leaves of a word that remain where an answer is false
    asked: i64 [questions], the nodes that ask
    leaves: i64 [leaves], the old place of each leaf
    fewest: samples that pay for a block: all questions of a tree are asked a block of samples in
        about the time in which walks take as many steps
    """

    words: Array
    first_words: Array
    masks: Array
    asked: Array
    leaves: Array
    fewest: int

    @staticmethod
    def of(children: Array, roots: Array, leaves: int, missing: Array) -> Masks | None:
        """None where two ways lead to a node."""
        following = children.tolist()
        trees = [_Tree.of(root, following, leaves) for root in roots.tolist()]
        if any(tree is None for tree in trees):
            return None
        found = [tree for tree in trees if tree is not None]
        order = np.array([leaf for tree in found for leaf in tree.leaves], np.int64)
        if len(order) != len(children) - leaves or len(np.unique(order)) != len(order):
            return None
        counts = np.array([len(tree.leaves) for tree in found], np.int64)
        of_tree = np.repeat(np.arange(len(found)), [len(tree.inner) for tree in found])
        spans = np.array([span for tree in found for span in tree.spans], np.int64).reshape(-1, 2)
        nodes = np.array([node for tree in found for node in tree.inner], np.int64)
        fewest = max(_FEWEST, len(nodes) // max(sum(tree.depth for tree in found), 1))
        return _in_words(nodes, spans, of_tree, counts, missing, order, fewest)


def _in_words(
    nodes: Array,
    spans: Array,
    of_tree: Array,
    counts: Array,
    missing: Array,
    leaves: Array,
    fewest: int,
) -> Masks:
    """The tables for nodes which strike out the leaves of `spans` [nodes, 2] of a tree;
    trees have `counts` leaves."""
    first_words = np.concatenate([[0], np.cumsum(-(-counts // _LEAVES))])
    first_leaves = np.cumsum(counts) - counts
    low, high = spans[:, 0] // _LEAVES, (spans[:, 1] - 1) // _LEAVES
    touched = high - low + 1
    node = np.repeat(np.arange(len(nodes)), touched)
    number = low[node] + np.arange(len(node)) - np.repeat(np.cumsum(touched) - touched, touched)
    word = first_words[of_tree[node] + 1] - 1 - number
    order = np.lexsort((missing[nodes[node]], word))
    node, number, word = node[order], number[order], word[order]
    bits_of_span = np.clip(spans[node] - number[:, None] * _LEAVES, 0, _LEAVES)
    first_bit, end_bit = np.left_shift(1, bits_of_span).T
    words = int(first_words[-1])
    begins = np.searchsorted(word, np.arange(words + 1))
    known = np.bincount(word[~missing[nodes[node]]], minlength=words + 1)
    tree = np.searchsorted(first_words, np.arange(words), side="right") - 1
    first = first_leaves[tree] + (first_words[tree + 1] - 1 - np.arange(words)) * _LEAVES
    table = np.stack([begins, begins + known, np.append(first, len(leaves))], axis=1)
    return Masks(
        table.astype(np.int32),
        first_words.astype(np.int32),
        (~(end_bit - first_bit)).astype(np.int32),
        nodes[node],
        leaves,
        fewest,
    )


def with_masks(tables: Sequence[Array], leaves: int) -> tuple[tuple[Array, ...], int] | None:
    """The tables of an ensemble whose nodes all ask the same, with leaves in another order and with
    masks, and the samples that pay for a block; None if two ways lead to a node."""
    splits, features, children, weights, roots, *missing = tables
    is_missing = missing[0] if missing else np.zeros(len(splits), bool)
    found = Masks.of(children, roots, leaves, is_missing)
    if found is None:
        return None
    old = np.concatenate([np.arange(leaves), found.leaves])
    new = np.argsort(old)
    ordered = (
        splits[old],
        features[old],
        new[children[old]].astype(np.int32),
        weights[found.leaves - leaves],
        new[roots].astype(np.int32),
    )
    asked = (splits[found.asked], features[found.asked])
    more = (found.words, found.first_words, found.masks, *asked)
    return (*ordered, *(table[old] for table in missing), *more), found.fewest


@dataclass
class _Tree:
    """Places of inner nodes and leaves, for each inner node the span of the leaves that its truth
    leads to, and the most questions before a leaf."""

    inner: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    depth: int = 0

    @staticmethod
    def of(root: int, children: list[list[int]], leaves: int) -> _Tree | None:
        """None where two ways lead to a node."""
        tree = _Tree()
        waiting = [(root, -1, 0)]
        while waiting:
            place, parent, depth = waiting.pop()
            if parent >= 0:
                # All leaves since its parent was met are those of the parent's truth.
                tree.spans[parent] = (tree.spans[parent][0], len(tree.leaves))
            if place >= leaves:
                tree.leaves.append(place)
                tree.depth = max(tree.depth, depth)
                if len(tree.leaves) > len(children):
                    return None
                continue
            if_false, if_true = children[place]
            waiting += [(if_false, len(tree.inner), depth + 1), (if_true, -1, depth + 1)]
            tree.spans.append((len(tree.leaves), 0))
            tree.inner.append(place)
        return tree
