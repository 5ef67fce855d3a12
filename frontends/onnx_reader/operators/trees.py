"""Tree ensembles of ai.onnx.ml.

The nodes of all trees become one table, in which a leaf leads to itself: see ops/trees.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import softmax
from bessemer.compiler.ops.tree_masks import COMPARISONS
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item, TextItem
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "ai.onnx.ml"
_MODES = {"BRANCH_LEQ": "le", "BRANCH_LT": "lt", "BRANCH_GTE": "ge", "BRANCH_GT": "gt",
          "BRANCH_EQ": "eq", "BRANCH_NEQ": "ne"}  # fmt: skip
_MEMBER = "member"
_AGGREGATIONS = ("AVERAGE", "SUM", "MIN", "MAX")


@dataclass(frozen=True, eq=False)
class _Forest:
    """One entry a node, of all trees; leaves have modes "" and lead to themselves.

    `weights` is [nodes, targets]: what a leaf adds to each target.
    """

    roots: Array
    features: Array
    splits: Array
    modes: list[str]
    missing_is_true: Array
    if_true: Array
    if_false: Array
    weights: Array

    def depths(self, context: NodeContext) -> Array:
        """The number of comparisons on the way to each tree's farthest leaf; refuses circles."""
        inner = np.array([mode != "" for mode in self.modes])
        depths = np.zeros(len(self.roots), np.int64)
        nodes, trees = self.roots, np.arange(len(self.roots))
        rest = inner.copy()
        for depth in range(len(self.modes) + 1):
            asks = inner[nodes]
            nodes, trees = nodes[asks], trees[asks]
            if not len(nodes):
                break
            rest[nodes] = False
            depths[trees] = depth + 1
            nodes = np.concatenate([self.if_true[nodes], self.if_false[nodes]])
            trees = np.tile(trees, 2)
            if len(nodes) > len(self.modes):
                # More than one node leads to a node: each counts once, or they would be too many.
                trees, nodes = np.unique(np.stack([trees, nodes]), axis=1)
        else:
            rest = inner
        while (ends := rest & ~rest[self.if_true] & ~rest[self.if_false]).any():
            rest = rest & ~ends
        if not rest.any():
            return depths
        context.wrong("the nodes of a tree form a circle")


def _summed(context: NodeContext, x: Value, forest: _Forest, aggregation: str) -> Value:
    """[samples, targets]: the leaves' weights, over all trees."""
    if aggregation not in _AGGREGATIONS:
        context.wrong(f"aggregate_function is {aggregation}")
    _check(context, forest)
    b = context.builder
    order = np.argsort(forest.depths(context), kind="stable")
    inner = np.array([mode != "" for mode in forest.modes], bool)
    # Inner nodes first: old place by new one, and the other way round.
    old = np.concatenate([np.flatnonzero(inner), np.flatnonzero(~inner)])
    new = np.argsort(old)
    leaves = int(inner.sum())
    modes = sorted({mode for mode in forest.modes if mode})
    tables: list[Array] = [
        forest.splits[old],
        forest.features[old].astype(np.int32),
        new[np.stack([forest.if_false, forest.if_true], axis=1)[old]].astype(np.int32),
        forest.weights[old[leaves:]],
        new[forest.roots[order]].astype(np.int32),
    ]
    if len(modes) > 1:
        numbers = np.array([COMPARISONS.index(mode or "le") for mode in forest.modes], np.int32)
        tables.append(numbers[old])
    if forest.missing_is_true.any():
        tables.append(forest.missing_is_true[old])
    total = b.apply(
        "tree_ensemble",
        x,
        *map(b.constant, tables),
        comparison=modes[0] if modes else "le",
        aggregation=aggregation.lower() if aggregation in ("MIN", "MAX") else "add",
        width=int(forest.features.max(initial=-1)) + 1,
        leaves=leaves,
        has_modes=len(modes) > 1,
        has_missing=bool(forest.missing_is_true.any()),
    )
    if aggregation == "AVERAGE":
        return b.apply("div", total, context.like(total, float(len(forest.roots))))
    return total


