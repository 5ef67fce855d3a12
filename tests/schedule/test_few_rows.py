"""Which products of few rows read their right side where it lies."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.evaluate import evaluate_named
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
    (found,) = bessemer.compile(graph, threads=2).run({"x": x, "y": y})
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


def test_products_of_free_sizes_are_read_in_place_if_the_run_finds_few_rows_or_steps(
    rng: np.random.Generator,
) -> None:
    m, k, n = map(symbol, ("m", "k", "n"))
    b = GraphBuilder("product")
    x, y, z = (
        b.input(name, TensorType(f32, shape))
        for name, shape in (("x", (m, k)), ("y", (k, n)), ("z", (m, n)))
    )
    graph = b.finish([b.apply("add", b.apply("matmul", x, y), z)], ["out"])
    steps = [*launches(planned(graph).program.steps)]
    assert len(steps) == 3
    pack, packed, in_place = (step.kernel for step in steps)
    model = bessemer.compile(graph, threads=2)
    for rows, depth, columns, small in _SIZES:
        here = {"m": rows, "k": depth, "n": columns}
        for kernel, runs in ((pack, not small), (packed, not small), (in_place, small)):
            assert bool(evaluate_named(kernel.parallel_extent, here)) is runs
        left, right, more = (
            rng.standard_normal(shape).astype(np.float32) / 9
            for shape in ((rows, depth), (depth, columns), (rows, columns))
        )
        (found,) = model.run({"x": left, "y": right, "z": more})
        exact = left.astype(np.float64) @ right + more
        np.testing.assert_allclose(found, exact, atol=2e-6)


_SIZES = [
    (1, 500, 130, True),
    (24, 1100, 64, True),
    (7, 0, 200, True),
    (25, 9, 65, False),
    (3, 40, 63, False),
    (100, 8, 3000, True),
    (40, 1, 77, True),
]

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
