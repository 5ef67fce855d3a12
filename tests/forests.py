"""Networks of one tree ensemble."""

from __future__ import annotations

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
    nodes = len(children)
    b = GraphBuilder("forest")
    tables = (
        rng.standard_normal(nodes).astype(np.float32),
        rng.integers(0, FEATURES, nodes).astype(np.int32),
        np.array(children, np.int32),
        rng.standard_normal((nodes - asking, 3)).astype(np.float32),
        np.arange(0, asking, inner, dtype=np.int32),
    )
    form = {"comparison": "le", "aggregation": "add", "width": FEATURES, "leaves": asking}
    x = b.input("x", TensorType(f32, (N, FEATURES)))
    y = b.apply("tree_ensemble", x, *map(b.constant, tables), **{**form, **attributes})
    return b.finish([y], ["y"])
