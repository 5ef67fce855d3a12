"""Large tree ensembles, whose trees threads share."""

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.passes.sums.split_forests import split_forests
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.pass_runs import N, changed, lines

FEATURES = 5


def _forest(rng: np.random.Generator, trees: int, levels: int, **attributes: Any) -> Graph:
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


def test_a_large_ensemble_is_the_sum_of_its_parts(rng: np.random.Generator) -> None:
    after = changed(_forest(rng, 133, 6), [split_forests], rng, rtol=1e-6)
    ensemble, total, cast = lines(after)[:3]
    assert "parts=4" in ensemble and "reduce_sum" in total and "cast" in cast


@pytest.mark.parametrize(
    ("trees", "levels", "attributes"),
    [(133, 3, {}), (40, 8, {}), (133, 6, {"aggregation": "max"})],
    ids=["few nodes", "few trees", "largest leaf"],
)
def test_others_stay_whole(
    rng: np.random.Generator, trees: int, levels: int, attributes: dict[str, Any]
) -> None:
    graph = _forest(rng, trees, levels, **attributes)
    assert split_forests(graph) is graph


@pytest.mark.parametrize("samples", [1, 7, 8, 29])
def test_parts_are_compiled_as_the_whole(rng: np.random.Generator, samples: int) -> None:
    graph = _forest(rng, 133, 6)
    x = rng.standard_normal((samples, FEATURES)).astype(np.float32)
    (expected,) = run_graph(graph, {"x": x})
    (one,) = bessemer.compile(graph).run({"x": x})
    (two,) = bessemer.compile(graph, threads=2).run({"x": x})
    np.testing.assert_allclose(one, expected, rtol=2e-6, atol=2e-6)
    assert one.tobytes() == two.tobytes()


def test_parts_cannot_be_written_to_onnx(rng: np.random.Generator) -> None:
    with pytest.raises(UnsupportedError, match="parts of an ensemble"):
        write_onnx(split_forests(_forest(rng, 133, 6)))