def _check(context: NodeContext, forest: _Forest) -> None:
    count = len(forest.modes)
    for table in (forest.roots, forest.if_true, forest.if_false):
        if table.size and (table.min() < 0 or table.max() >= count):
            context.wrong("a tree leads to a node that does not exist")
    if forest.features.size and forest.features.min() < 0:
        context.wrong("a node asks for a feature with a negative number")


@rule("TreeEnsemble", domain=_DOMAIN)
def read_tree_ensemble(context: NodeContext) -> Value:
    """The form of version 5: inner nodes and leaves are numbered apart."""
    x = context.input(0)
    dtype = x.type.dtype.numpy
    modes = np.asarray(context.attributes["nodes_modes"]).reshape(-1)
    if modes.size and modes.max() > len(COMPARISONS):
        context.wrong(f"nodes_modes = {modes.max()}, which does not exist")
    inner = len(modes)
    targets = np.array(context.integers("leaf_targetids"), dtype=np.int64)
    weights = np.asarray(context.attributes["leaf_weights"], dtype=dtype).reshape(-1)
    table = np.zeros((inner + len(targets), context.integer("n_targets")), dtype)
    _check_leaves(context, "leaf_target", table.shape[1], targets, weights)
    table[inner + np.arange(len(targets)), targets] = weights
    leaves = np.arange(inner, inner + len(targets))

    def following(side: str) -> Array:
        numbers = np.array(context.integers(f"nodes_{side}nodeids"), dtype=np.int64)
        is_leaf = np.array(context.integers(f"nodes_{side}leafs"), dtype=bool)
        return np.concatenate([np.where(is_leaf, numbers + inner, numbers), leaves])

    def padded(values: Array) -> Array:
        return np.concatenate([values, np.zeros(len(targets), values.dtype)])

    missing = context.integers("nodes_missing_value_tracks_true", (0,) * inner)
    forest = _Forest(
        roots=np.array(context.integers("tree_roots"), dtype=np.int64),
        features=padded(np.array(context.integers("nodes_featureids"), dtype=np.int64)),
        splits=padded(np.asarray(context.attributes["nodes_splits"], dtype=dtype).reshape(-1)),
        modes=[(*COMPARISONS, _MEMBER)[int(mode)] for mode in modes] + [""] * len(targets),
        missing_is_true=padded(np.array(missing or (0,) * inner, dtype=bool)),
        if_true=following("true"),
        if_false=following("false"),
        weights=table,
    )
    if _MEMBER in forest.modes:
        forest = _with_comparisons(forest, _member_sets(context, forest.modes.count(_MEMBER)))
    total = _summed(context, x, forest, _AGGREGATIONS[context.integer("aggregate_function")])
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return post_transformed(context, total, names[context.integer("post_transform")])


def _member_sets(context: NodeContext, count: int) -> list[Array]:
    """The members that nodes ask for, one set a node; each set ends with a NaN."""
    values = np.asarray(context.attributes.get("membership_values", ())).reshape(-1)
    sets = np.split(values, np.flatnonzero(np.isnan(values)) + 1)
    if len(sets) - bool(not len(sets[-1])) != count:
        context.wrong(f"{len(sets)} sets of members for {count} nodes that ask for some")
    return [one[~np.isnan(one)] for one in sets[:count]]


def _with_comparisons(forest: _Forest, sets: list[Array]) -> _Forest:
    """The forest with a chain of comparisons in place of each node that asks for members."""
    splits, modes, if_false = list(forest.splits), list(forest.modes), list(forest.if_false)
    origin = list(range(len(modes)))
    asking = (place for place, mode in enumerate(forest.modes) if mode == _MEMBER)
    for place, members in zip(asking, sets, strict=True):
        modes[place], otherwise = "eq", if_false[place]
        splits[place] = members[0] if len(members) else np.nan
        last = place
        for member in members[1:]:
            if_false[last] = last = len(modes)
            splits.append(member)
            modes.append("eq")
            if_false.append(otherwise)
            origin.append(place)
    return _Forest(
        forest.roots,
        forest.features[origin],
        np.array(splits, forest.splits.dtype),
        modes,
        forest.missing_is_true[origin],
        forest.if_true[origin],
        np.array(if_false, np.int64),
        forest.weights[origin],
    )


