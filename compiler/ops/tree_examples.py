"""Ensembles of trees of several depths: the examples of tree_ensemble."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.op import Example
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.tree_masks import COMPARISONS, with_masks


def example(
    samples: int,
    trees: int,
    targets: int,
    comparison: str = "le",
    aggregation: str = "add",
    **attributes: bool | int,
) -> Example:
    """Full trees of 0 to 4 levels over 5 features."""
    rng = np.random.default_rng(samples + trees)
    inner = [2 ** (tree % 5) - 1 for tree in range(trees)]
    leaves = sum(inner)
    children: list[list[int]] = []
    roots: list[int] = []
    for tree, own in enumerate(inner):
        first, leaf = sum(inner[:tree]), leaves + sum(inner[:tree]) + tree
        roots.append(first if own else leaf)
        places = [first + i if i < own else leaf + i - own for i in range(2 * own + 1)]
        children += [[places[2 * i + 1], places[2 * i + 2]] for i in range(own)]
    children += [[leaves + i, leaves + i] for i in range(leaves + trees)]
    features = rng.integers(0, 5, len(children))
    count = len(children)
    x = rng.standard_normal((samples, 5)).astype(np.float32).round(1)
    splits = rng.standard_normal(count).astype(np.float32).round(1)
    optional: list[Array] = []
    if attributes.get("has_modes"):
        optional.append(rng.integers(0, len(COMPARISONS), count).astype(np.int32))
    if attributes.get("has_missing"):
        x[rng.random(x.shape) < 0.2] = np.nan
        optional.append(rng.random(count) < 0.5)
    tables = [np.array(table, np.int32) for table in (features, children, roots)]
    weights = rng.standard_normal((count - leaves, targets)).astype(np.float32)
    inputs = (x, splits, tables[0], tables[1], weights, tables[2], *optional)
    if attributes.get("masked_from"):
        masked = with_masks(inputs[1:], leaves)
        assert masked is not None
        inputs = (x, *masked[0])
    given = {"comparison": comparison, "aggregation": aggregation, "width": 5, "leaves": leaves}
    given |= attributes
    return Example(inputs, given)
