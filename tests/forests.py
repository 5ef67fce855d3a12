"""Networks of one tree ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from tests.pass_runs import N

FEATURES = 5


def forest(rng: np.random.Generator, trees: int, levels: int, **attributes: Any) -> Graph:
    """Full trees: a network of `n` samples."""
    inner, leaves = 2**levels - 1, 2**levels
    asking = trees * inner
    children = []
    for tree in range(trees):
        first, leaf = tree * inner, asking + tree * leaves
        places = [first + i if i < inner else leaf + i - inner for i in range(2 * inner + 1)]
        children += [[places[2 * i + 1], places[2 * i + 2]] for i in range(inner)]
    children += [[leaf, leaf] for leaf in range(asking, asking + trees * leaves)]
    roots = np.arange(0, asking, inner, dtype=np.int32)
    return _ensemble(rng, children, asking, roots, **attributes)


def grown_forest(rng: np.random.Generator, leaves: Sequence[int]) -> Graph:
    """Trees of so many leaves each and of any shape, some of whose nodes take a NaN for true."""
    children = np.zeros((sum(leaves) - len(leaves), 2), np.int32)
    roots, inner, leaf = [], 0, len(children)
    for count in leaves:
        own = range(inner, inner + count - 1)
        # Each node but the first is a child of one before it; the sides that are left are leaves.
        free: list[tuple[int, int]] = []
        for node in own:
            if node > inner:
                children[free.pop(rng.integers(len(free)))] = node
            free += [(node, 0), (node, 1)]
        for place, side in enumerate(free):
            children[side] = leaf + place
        roots.append(inner if count > 1 else leaf)
        inner, leaf = inner + count - 1, leaf + count
    loops = np.repeat(np.arange(len(children), leaf, dtype=np.int32)[:, None], 2, axis=1)
    table = np.concatenate([children, loops])
    missing = rng.random(len(table)) < 0.5
    tree = np.array(roots, np.int32)
    return _ensemble(rng, table.tolist(), len(children), tree, missing, has_missing=True)


def _ensemble(
    rng: np.random.Generator,
    children: list[list[int]],
    asking: int,
    roots: np.ndarray[Any, np.dtype[np.int32]],
    *optional: np.ndarray[Any, Any],
    **attributes: Any,
) -> Graph:
    nodes = len(children)
    b = GraphBuilder("forest")
    tables = (
        rng.standard_normal(nodes).astype(np.float32),
        rng.integers(0, FEATURES, nodes).astype(np.int32),
        np.array(children, np.int32),
        rng.standard_normal((nodes - asking, 3)).astype(np.float32),
        roots,
        *optional,
    )
    form = {"comparison": "le", "aggregation": "add", "width": FEATURES, "leaves": asking}
    x = b.input("x", TensorType(f32, (N, FEATURES)))
    y = b.apply("tree_ensemble", x, *map(b.constant, tables), **{**form, **attributes})
    return b.finish([y], ["y"])
