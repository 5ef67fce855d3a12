"""The smallest and the largest number of a whole array, in parts that threads share."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import DType, TensorType, f32, i32
from bessemer.compiler.passes.sums.split_extrema import FEWEST_NUMBERS, split_extrema
from tests.pass_runs import changed

LARGE = (3, 64, 480)


def _graph(
    name: str = "reduce_max",
    shape: tuple[Size, ...] = LARGE,
    axes: tuple[int, ...] = (0, 1, 2),
    dtype: DType = f32,
) -> Graph:
    b = GraphBuilder("g")
    return b.finish([b.apply(name, b.input("x", TensorType(dtype, shape)), axes=axes)])


@pytest.mark.parametrize("name", ["reduce_min", "reduce_max"])
@pytest.mark.parametrize("dtype", [f32, i32])
def test_extremes_of_a_large_array_are_those_of_its_parts(
    name: str, dtype: DType, rng: np.random.Generator
) -> None:
    result = changed(_graph(name, dtype=dtype), [split_extrema], rng, rtol=0)
    parts, whole = (node for node in result.nodes if node.operator.name == name)
    assert parts.output.type.shape == (16,) and whole.inputs == (parts.output,)


@pytest.mark.parametrize(
    "graph",
    [
        _graph("reduce_sum"),
        _graph(axes=(0, 1)),
        _graph(shape=(FEWEST_NUMBERS - 16,), axes=(0,)),
        _graph(shape=(99991,), axes=(0,)),
        _graph(shape=(symbol("n"), 64, 480)),
    ],
    ids=["sum", "rows", "small", "prime", "symbolic"],
)
def test_others_stay(graph: Graph) -> None:
    assert split_extrema(graph) is graph


@pytest.mark.parametrize("place", [0, 50_000, 92_159])
@pytest.mark.parametrize("number", [7.0, -7.0, np.inf, -np.inf, np.nan])
def test_a_number_is_found_wherever_it_is(
    place: int, number: float, rng: np.random.Generator
) -> None:
    x = rng.uniform(-1, 1, LARGE).astype(np.float32)
    x.flat[place] = number
    for name, extreme in (("reduce_min", np.min), ("reduce_max", np.max)):
        for threads in (1, 2):
            (found,) = bessemer.compile(_graph(name), threads=threads).run({"x": x})
            np.testing.assert_array_equal(found, extreme(x))
