"""Tree ensembles, which ONNX has in its ai.onnx.ml domain, with every table an attribute."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import numpy_helper

from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.tree_masks import COMPARISONS
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported
from bessemer.frontends.onnx_writer.registry import rule

_MODES = {"le": "BRANCH_LEQ", "lt": "BRANCH_LT", "ge": "BRANCH_GTE", "gt": "BRANCH_GT",
          "eq": "BRANCH_EQ", "ne": "BRANCH_NEQ"}  # fmt: skip
_AGGREGATIONS = {"add": "SUM", "min": "MIN", "max": "MAX"}


@rule("tree_ensemble")
def write_tree_ensemble(emitter: Emitter, node: Node) -> None:
    """Every tree has the numbers of its nodes to itself; a leaf has a weight for each target."""
    x, *tables = node.inputs
    arrays = [array for table in tables if (array := emitter.array_of(table)) is not None]
    if len(arrays) != len(tables):
        raise unsupported(node, "ONNX wants the trees' tables to be constants.")
    attributes = node.attributes
    if attributes.get("parts"):
        raise unsupported(node, "ONNX has no sums of parts of an ensemble.")
    splits, features, children, weights, roots, *optional = arrays
    numbered = [
        (tree, place)
        for tree, root in enumerate(roots)
        for place in _reached(int(root), children, attributes["leaves"])
    ]
    places = np.array([place for _, place in numbered], np.int64)
    is_leaf = places >= attributes["leaves"]
    modes, missing = _comparisons(node, optional, places)
    leaves = [entry for entry, leaf in zip(numbered, is_leaf, strict=True) if leaf]
    targets = weights.shape[1]
    made = emitter.one(
        "TreeEnsembleRegressor",
        emitter.name_of(x),
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function=_AGGREGATIONS[attributes["aggregation"]],
        nodes_treeids=[tree for tree, _ in numbered],
        nodes_nodeids=places.tolist(),
        nodes_featureids=features[places].tolist(),
        nodes_modes=[
            "LEAF" if leaf else _MODES[mode] for mode, leaf in zip(modes, is_leaf, strict=True)
        ],
        nodes_truenodeids=(children[places, 1] * ~is_leaf).tolist(),
        nodes_falsenodeids=(children[places, 0] * ~is_leaf).tolist(),
        nodes_missing_value_tracks_true=missing,
        target_treeids=[tree for tree, _ in leaves for _ in range(targets)],
        target_nodeids=[place for _, place in leaves for _ in range(targets)],
        target_ids=[target for _ in leaves for target in range(targets)],
        **_numbers("nodes_values", splits[places]),
        **_numbers("target_weights", weights[places[is_leaf] - attributes["leaves"]].reshape(-1)),
    )
    if x.type.dtype.bits != 32:  # ONNX's scores are f32 whatever goes in
        made = emitter.cast(made, x.type.dtype)
    emitter.store(node.output, made)


def _comparisons(node: Node, optional: list[Array], places: Array) -> tuple[list[str], list[int]]:
    """What the nodes at these places ask, and whether a NaN counts as true there."""
    has_modes, has_missing = (
        bool(node.attributes.get(f"has_{name}")) for name in ("modes", "missing")
    )
    modes = [node.attributes["comparison"]] * len(places)
    if has_modes:
        modes = [COMPARISONS[number] for number in optional[0][places]]
    missing = optional[has_modes][places] if has_missing else np.zeros(len(places))
    return modes, missing.astype(np.int64).tolist()


def _reached(root: int, children: Array, leaves: int) -> Iterator[int]:
    """A tree's nodes, the root first."""
    waiting = [root]
    while waiting:
        place = waiting.pop()
        yield place
        if place < leaves:
            waiting += [int(child) for child in children[place]]


def _numbers(name: str, values: Array) -> dict[str, object]:
    """An attribute for floats; doubles have one of their own."""
    if values.dtype == np.float64:
        return {f"{name}_as_tensor": numpy_helper.from_array(values, name)}
    return {name: values.astype(np.float32).tolist()}
