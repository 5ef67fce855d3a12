"""Large tree ensembles, whose trees threads share."""

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.passes.sums.split_forests import split_forests
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.forests import FEATURES, forest
from tests.pass_runs import changed, lines


def test_a_large_ensemble_is_the_sum_of_its_parts(rng: np.random.Generator) -> None:
    after = changed(forest(rng, 133, 6), [split_forests], rng, rtol=1e-6)
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
    graph = forest(rng, trees, levels, **attributes)
    assert split_forests(graph) is graph


@pytest.mark.parametrize("samples", [1, 7, 8, 29])
def test_parts_are_compiled_as_the_whole(rng: np.random.Generator, samples: int) -> None:
    graph = forest(rng, 133, 6)
    x = rng.standard_normal((samples, FEATURES)).astype(np.float32)
    (expected,) = run_graph(graph, {"x": x})
    (one,) = bessemer.compile(graph).run({"x": x})
    (two,) = bessemer.compile(graph, threads=2).run({"x": x})
    np.testing.assert_allclose(one, expected, rtol=2e-6, atol=2e-6)
    assert one.tobytes() == two.tobytes()


def test_parts_cannot_be_written_to_onnx(rng: np.random.Generator) -> None:
    with pytest.raises(UnsupportedError, match="parts of an ensemble"):
        write_onnx(split_forests(forest(rng, 133, 6)))
