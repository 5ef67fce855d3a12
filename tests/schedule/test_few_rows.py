"""Which products of few rows read their right side where it lies."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import DType, TensorType, f32, f64
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.schedule.grouping.few_rows import reads_in_place
from tests.planned import planned


@pytest.mark.parametrize(
    ("left", "right", "few"),
    [
        ((4, 1, 64), (4, 64, 512), True),
        ((4, 200, 64), (4, 64, 512), False),
        # All rows of a batch read the one matrix: steps of a sequence, with a few rows each.
        ((100, 16, 256), (256, 1024), False),
        ((100, 16, 256), (1, 256, 1024), False),
        ((2, 3, 2, 64), (3, 64, 256), True),
        ((60, 3, 2, 64), (3, 64, 256), False),
        ((1, 8, 64), (1, 64, 100), True),
        ((1, 8, 64), (1, 64, 512), False),
    ],
)
def test_rows_of_batches_that_share_a_matrix_count(
    left: tuple[int, ...], right: tuple[int, ...], few: bool
) -> None:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(f32, shape)) for name, shape in (("x", left), ("y", right)))
    graph = b.finish([b.apply("matmul", x, y)], ["z"])
    assert reads_in_place(graph.nodes[0]) is few


def _product(left: tuple[int, ...], right: tuple[int, ...], dtype: DType = f32) -> Graph:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(dtype, shape)) for name, shape in (("x", left), ("y", right)))
    return b.finish([b.apply("tanh", b.apply("matmul", x, y))], ["z"])


@pytest.mark.parametrize(
    ("left", "right", "dtype"),
    [
        ((64, 784), (784, 512), f32),  # depth blocks of 196
        ((17, 300), (300, 320), f32),
        ((2, 64, 392), (2, 392, 512), f32),
        ((100, 77), (77, 2048), f32),
        ((33, 130), (130, 512), f64),
    ],
)
def test_tiles_of_some_rows_read_the_rows_of_a_matrix(
    left: tuple[int, ...], right: tuple[int, ...], dtype: DType, rng: np.random.Generator
) -> None:
    graph = _product(left, right, dtype)
    steps = launches(planned(graph).program.steps)
    assert not any("pack" in step.kernel.name for step in steps)
    x, y = (rng.standard_normal(shape).astype(dtype.numpy) / 9 for shape in (left, right))
    exact = np.tanh(x.astype(np.float64) @ y)
    for threads in (1, 2):
        (found,) = bessemer.compile(graph, threads=threads).run({"x": x, "y": y})
        assert np.abs(found - exact).max() <= 2e-6


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((200, 784), (784, 512)),  # the panels are read often enough
        ((64, 784), (784, 500)),  # the last panel would end in the next row
        ((64, 128), (128, 256)),  # packed in no time
        ((64, 128), (128, 8192)),  # rows so far apart that few fit into a cache
    ],
)
def test_other_matrices_are_packed(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    steps = launches(planned(_product(left, right)).program.steps)
    assert any("pack" in step.kernel.name for step in steps)


_SHAPES = {"x": (64, 300), "y": (300, 512)}


@pytest.mark.parametrize("operator", ["relu", "cast"])
def test_a_matrix_that_is_computed_as_it_is_packed_lies_nowhere(
    operator: str, rng: np.random.Generator
) -> None:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(f64, shape)) for name, shape in _SHAPES.items())
    y = b.apply("relu", y) if operator == "relu" else b.apply("cast", y, dtype=f32)
    x = x if operator == "relu" else b.apply("cast", x, dtype=f32)
    graph = b.finish([b.apply("matmul", x, y)], ["z"])
    assert any("pack" in step.kernel.name for step in launches(planned(graph).program.steps))
    left, right = (rng.standard_normal(shape) / 9 for shape in _SHAPES.values())
    exact = left @ (np.maximum(right, 0) if operator == "relu" else right)
    (found,) = bessemer.compile(graph, threads=2).run({"x": left, "y": right})
    assert np.abs(found - exact).max() <= 2e-6
