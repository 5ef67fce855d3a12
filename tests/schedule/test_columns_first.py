"""Rows whose elements are looked up at the same places: which are computed columns first."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import TensorType, f32, i64
from bessemer.compiler.options import Options


@pytest.mark.parametrize(
    ("rows", "columns", "places", "is_columns_first"),
    [(200, 1000, 777, True), (8, 1000, 30000, False), (130, 8192, 300, False)],
    ids=["near", "few", "long"],
)
def test_rows_at_places_that_data_gives(
    rows: int, columns: int, places: int, is_columns_first: bool, rng: np.random.Generator
) -> None:
    """Few rows are shared by threads as they are, and long ones leave no room for one another."""
    b = GraphBuilder("looked up")
    x = b.input("x", TensorType(f32, (rows, columns)))
    graph = b.finish([b.apply("gather", x, b.input("i", TensorType(i64, (places,))), axis=1)])
    (kernel,) = kernels_of(build(graph, Options(target="x86_64-avx512")).program.steps)
    text = print_kernel(kernel)
    assert ("for " in text[text.index("vector ") :]) == is_columns_first
    array, at = rng.standard_normal((rows, columns), np.float32), rng.integers(0, columns, places)
    (found,) = bessemer.compile(graph, threads=2, cache=False).run({"x": array, "i": at})
    np.testing.assert_array_equal(found, array[:, at])


@pytest.mark.parametrize("side", [65, symbol("side")], ids=["known", "free"])
def test_channels_of_a_sampled_image_share_its_places(side: Size, rng: np.random.Generator) -> None:
    """Blocks of columns for the threads, the positions read once, whatever they are asked for."""
    b = GraphBuilder("sampled")
    x = b.input("x", TensorType(f32, (1, 3, side, side)))
    grid = b.input("grid", TensorType(f32, (1, side, side, 2)))
    pixels = b.apply("transpose", x, permutation=(0, 2, 3, 1))
    sampled = b.apply("grid_sample", pixels, grid, align_corners=True)
    graph = b.finish([b.apply("transpose", sampled, permutation=(0, 3, 1, 2))])
    (kernel,) = kernels_of(build(graph, Options(target="x86_64-avx512")).program.steps)
    text = print_kernel(kernel)
    assert "for " in text[text.index("vector ") :]
    assert "1024" in text[text.index("parallel ") :]
    assert text.count("in0[") == 2
    image = rng.standard_normal((1, 3, 65, 65), np.float32)
    down, right = np.mgrid[:65, :65] + np.array([3, -2])[:, None, None]
    places = np.stack([right, down], -1)[None] / np.float32(32) - 1
    (found,) = bessemer.compile(graph, threads=2, cache=False).run(
        {"x": image, "grid": places.astype(np.float32)}
    )
    expected = np.zeros_like(image)
    expected[:, :, :-3, 2:] = image[:, :, 3:, :-2]
    np.testing.assert_array_equal(found, expected)


def test_positions_of_pixels_fill_vectors_where_channels_lie_side_by_side(
    rng: np.random.Generator,
) -> None:
    """Three channels would be computed at once, and their position for each pixel by itself."""
    b = GraphBuilder("sampled")
    x = b.input("x", TensorType(f32, (1, 8, 8, 3)))
    grid = b.input("grid", TensorType(f32, (1, 40, 32, 2)))
    graph = b.finish([b.apply("grid_sample", x, grid, align_corners=True, padding="border")])
    (kernel,) = kernels_of(build(graph, Options(target="x86_64-avx512")).program.steps)
    text = print_kernel(kernel)
    assert " in 0..1280 by 16" in text
    image = rng.standard_normal((1, 8, 8, 3), np.float32)
    places = rng.integers(0, 8, (2, 40, 32))
    at = np.stack([places[1], places[0]], -1)[None] / np.float32(3.5) - 1
    (found,) = bessemer.compile(graph, threads=2, cache=False).run(
        {"x": image, "grid": at.astype(np.float32)}
    )
    np.testing.assert_allclose(found[0], image[0, places[0], places[1]], rtol=0, atol=1e-5)
