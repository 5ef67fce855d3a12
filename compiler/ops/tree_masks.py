"""Trees of few leaves for many samples at once: every question is asked, none is walked to.

The leaves of a tree are the bits of a mask, those where a question is true before those where it
is false. A question that is false strikes out the leaves that its truth leads to; the lowest bit
that is left is the leaf that a walk would find. Samples are lanes, so there is neither a branch
that depends on data nor a wait for a node's address.

Source of the algorithm: Lucchese et al., "QuickScorer", SIGIR 2015; its form for vectors, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    index_value,
    neutral,
    select,
    unary,
)
from bessemer.compiler.ir.types import Array, DType, f32, f64, i32, i64

SAMPLES = 32
"""Samples of a block."""
FEWEST = 7
"""For fewer samples walks are faster, since they ask only some of the questions."""
MOST_LEAVES = 64
MOST_BYTES = 1 << 15
"""Of a block's features, and of its sums."""
COMPARISONS = ("le", "lt", "ge", "gt", "eq", "ne")
"""What a node can ask; a table of modes holds places in this list."""
OPPOSITE = {"le": "gt", "lt": "ge", "ge": "lt", "gt": "le"}
"""The comparisons that masks support, with their negations (which differ for a NaN only)."""


@dataclass(frozen=True, eq=False)
class Questions:
    """An ensemble whose nodes are in order: see `Masks`. `totals` is the type that sums have."""

    builder: KernelBuilder
    x: Buffer
    splits: Buffer
    features: Buffer
    weights: Buffer
    begins: Buffer
    masks: Buffer
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
        begin, middle, end = (
            builder.define(convert(of.begins[2 * tree + i], i64), "begin").index for i in range(3)
        )
        with builder.loop(SAMPLES, "vector", lanes=SAMPLES) as lane:
            left = builder.define(constant(-1, of.masks.dtype), "left")
            self._ask(left, begin, middle - begin, lane, self._is_false)
            self._ask(left, middle, end - middle, lane, self._is_opposite)
            leaf = as_index(convert(_lowest_bit(left.value), i64))
            # A tree has one leaf more than questions, so those of the trees before are known.
            row = builder.define(index_value(begin + tree + leaf), "row").index
            with builder.loop(of.weights.shape[1]) as target:
                weight = convert(of.weights[row, target], of.totals)
                total = self._totals[target, lane]
                builder.store(self._totals, (target, lane), binary(of.aggregation, total, weight))

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
            node = begin + number
            feature = as_index(convert(of.features[node], i64))
            struck = strikes(self._columns[feature, lane], of.splits[node])
            left.set(select(struck, binary("and", left.value, of.masks[node]), left.value))

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
    floats, mantissa, exponents = (f32, 23, 0xFF) if mask.dtype is i32 else (f64, 52, 0x7FF)
    exponent = binary("shr", bits(convert(lowest, floats), mask.dtype), mantissa)
    return binary("and", exponent, exponents) - exponents // 2


@dataclass(frozen=True, eq=False)
class Masks:
    """The order of an ensemble's nodes for `Questions`, tree by tree, and the tables for it.

    `order` has the old place of each node: inner ones, then leaves. Of a tree's inner nodes, those
    for which a NaN counts as false are before the others: `begins` [2 * trees + 1] says where
    either kind begins. `masks` [inner] are the leaves that remain where an answer is false.
    """

    order: Array
    begins: Array
    masks: Array

    @staticmethod
    def of(children: Array, roots: Array, leaves: int, missing: Array) -> Masks | None:
        """None where a tree has more than 64 leaves, or two ways lead to a node."""
        inner: list[int] = []
        ends: list[int] = []
        masks: list[int] = []
        begins = [0]
        following = children.tolist()
        for root in roots.tolist():
            tree = _Tree.of(root, following, leaves)
            if tree is None:
                return None
            kinds: tuple[list[int], list[int]] = ([], [])
            for number, place in enumerate(tree.inner):
                kinds[bool(missing[place])].append(number)
            for kind in kinds:
                inner += [tree.inner[number] for number in kind]
                masks += [tree.masks[number] for number in kind]
                begins.append(len(inner))
            ends += tree.leaves
        order = np.array(inner + ends, np.int64)
        if len(order) != len(children) or len(np.unique(order)) != len(order):
            return None
        widest = max((mask.bit_length() for mask in masks), default=0)
        dtype = np.int32 if widest < 32 else np.int64
        kept = np.array([~mask for mask in masks], np.int64)
        return Masks(order, np.array(begins, np.int32), kept.astype(dtype))


def with_masks(tables: Sequence[Array], leaves: int) -> tuple[Array, ...] | None:
    """The tables of an ensemble whose nodes all ask the same, in another order and with masks; None
    if it has trees of too many leaves."""
    splits, features, children, weights, roots, *missing = tables
    is_missing = missing[0] if missing else np.zeros(len(splits), bool)
    found = Masks.of(children, roots, leaves, is_missing)
    if found is None:
        return None
    old, new = found.order, np.argsort(found.order)
    ordered = (
        splits[old],
        features[old],
        new[children[old]].astype(np.int32),
        weights[old[leaves:] - leaves],
        new[roots].astype(np.int32),
    )
    return (*ordered, *(table[old] for table in missing), found.begins, found.masks)


@dataclass(frozen=True)
class _Tree:
    """Places of inner nodes and leaves, and for each inner node the leaves that its truth leads
    to."""

    inner: list[int]
    leaves: list[int]
    masks: list[int]

    @staticmethod
    def of(root: int, children: list[list[int]], leaves: int) -> _Tree | None:
        tree = _Tree([], [], [])
        waiting = [(root, -1)]
        while waiting:
            place, parent = waiting.pop()
            if parent >= 0:
                # All leaves since its parent was met are those of the parent's truth.
                begin = tree.masks[parent]
                tree.masks[parent] = (1 << len(tree.leaves)) - (1 << begin)
            if place >= leaves:
                tree.leaves.append(place)
                if len(tree.leaves) > MOST_LEAVES:
                    return None
                continue
            if len(tree.inner) == MOST_LEAVES:
                return None
            if_false, if_true = children[place]
            waiting += [(if_false, len(tree.inner)), (if_true, -1)]
            tree.masks.append(len(tree.leaves))
            tree.inner.append(place)
        return tree
