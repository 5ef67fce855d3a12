"""Products that are computed transposed, and what transposes move, laid out once."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.passes.layout.lay_out_once import lay_out_once
from bessemer.compiler.passes.layout.transpose_products import transpose_products
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import Case, N, changed, lines
from tests.planned import planned


def _read_across(batch: Size = 3, permutation: tuple[int, ...] = (0, 2, 1)) -> Graph:
    """transpose(transpose(x) @ y), as the gradient of a transposed operand is."""
    c = Case()
    x, y = c.x(batch, 8, 5), c.x(batch, 8, 7)
    turned = c.of("transpose", x, permutation=(0, 2, 1))
    product = c.of("matmul", turned, y)
    return c.b.finish([c.of("exp", c.of("transpose", product, permutation=permutation))])


@pytest.mark.parametrize("batch", [3, N])
def test_a_product_that_is_read_across_is_turned(batch: Size, rng: np.random.Generator) -> None:
    result = changed(_read_across(batch), [transpose_products, remove_dead], rng, rtol=1e-6)
    assert lines(result)[:-1] == [
        "%2 = transpose(%1, permutation=(0, 2, 1))",
        "%3 = matmul(%2, %0)",
        "%4 = exp(%3)",
    ]


def test_what_moves_other_axes_too_still_does(rng: np.random.Generator) -> None:
    graph = _read_across(permutation=(2, 0, 1))
    result = changed(graph, [transpose_products, remove_dead], rng, rtol=1e-6)
    assert [node.operator.name for node in result.nodes] == [
        "transpose", "matmul", "transpose", "exp",
    ]  # fmt: skip
    assert result.nodes[2].attributes["permutation"] == (1, 0, 2)


def test_of_products_of_turned_products_every_other_is_turned(rng: np.random.Generator) -> None:
    c = Case()
    x, y, z = c.x(3, 8, 5), c.x(3, 8, 7), c.x(3, 5, 4)
    left = x
    for right in (y, z):
        left = c.of("matmul", c.of("transpose", left, permutation=(0, 2, 1)), right)
    graph = c.b.finish([c.of("exp", c.of("transpose", left, permutation=(0, 2, 1)))])
    result = changed(graph, [transpose_products, remove_dead], rng, rtol=1e-6)
    assert lines(result)[:-1] == [
        "%3 = transpose(%1, permutation=(0, 2, 1))",
        "%4 = matmul(%3, %0)",
        "%5 = matmul(%4, %2)",
        "%6 = transpose(%5, permutation=(0, 2, 1))",
        "%7 = exp(%6)",
    ]


def test_a_product_of_one_step_is_turned(rng: np.random.Generator) -> None:
    """The gradient of a weight by a single sample, in the order in which ONNX files have it."""
    c = Case()
    x, dy = c.x(1, 8), c.x(1, 5)
    product = c.of("matmul", c.of("reshape", x, shape=(8, 1)), dy)
    graph = c.b.finish([c.of("exp", c.of("transpose", product, permutation=(1, 0)))])
    result = changed(graph, [transpose_products, simplify, remove_dead], rng, rtol=1e-6)
    assert lines(result)[:-1] == [
        "%2 = reshape(%1, shape=(5, 1))",
        "%3 = matmul(%2, %0)",
        "%4 = exp(%3)",
    ]


def _used_thrice(other: str = "") -> Graph:
    """The gradient of a weight that three inputs meet, in the order in which ONNX files have it."""
    c = Case()
    products = []
    for _ in range(3):
        turned = c.of("transpose", c.x(8, 5), permutation=(1, 0))
        products.append(c.of("matmul", turned, c.x(8, 7)))
    total = c.of("add", products[0], c.x(5, 7) if other == "input" else products[1])
    total = c.of("add", total, products[2])
    across = c.of("exp", c.of("transpose", total, permutation=(1, 0)))
    return c.b.finish([across, *([products[1]] if other == "output" else [])])


def test_sums_of_products_are_turned_whole(rng: np.random.Generator) -> None:
    result = changed(_used_thrice(), [transpose_products, remove_dead], rng, rtol=1e-6)
    names = [node.operator.name for node in result.nodes]
    assert names == ["transpose", "matmul"] * 3 + ["add", "add", "exp"]


@pytest.mark.parametrize("other", ["input", "output"])
def test_sums_of_products_and_something_else_stay(other: str) -> None:
    assert transpose_products(graph := _used_thrice(other)) is graph


def test_a_product_of_flattened_images_is_turned(rng: np.random.Generator) -> None:
    """The gradient of the first dense layer's weight, behind channels that lie last."""
    c = Case()
    images, dy = c.x(8, 2, 3, 4), c.x(8, 7)
    flattened = c.of("transpose", images, permutation=(3, 1, 2, 0))
    product = c.of("matmul", c.of("reshape", flattened, shape=(24, 8)), dy)
    graph = c.b.finish([c.of("exp", c.of("transpose", product, permutation=(1, 0)))])
    result = changed(graph, [transpose_products, remove_dead], rng, rtol=1e-6)
    assert lines(result)[:-1] == [
        "%2 = transpose(%0, permutation=(0, 3, 1, 2))",
        "%3 = reshape(%2, shape=(8, 24))",
        "%4 = transpose(%1, permutation=(1, 0))",
        "%5 = matmul(%4, %3)",
        "%6 = exp(%5)",
    ]


