"""tree_ensemble: decision trees, and the sum (or smallest, largest) of the leaves they lead to.

All trees are in one table of nodes, inner ones before leaves. An inner node compares one feature
with its split and leads to one of two nodes; a leaf leads to itself, so that several walks can go
side by side until the last has come to its leaf: one alone would wait for memory at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    as_index,
    binary,
    convert,
    less,
    neutral,
    select,
    unary,
)
from bessemer.compiler.ir.op import Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, boolean, f64, i32, i64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.tree_examples import example
from bessemer.compiler.ops.tree_masks import (
    COMPARISONS,
    OPPOSITE,
    SAMPLES,
    TABLES,
    MaskedBlock,
    Questions,
)

_WALKS = 8
_STEPS = 2
_ALWAYS = 6
"""Inputs that every ensemble has."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Form:
    """The attributes: how nodes ask, what becomes of the leaves, which tables there are."""

    comparison: str
    aggregation: str
    width: int
    leaves: int
    has_modes: bool = False
    has_missing: bool = False
    masked_from: int = 0
    parts: int = 0

    @property
    def optional(self) -> list[str]:
        """The names of the inputs behind those that are always there."""
        masks = [*TABLES] * (self.masked_from > 0)
        return ["modes"] * self.has_modes + ["missing"] * self.has_missing + masks


@dataclass(frozen=True, eq=False)
class _Inputs(Generic[Item]):
    """The samples and the tables of nodes: arrays, buffers, or the types of them."""

    x: Item
    splits: Item
    features: Item
    children: Item
    weights: Item
    roots: Item
    modes: Item | None = None
    missing: Item | None = None
    words: Item | None = None
    first_words: Item | None = None
    masks: Item | None = None
    asked_splits: Item | None = None
    asked_features: Item | None = None

    @staticmethod
    def of(given: Sequence[Item], form: _Form) -> _Inputs[Item]:
        """What an operator of this form is given."""
        return _Inputs(*given[:_ALWAYS], **dict(zip(form.optional, given[_ALWAYS:], strict=True)))


def _infer(*types: TensorType, **attributes: Any) -> TensorType:
    """(x [N, F], splits [nodes], features i32 [nodes], children i32 [nodes, 2] (if false, if true),
    weights [nodes - leaves, targets], roots i32 [trees] [, modes i32 [nodes]]
    [, missing bool [nodes]] [, words i32 [words + 1, 3], first_words i32 [trees + 1],
    masks i32 [questions], asked_splits [questions], asked_features i32 [questions]])
    -> [N, targets].

    Nodes from `leaves` on are leaves. The others ask `x[feature] comparison split`, or with
    `has_modes` the comparison of their own. `missing`: whether a NaN counts as true; otherwise it
    compares as false ("ne": as true). Trees of about the same depth should be neighbours.
    `aggregation` is add, min or max; features are below `width`. With `masked_from`, the leaves are
    in the order of tree_masks.py's `Masks`, by whose tables as many samples are scored together.

    With `parts`, f64 [N, parts, targets]: of every `parts` times eight trees, each part has eight
    neighbours; the last part has those beyond the last whole eight, too.
    """
    form = _Form(**attributes)
    require(
        len(types) == _ALWAYS + len(form.optional),
        f"tree_ensemble has {len(types)} inputs; its has_... attributes say otherwise.",
    )
    given = _Inputs.of(types, form)
    x, weights = given.x, given.weights
    require_dtype("tree_ensemble", x, FLOATS)
    require(_fit(given, form), f"tree_ensemble's tables do not fit each other: {listed(types)}.")
    require(
        not isinstance(x.shape[1], int) or form.width <= x.shape[1],
        f"The trees ask for {form.width} features, but the input {x} has {x.shape[1]}.",
    )
    if form.parts:
        return TensorType(f64, (x.shape[0], form.parts, weights.shape[1]))
    return x.with_shape((x.shape[0], weights.shape[1]))


def _fit(given: _Inputs[TensorType], form: _Form) -> bool:
    """Whether the tables have the types and shapes that `_infer` lists."""
    x, weights, count = given.x, given.weights, given.splits.shape[0]
    fits = x.rank == weights.rank == 2 and given.children.shape == (count, 2)
    fits = fits and given.features.shape == (count,)
    fits = fits and weights.shape[0] == count - form.leaves and given.roots.rank == 1
    fits = fits and given.splits.dtype == weights.dtype == x.dtype
    fits = fits and {given.features.dtype, given.children.dtype, given.roots.dtype} == {i32}
    fits = fits and given.modes in (None, TensorType(i32, (count,)))
    fits = fits and given.missing in (None, TensorType(boolean, (count,)))
    trees = given.roots.shape[0]
    if given.words is not None and given.masks is not None and given.asked_splits is not None:
        questions = given.masks.shape
        fits = fits and given.words.dtype is i32 and given.words.shape[1:] == (3,)
        fits = fits and given.first_words == TensorType(i32, (trees + 1,))
        fits = fits and given.masks == given.asked_features == TensorType(i32, questions)
        fits = fits and given.asked_splits == TensorType(x.dtype, questions)
        fits = fits and form.comparison in OPPOSITE and not form.has_modes
    return fits and (not form.parts or (isinstance(trees, int) and form.parts * _WALKS <= trees))


