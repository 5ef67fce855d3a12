"""How a product's rows are cut into blocks where only the run knows their number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from benchmarks.contraction_axes import product_axes
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.loops import FragmentMac
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.contraction.cuts import dealt, panel_of
from bessemer.compiler.schedule.contraction.tiles import plan
from bessemer.compiler.targets import x86
from tests.schedule.contraction_cases import Product, prepare


@pytest.mark.parametrize("count", [1, 2, 16, 17, 33, 100])
def test_parts_are_about_as_large_as_each_other(count: int) -> None:
    for number in range(1, min(count, 5) + 1):
        sizes_of_parts = [dealt(count, number, place) for place in range(number)]
        parts = [[evaluate_named(size, {}) for size in part] for part in sizes_of_parts]
        assert [first for first, _ in parts] == [0, *np.cumsum([size for _, size in parts])[:-1]]
        sizes = [size for _, size in parts]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1


def test_a_narrow_last_panel_is_the_first_of_the_longer_half() -> None:
    for panels, wanted in ((4, [0, 1, 2, 3]), (5, [4, 0, 1, 2, 3])):
        order = [panel_of(item, panels, True) for item in range(panels)]
        assert order == wanted
        assert [panel_of(item + panels, panels, True) for item in range(panels)] == wanted
    assert [panel_of(item, 3, False) for item in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "columns", "blocks"), [(128, 128, [10, 5]), (126, 128, [9, 9]), (128, 1280, [10, 10])]
)
def test_two_threads_share_the_rows_of_near_weights(
    rows: int, columns: int, blocks: list[int], rng: np.random.Generator
) -> None:
    """Unless their shares of the tiles, or the weights, are too large: then they share columns."""
    contraction = prepare(Product(rows, columns, 128), rng).contraction
    assert [plan(contraction, x86.AVX512, threads).block for threads in (1, 2)] == blocks


@pytest.mark.parametrize(
    ("rows", "height"), [(49, 7), (16, 8), (100, 10), (196, 14), (50, 10), (5, 14)]
)
def test_small_images_of_any_number_are_cut_evenly(
    rows: int, height: int, rng: np.random.Generator
) -> None:
    axes, depth = product_axes((), rows * symbol("n"), 512)
    known = prepare(Product(64, 1024, 512), rng).contraction
    contraction = replace(known, rows=axes, depth=depth)
    assert plan(contraction, x86.AVX512).height == height
    assert plan(contraction, x86.AVX2).height == 6


def test_few_columns_are_shared_by_their_rows(rng: np.random.Generator) -> None:
    b = GraphBuilder("product")
    x = b.input("x", TensorType(f32, (symbol("n"), 64)))
    w = rng.standard_normal((64, 32)).astype(np.float32)
    made = build(b.finish([b.apply("matmul", x, b.constant(w))]), Options())
    (kernel,) = [step.kernel for step in made.program.steps if isinstance(step, Launch)]
    assert evaluate_named(kernel.parallel_extent, {"n": 140}) >= 4
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    for rows in (0, 1, 13, 140, 1001):
        given = rng.standard_normal((rows, 64)).astype(np.float32)
        wanted = given.astype(np.float64) @ w
        np.testing.assert_allclose(model.run({"x": given})[0], wanted, rtol=1e-4, atol=1e-4)


def test_the_rows_of_a_tile_are_at_known_distances(rng: np.random.Generator) -> None:
    """Of steps by batches, whose steps are neighbours in memory, a batch of one has only steps."""
    b = GraphBuilder("product")
    x = b.input("x", TensorType(f32, (symbol("batch"), symbol("steps"), 16)))
    w = rng.standard_normal((16, 32)).astype(np.float32)
    by_steps = b.apply("transpose", x, permutation=(1, 0, 2))
    made = build(b.finish([b.apply("matmul", by_steps, b.constant(w))]), Options())
    (kernel,) = [step.kernel for step in made.program.steps if isinstance(step, Launch)]
    rows = [part.a_offsets for part in walk(kernel.body) if isinstance(part, FragmentMac)]
    assert any(len(tile) > 8 for tile in rows)
    assert all(isinstance(row - tile[0], int) for tile in rows for row in tile)
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    for batch, steps in ((1, 33), (3, 17), (7, 1), (2, 0)):
        given = rng.standard_normal((batch, steps, 16)).astype(np.float32)
        wanted = given.astype(np.float64).transpose(1, 0, 2) @ w
        np.testing.assert_allclose(model.run({"x": given})[0], wanted, rtol=1e-4, atol=1e-4)
