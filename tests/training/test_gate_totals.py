"""Bias gradients of an LSTM, added up by its own kernel, against float64 sums of its outputs."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.passes.sums.total_gate_gradients import total_gate_gradients

STEPS = 5


def _graph(batch: int, hidden: int, reverse: bool = False) -> Graph:
    """The way back through an lstm, and the sums of the gates' gradients."""
    b = GraphBuilder("back")
    shapes = _shapes(batch, hidden)
    given = [b.input(f"x{k}", TensorType(f32, shape)) for k, shape in enumerate(shapes)]
    found, direct, content = b.apply_many("lstm_gradient", *given, reverse=reverse)
    total = b.apply("reduce_sum", found, axes=(0, 1))
    return b.finish([found, direct, content, total], ["found", "direct", "content", "total"])


def _shapes(batch: int, hidden: int) -> list[tuple[int, ...]]:
    state, sequence = (batch, hidden), (STEPS, batch, hidden)
    gates = (STEPS, batch, 4 * hidden)
    return [sequence, (4 * hidden, hidden), state, state, gates, sequence]


def _arrays(batch: int, hidden: int) -> list[Array]:
    rng = np.random.default_rng(3)
    return [
        (0.3 * rng.standard_normal(shape)).astype(np.float32) for shape in _shapes(batch, hidden)
    ]


def _operators(graph: Graph) -> list[str]:
    return [node.operator.name for node in graph.nodes]


@pytest.mark.parametrize(
    ("batch", "hidden", "reverse"),
    [(16, 64, False), (24, 128, True), (5, 96, True), (13, 71, False)],
)
def test_totals_are_the_sums_of_what_was_written(batch: int, hidden: int, reverse: bool) -> None:
    graph = _graph(batch, hidden, reverse)
    assert _operators(total_gate_gradients(graph)) == ["lstm_gradient"]
    given = _arrays(batch, hidden)
    one, two = (bessemer.compile(graph, threads=n).run(given) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a.tobytes() == b.tobytes()
    found, *_, total = one
    np.testing.assert_allclose(total, found.sum((0, 1), np.float64), rtol=2e-5, atol=2e-6)


def test_few_columns_keep_their_own_sum() -> None:
    """Their rows are divided among the threads."""
    graph = _graph(16, 8)
    assert total_gate_gradients(graph) is graph
    found, *_, total = bessemer.compile(graph, threads=2).run(_arrays(16, 8))
    np.testing.assert_allclose(total, found.sum((0, 1), np.float64), rtol=2e-5, atol=2e-6)


def test_a_turned_matrix_whose_size_is_no_multiple_is_not_read_beyond() -> None:
    """Squares are read by whole groups of neighbours only where all of them are there."""
    b = GraphBuilder("transpose")
    x = b.input("x", TensorType(f32, (67, 131)))
    graph = b.finish([b.apply("transpose", x, permutation=(1, 0))], ["y"])
    given = np.random.default_rng(0).standard_normal((67, 131)).astype(np.float32)
    (y,) = bessemer.compile(graph, threads=1).run([given])
    np.testing.assert_array_equal(y, given.T)