def _reference(*arrays: Array, **attributes: Any) -> Array:
    form = _Form(**attributes)
    given = _Inputs.of(arrays, form)
    asked = {
        "le": np.less_equal, "lt": np.less, "ge": np.greater_equal,
        "gt": np.greater, "eq": np.equal, "ne": np.not_equal,
    }  # fmt: skip
    combine = {"add": np.add, "min": np.minimum, "max": np.maximum}[form.aggregation]
    parts = max(form.parts, 1)
    eights = np.arange(len(given.roots)) // _WALKS
    part_of = np.where(eights < len(eights) // _WALKS, eights % parts, parts - 1)
    result = np.empty((len(given.x), parts, given.weights.shape[1]), np.float64)
    for sample, row in enumerate(given.x):
        found = []
        for root in given.roots:
            place = root
            while place < form.leaves:
                name = form.comparison if given.modes is None else COMPARISONS[given.modes[place]]
                value = row[given.features[place]]
                goes = bool(asked[name](value, given.splits[place]))
                if given.missing is not None:
                    goes = goes or bool(np.isnan(value) and given.missing[place])
                place = given.children[place, int(goes)]
            found.append(given.weights[place - form.leaves].astype(np.float64))
        for part in range(parts):
            own = [found[tree] for tree in np.flatnonzero(part_of == part)]
            result[sample, part] = combine.reduce(own)
    return result if form.parts else result[:, 0].astype(given.x.dtype)


@dataclass(frozen=True, eq=False)
class _Forest:
    """The operands of one ensemble, and the kernel that is being written."""

    builder: KernelBuilder
    given: _Inputs[Buffer]
    form: _Form

    @property
    def trees(self) -> Size:
        """The number of trees."""
        return self.given.roots.shape[0]

    def walk(self, starts: Iterable[tuple[Size, Size]]) -> list[Size]:
        """The leaves that samples come to in trees, for pairs of a sample and a tree."""
        roots = self.given.roots
        walks = [
            (sample, self.builder.define(convert(roots[tree], i64), "place"))
            for sample, tree in starts
        ]
        lowest = walks[0][1].value
        for _, place in walks[1:]:
            lowest = binary("min", lowest, place.value)
        with self.builder.repeat_while(lowest < self.form.leaves):
            for _ in range(_STEPS):
                for sample, place in walks:
                    place.set(self._next(sample, place.index))
        return [place.index - self.form.leaves for _, place in walks]

    def _next(self, sample: Size, place: Size) -> Expression:
        given = self.given
        feature = as_index(convert(given.features[place], i64))
        value = self.builder.define(given.x[sample, feature], "x").value
        split = given.splits[place]
        goes = binary(self.form.comparison, value, split)
        if given.modes is not None:
            mode = given.modes[place]
            for number, name in enumerate(COMPARISONS):
                goes = select(binary("eq", mode, number), binary(name, value, split), goes)
        if given.missing is not None:
            goes = goes | (unary("isnan", value) & given.missing[place])
        return convert(given.children[place, as_index(convert(goes, i64))], i64)


def _statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], **attributes: Any
) -> None:
    form = _Form(**attributes)
    forest = _Forest(builder, _Inputs.of(inputs, form), form)
    samples, columns = inputs[0].shape
    size = SAMPLES if form.masked_from else _WALKS
    blocks = dims.ceildiv(samples, size)
    # Part by part, so that one part's nodes stay in the cache for all samples.
    with builder.loop(max(form.parts, 1) * blocks, "parallel") as item:
        if not isinstance(columns, int):
            builder.fail_if(less(columns, form.width), f"the trees ask for {form.width} features")
        part = dims.floordiv(item, blocks)
        first = (item - part * blocks) * size
        place = _Place(outputs[0], part if form.parts else None)
        fewest = form.masked_from or _WALKS
        with builder.when(less(first + fewest - 1, samples)):
            if form.masked_from:
                _ask_all(forest, place, first)
            else:
                _score(forest, place, [first + i for i in range(_WALKS)])
        with (
            builder.otherwise(),
            builder.loop(dims.minimum(samples - first, fewest)) as i,
        ):
            _score(forest, place, [first + i])


@dataclass(frozen=True)
class _Place:
    """Where sums go: the output, or one part of it."""

    out: Buffer
    part: Size | None

    @property
    def targets(self) -> Size:
        """The sums of one sample."""
        return self.out.shape[-1]

    def at(self, sample: Size, target: Size) -> tuple[Size, ...]:
        """The index of one sum."""
        return (sample, target) if self.part is None else (sample, self.part, target)