class _Places:
    """Where the node of a tree with a number stands in the list; there may be millions."""

    def __init__(self, context: NodeContext) -> None:
        self.trees = np.array(context.integers("nodes_treeids"), np.int64)
        numbers = np.array(context.integers("nodes_nodeids"), np.int64)
        if numbers.shape != self.trees.shape or numbers.min(initial=0) < 0:
            context.wrong("nodes_treeids and nodes_nodeids do not fit each other")
        self._span = int(numbers.max(initial=0)) + 1
        keys = self.trees * self._span + numbers
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._context = context

    def found(
        self,
        trees: Array,
        numbers: Sequence[int] | Array,
        unasked: Array | None = None,
        skip: Array | None = None,
    ) -> Array:
        """The places of nodes; `unasked` where `skip` is true."""
        wanted = np.array(numbers, np.int64)
        asked = np.ones(wanted.shape, bool) if skip is None else ~skip
        keys = np.where(asked, trees * self._span + wanted, self._keys[:1])
        at = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        is_there = (self._keys[at] == keys) & (wanted >= 0) & (wanted < self._span)
        if not is_there[asked].all():
            self._context.wrong("a tree leads to a node that does not exist")
        places = self._order[at]
        return places if unasked is None else np.where(asked, places, unasked)


def _numbered_forest(
    context: NodeContext, prefix: str, targets: int, dtype: np.dtype[Any]
) -> _Forest:
    """The older form: nodes are named by (tree, node), and leaves list their weights elsewhere."""
    place = _Places(context)
    names, splits = context.texts("nodes_modes"), _floats(context, "nodes_values")
    _check_nodes(context, names, splits)
    own = np.arange(len(names))
    is_leaf = np.array([name == "LEAF" for name in names], bool)

    def following(side: str) -> Array:
        return place.found(place.trees, context.integers(f"nodes_{side}nodeids"), own, is_leaf)

    table = _leaf_weights(context, prefix, place, np.zeros((len(names), targets), dtype))
    if_true, if_false = following("true"), following("false")
    is_root = np.ones(len(names), bool)
    is_root[if_true[~is_leaf]] = is_root[if_false[~is_leaf]] = False
    missing = context.integers("nodes_missing_value_tracks_true", ()) or (0,) * len(names)
    return _Forest(
        roots=np.flatnonzero(is_root),
        features=np.array(context.integers("nodes_featureids"), dtype=np.int64),
        splits=splits.astype(dtype),
        modes=[_MODES.get(name, "") for name in names],
        missing_is_true=np.array(missing, dtype=bool),
        if_true=if_true,
        if_false=if_false,
        weights=table,
    )


def _check_nodes(context: NodeContext, names: Sequence[str], splits: Array) -> None:
    """All modes are known, and all lists of nodes have one entry for each."""
    unknown = {name for name in names if name != "LEAF" and name not in _MODES}
    if unknown:
        context.unsupported(f"nodes_modes = {', '.join(sorted(unknown))}")
    by_node = ("treeids", "featureids", "truenodeids", "falsenodeids")
    lengths = {len(splits), *(len(context.integers(f"nodes_{name}")) for name in by_node)}
    if lengths != {len(names)}:
        context.wrong(f"the lists for {len(names)} nodes differ in length")


def _leaf_weights(context: NodeContext, prefix: str, place: _Places, table: Array) -> Array:
    """The table [nodes, targets] with the weights of leaves added, which a list of (tree, node,
    target) names."""
    targets = table.shape[1]
    trees, nodes, ids = (
        np.array(context.integers(f"{prefix}_{name}"), np.int64)
        for name in ("treeids", "nodeids", "ids")
    )
    weights = _floats(context, f"{prefix}_weights")
    _check_leaves(context, f"{prefix}_", targets, ids, weights, trees, nodes)
    places = place.found(trees, nodes)
    if prefix == "target" and targets == 1:
        # Exporters repeat the number of a leaf for each class: as in onnxruntime, the first counts.
        places, first = np.unique(places, return_index=True)
        ids, weights = ids[first], weights[first]
    np.add.at(table, (places, ids), weights)
    return table


