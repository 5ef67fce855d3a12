"""Which products of few rows read their right side where it lies."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import For
from bessemer.compiler.ir.types import DType, TensorType, f32, f64
from bessemer.compiler.ir.walk_loops import walk
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
    ("left", "right", "packed"),
    [
        ((5, 128), (35, 128), False),
        ((3, 7, 131), (3, 97, 131), False),
        ((24, 200), (50, 200), False),
        ((25, 200), (50, 200), True),
        ((24, 100), (500, 100), True),  # the sums are too short
    ],
)
def test_few_rows_are_multiplied_by_the_rows_of_a_transposed_matrix(
    left: tuple[int, ...], right: tuple[int, ...], packed: bool, rng: np.random.Generator
) -> None:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(f32, shape)) for name, shape in (("x", left), ("y", right)))
    *batch, depth, columns = range(len(right))
    permutation = (*batch, columns, depth)
    turned = b.apply("transpose", y, permutation=permutation)
    graph = b.finish([b.apply("tanh", b.apply("matmul", x, turned))], ["z"])
    kernels = [step.kernel for step in launches(planned(graph).program.steps)]
    assert any("pack" in kernel.name for kernel in kernels) is packed
    if packed:
        return
    # One load of each factor serves a whole tile of the output.
    (kernel,) = kernels
    sums = max(len(loop.body) for loop in walk(kernel.body) if isinstance(loop, For))
    assert sums > 3 * (min(left[-2], 6) + 4)
    a, c = (rng.standard_normal(shape).astype(np.float32) / 9 for shape in (left, right))
    exact = np.tanh(a.astype(np.float64) @ c.swapaxes(-1, -2))
    (found,) = bessemer.compile(graph, threads=2).run({"x": a, "y": c})
    assert np.abs(found - exact).max() <= 2e-6


def test_a_transposed_matrix_of_several_products_is_packed_once() -> None:
    b = GraphBuilder("products")
    x, y = (b.input(name, TensorType(f32, (n, 256))) for name, n in (("x", 16), ("y", 256)))
    turned = b.apply("transpose", y, permutation=(1, 0))
    graph = b.finish([b.apply("matmul", b.apply("matmul", x, turned), turned)], ["z"])
    names = [step.kernel.name for step in launches(planned(graph).program.steps)]
    assert sum("pack" in name for name in names) == 1


@pytest.mark.parametrize(("is_turned", "most"), [(True, 9), (False, 3)])
def test_rows_are_counted_in_the_run(is_turned: bool, most: int, rng: np.random.Generator) -> None:
    rows, columns = symbol("rows"), symbol("columns")
    depth = 72 if is_turned else symbol("depth")
    b = GraphBuilder("product")
    x = b.input("x", TensorType(f32, (2, rows, depth)))
    y = b.input("y", TensorType(f32, (2, columns, depth) if is_turned else (2, depth, columns)))
    right = b.apply("transpose", y, permutation=(0, 2, 1)) if is_turned else y
    graph = b.finish([b.apply("tanh", b.apply("matmul", x, right))], ["z"])
    packing, in_place = (step.kernel for step in launches(planned(graph).program.steps))
    model = bessemer.compile(graph, threads=2)
    for count, wide in ((1, 6), (3, 9), (7, 9), (9, 3), (10, 70), (0, 3)):
        here = {"rows": count, "columns": wide, "depth": 72}
        assert bool(evaluate_named(packing.parallel_extent, here)) is (count > most)
        assert count == 0 or bool(evaluate_named(in_place.parallel_extent, here)) is (count <= most)
        left, matrix = (
            (rng.standard_normal((2, n, 72)) / 3).astype(np.float32) for n in (count, wide)
        )
        exact = np.tanh(left.astype(np.float64) @ matrix.swapaxes(1, 2))
        given = matrix if is_turned else matrix.swapaxes(1, 2)
        (found,) = model.run({"x": left, "y": np.ascontiguousarray(given)})
        assert found.shape == (2, count, wide)
        assert np.abs(found - exact).max(initial=0) <= 2e-6


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