def test_a_product_that_is_a_row_stays(rng: np.random.Generator) -> None:
    c = Case()
    left, y, z = c.x(8, 1), c.x(8, 7), c.x(1, 5)
    for right in (y, z):
        left = c.of("matmul", c.of("transpose", left, permutation=(1, 0)), right)
    graph = c.b.finish([c.of("exp", c.of("transpose", left, permutation=(1, 0)))])
    result = changed(graph, [transpose_products, remove_dead], rng, rtol=1e-6)
    assert lines(result)[:-1] == [
        "%3 = transpose(%0, permutation=(1, 0))",
        "%4 = matmul(%3, %1)",
        "%5 = transpose(%2, permutation=(1, 0))",
        "%6 = matmul(%5, %4)",
        "%7 = exp(%6)",
    ]


def test_products_that_someone_reads_by_rows_stay() -> None:
    assert transpose_products(graph := _read_across(permutation=(1, 0, 2))) is graph
    for reader in ("exp", "output"):
        c = Case()
        turned = c.of("transpose", c.x(3, 8, 5), permutation=(0, 2, 1))
        product = c.of("matmul", turned, c.x(3, 8, 7))
        across = c.of("transpose", product, permutation=(0, 2, 1))
        other = c.of("exp", product) if reader == "exp" else product
        graph = c.b.finish([across, other])
        assert transpose_products(graph) is graph
    c = Case()
    product = c.of("matmul", c.x(3, 5, 8), c.x(3, 8, 7))
    graph = c.b.finish([c.of("transpose", product, permutation=(0, 2, 1))])
    assert transpose_products(graph) is graph, "its left operand would be read across"


def _heads() -> Graph:
    """Heads side by side as the rows of a product, and again for the gradient of its weights."""
    c = Case()
    a, b, w, dy = c.x(2, 4, 32, 24), c.x(2, 4, 24, 16), c.x(64, 48), c.x(64, 48)
    moved = c.of("transpose", c.of("matmul", a, b), permutation=(0, 2, 1, 3))
    again = c.of("reshape", moved, shape=(64, 64))
    rows = c.of("reshape", moved, shape=(2, 32, 64))
    turned = c.of("transpose", again, permutation=(1, 0))
    return c.b.finish([c.of("matmul", rows, w), c.of("matmul", turned, dy)])


def test_what_is_moved_is_laid_out_once(rng: np.random.Generator) -> None:
    graph = _heads()
    result = changed(graph, [lay_out_once], rng)
    assert lines(result)[2:4] == [
        "%6 = reshape(%5, shape=(2, 32, 64))",
        "%7 = reshape(%6, shape=(64, 64))",
    ]
    kernels = kernels_of(planned(graph).program.steps)
    assert not any("copy" in kernel.name for kernel in kernels)
    inputs = {
        v.name: rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs
    }
    a, b, w, dy = (array.astype(np.float64) for array in inputs.values())
    rows = (a @ b).transpose(0, 2, 1, 3).reshape(64, 64)
    exact = (rows @ w).reshape(2, 32, 48), rows.T @ dy
    for found, wanted in zip(bessemer.compile(graph, threads=2).run(inputs), exact, strict=True):
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


def test_one_shape_of_what_is_moved_stays() -> None:
    c = Case()
    moved = c.of("transpose", c.of("exp", c.x(2, 4, 8, 3)), permutation=(0, 2, 1, 3))
    rows = c.of("reshape", moved, shape=(16, 12))
    graph = c.b.finish([c.of("matmul", rows, c.x(12, 5)), c.of("exp", moved)])
    assert lay_out_once(graph) is graph