def _check_leaves(
    context: NodeContext, prefix: str, targets: int, ids: Array, *others: Array
) -> None:
    """There is one of each for a leaf's number, and the target or class that it is for exists."""
    if any(len(other) != len(ids) for other in others):
        context.wrong(f"{prefix}ids and what belongs to them differ in length")
    if ids.size and not 0 <= ids.min() <= ids.max() < targets:
        context.wrong(f"{prefix}ids are {ids.min()} to {ids.max()}, of {targets} in all")


def _floats(context: NodeContext, name: str) -> Array:
    """Numbers that may be a list of floats or, in double, a tensor."""
    if f"{name}_as_tensor" in context.attributes:
        return np.asarray(context.attributes[f"{name}_as_tensor"]).reshape(-1)
    return np.array(context.numbers(name, ()), dtype=np.float32)


def _input(context: NodeContext) -> Value:
    """The samples, as floats."""
    x = context.input(0)
    if x.type.rank == 1:
        x = context.reshape(x, (1, *x.type.shape))
    return x


@rule("TreeEnsembleRegressor", domain=_DOMAIN)
def read_tree_regressor(context: NodeContext) -> Value:
    x = _input(context)
    targets = context.integer("n_targets", 1)
    forest = _numbered_forest(context, "target", targets, x.type.dtype.numpy)
    total = _summed(context, x, forest, context.text("aggregate_function"))
    total = _with_base(context, total)
    return post_transformed(context, total, context.text("post_transform"))


def _with_base(context: NodeContext, total: Value) -> Value:
    base = _floats(context, "base_values")
    if not base.size:
        return total
    added = context.builder.constant(base.astype(total.type.dtype.numpy))
    return context.elementwise("add", total, added)


@rule("TreeEnsembleClassifier", domain=_DOMAIN)
def read_tree_classifier(context: NodeContext) -> list[Item]:
    x = _input(context)
    labels = context.integers("classlabels_int64s", ())
    count = len(labels) or len(context.texts("classlabels_strings", ()))
    forest = _numbered_forest(context, "class", count, x.type.dtype.numpy)
    total = _with_base(context, _summed(context, x, forest, "SUM"))
    ids = set(context.integers("class_ids"))
    if count == 2 and len(ids) == 1:
        positive = bool((_floats(context, "class_weights") >= 0).all())
        return _two_classes(context, total, ids.pop(), positive, labels)
    label = context.apply("arg_max", total, axis=1, last=False)
    probabilities = post_transformed(context, total, context.text("post_transform"))
    return [class_labels(context, label, labels), probabilities]


def _two_classes(
    context: NodeContext, total: Value, number: int, positive: bool, labels: tuple[int, ...]
) -> list[Item]:
    """One score for two classes: a probability of the second, or a margin."""
    b = context.builder
    score = context.apply(
        "slice", total, starts=(0, number), shape=(total.type.shape[0], 1), steps=(1, 1)
    )
    transform = context.text("post_transform")
    if transform not in ("NONE", "LOGISTIC"):
        context.unsupported(f"post_transform = {transform} of one score for two classes")
    if positive and transform == "NONE":
        other = binary(b, "sub", context.like(score, 1.0), score)
        second = binary(b, "gt", score, 0.5)
    else:
        other = b.apply("neg", score)
        second = binary(b, "gt", score, 0.0)
    both = b.apply("concat", other, score, axis=1)
    label = context.cast(context.reshape(second, (total.type.shape[0],)), i64)
    return [class_labels(context, label, labels), post_transformed(context, both, transform)]


def class_labels(context: NodeContext, place: Value, labels: tuple[int, ...]) -> Item:
    """The label for each place in the list, which is one of numbers or, without any, of strings."""
    if labels:
        table = context.builder.constant(np.array(labels, dtype=np.int64))
        return context.apply("gather", table, place, axis=0)
    texts = context.texts("classlabels_strings", ())
    if not texts:
        return None
    return TextItem(context.apply("gather", context.strings(texts).value, place, axis=0))


def post_transformed(context: NodeContext, x: Value, name: str) -> Value:
    """Scores as what a model of ai.onnx.ml wants to give."""
    match name:
        case "NONE":
            return x
        case "LOGISTIC":
            return context.apply("sigmoid", x)
        case "SOFTMAX":
            return softmax(context.builder, x, (x.type.rank - 1,))
        case _:
            context.unsupported(f"post_transform = {name}")
