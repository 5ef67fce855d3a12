"""Ensembles of trees whose leaves are masks for many samples."""

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.tree_masks import Masks
from bessemer.compiler.passes.sums.mask_leaves import mask_leaves
from tests.forests import FEATURES, forest, grown_forest
from tests.pass_runs import changed, lines


@pytest.mark.parametrize(("levels", "words"), [(1, 1), (5, 1), (7, 4)])
def test_masks_are_words_of_32_leaves(rng: np.random.Generator, levels: int, words: int) -> None:
    after = changed(forest(rng, 5, levels), [mask_leaves], rng)
    fewest = 18 if levels == 7 else 7
    assert f"masked_from={fewest}" in lines(after)[0]
    assert (5 * words + 1, 3) in {array.shape for array in after.constants.values()}


@pytest.mark.parametrize(
    ("levels", "attributes"),
    [(9, {}), (3, {"comparison": "eq"})],
    ids=["many leaves", "equality"],
)
def test_others_walk(rng: np.random.Generator, levels: int, attributes: dict[str, Any]) -> None:
    graph = forest(rng, 3, levels, **attributes)
    assert mask_leaves(graph) is graph


def test_ways_that_meet_are_walked() -> None:
    children = np.array([[1, 2], [2, 3], [2, 2], [3, 3]], np.int32)
    roots = np.zeros(1, np.int32)
    assert Masks.of(children, roots, 2, np.zeros(4, bool)) is None


def test_results_are_those_of_walks_bit_by_bit(rng: np.random.Generator) -> None:
    graph = grown_forest(rng, (1, 150, 2, 33, 119, 64, 7, 32, 81))
    model = bessemer.compile(graph, threads=2)
    x = rng.standard_normal((71, FEATURES)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    (expected,) = run_graph(graph, {"x": x})
    (found,) = model.run({"x": x})
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    ones = np.concatenate([model.run({"x": row[None]})[0] for row in x])
    assert found.tobytes() == ones.tobytes() and found.dtype == f32.numpy