def _score(forest: _Forest, place: _Place, samples: Sequence[Size]) -> None:
    """All trees for these samples; without the questions after NaNs where there are none."""
    given, builder = forest.given, forest.builder
    if given.missing is None:
        _walk_all(forest, place, samples)
        return
    unknown = builder.define(neutral("or", boolean), "unknown")
    for sample in samples:
        with builder.loop(given.x.shape[1], "vector", lanes=0) as feature:
            unknown.accumulate("or", unary("isnan", given.x[sample, feature]))
    with builder.when(unknown.value):
        _walk_all(forest, place, samples)
    with builder.otherwise():
        _walk_all(replace(forest, given=replace(given, missing=None)), place, samples)


def _walk_all(forest: _Forest, place: _Place, samples: Sequence[Size]) -> None:
    """One sample in several trees at once, or several samples in one tree after the other."""
    sums = [_Sum(forest, place, sample) for sample in samples]

    def add(trees: Sequence[Size]) -> None:
        pairs = [(sample, tree) for tree in trees for sample in samples]
        for number, leaf in enumerate(forest.walk(pairs)):
            sums[number % len(samples)].add(leaf)

    _for_trees(forest, place, _WALKS // len(samples), add)
    for total in sums:
        total.finish()


def _for_trees(
    forest: _Forest, place: _Place, together: int, add: Callable[[Sequence[Size]], None]
) -> None:
    """Adds the trees of one part, some together; those beyond the last whole eight one by one."""
    builder, parts = forest.builder, max(forest.form.parts, 1)
    part = 0 if place.part is None else place.part
    eights = dims.floordiv(forest.trees, _WALKS)
    with (
        builder.loop(dims.floordiv(eights - part + parts - 1, parts)) as number,
        builder.loop(_WALKS // together) as some,
    ):
        first = (part + number * parts) * _WALKS + some * together
        add([first + i for i in range(together)])
    with (
        builder.when(less(parts - 2, part)),
        builder.loop(forest.trees - eights * _WALKS) as i,
    ):
        add([eights * _WALKS + i])


def _ask_all(forest: _Forest, place: _Place, first: Size) -> None:
    """All trees for the samples of a block by masks, in the order and type of the walks' sums."""
    given, form = forest.given, forest.form
    assert given.words is not None and given.first_words is not None and given.masks is not None
    assert given.asked_splits is not None and given.asked_features is not None
    questions = Questions(
        forest.builder,
        given.x,
        given.weights,
        given.words,
        given.first_words,
        given.masks,
        given.asked_splits,
        given.asked_features,
        form.comparison,
        form.aggregation,
        form.width,
        totals=f64 if place.targets == 1 else place.out.dtype,
    )
    block = MaskedBlock(questions, first)
    _for_trees(forest, place, 1, lambda trees: block.add(trees[0]))
    block.finish(place.out, place.at, first)


class _Sum:
    """What a sample's leaves come to: in a local for one target, else in the output's row."""

    def __init__(self, forest: _Forest, place: _Place, sample: Size) -> None:
        self.builder = forest.builder
        self.weights = forest.given.weights
        self.place, self.sample = place, sample
        self.aggregation = forest.form.aggregation
        self.local: Local | None = None
        if place.targets == 1:
            self.local = self.builder.define(neutral(self.aggregation, f64), "total")
            return
        out = place.out
        with self.builder.loop(place.targets, "vector", lanes=0) as target:
            first = neutral(self.aggregation, out.dtype)
            self.builder.store(out, place.at(sample, target), first)

    def add(self, leaf: Size) -> None:
        """One more leaf."""
        if self.local is not None:
            self.local.accumulate(self.aggregation, convert(self.weights[leaf, 0], f64))
            return
        out = self.place.out
        with self.builder.loop(self.place.targets, "vector", lanes=0) as target:
            at = self.place.at(self.sample, target)
            weight = convert(self.weights[leaf, target], out.dtype)
            self.builder.store(out, at, binary(self.aggregation, out[at], weight))

    def finish(self) -> None:
        """Writes the result."""
        if self.local is not None:
            self.builder.store(self.place.out, self.place.at(self.sample, 0), self.local.value)


register(
    Operator(
        "tree_ensemble",
        _infer,
        _reference,
        statements=_statements,
        gradient=None,
        examples=(
            example(1, 21, 1),
            example(11, 3, 1, "lt", "max"),
            example(8, 9, 3, "gt"),
            example(3, 17, 4, "ge", "min", has_missing=True),
            example(17, 8, 1, has_modes=True, has_missing=True),
            example(2, 1, 2, "eq"),
            example(11, 43, 1, parts=2),
            example(8, 57, 3, has_missing=True, parts=4),
            example(46, 23, 1, "lt", has_missing=True, masked_from=7),
            example(13, 41, 3, "ge", masked_from=7, parts=2),
        ),
    )
)
