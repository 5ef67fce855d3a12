"""Products whose items pack the panels that they multiply by."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ir.walk_steps import launches
from tests.planned import planned

_Shape = tuple[Size, ...]
TURN = np.array([[0, 1], [-1, 0]], np.float32)
N, M, K, C = map(symbol, ("n", "m", "k", "c"))


def _product(left: _Shape, right: _Shape, turned: bool) -> Graph:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(f32, shape)) for name, shape in (("x", left), ("y", right)))
    if len(right) == 2:
        y = b.apply("matmul", y, b.constant(TURN))  # a single matrix that is no parameter
    if turned:
        y = b.apply("transpose", y, permutation=(0, 2, 1))
    return b.finish([b.apply("relu", b.apply("matmul", x, y))], ["z"])


@pytest.mark.parametrize(
    ("left", "right", "turned"),
    [
        ((N, M, K), (N, K, 40), False),
        ((N, M, 70), (N, C, 70), True),
        ((5, 33, 64), (5, 64, 64), False),
        ((M, 77), (77, 2), False),
    ],
)
def test_panels_of_small_matrices_are_packed_where_they_are_multiplied(
    left: _Shape, right: _Shape, turned: bool, rng: np.random.Generator
) -> None:
    graph = _product(left, right, turned)
    names = [step.kernel.name for step in launches(planned(graph).program.steps)]
    assert not any("pack" in name for name in names)
    model = bessemer.compile(graph, threads=2)
    sizes = [(1, 1, 1, 1), (2, 13, 5, 31), (3, 400, 100, 65), (2, 9, 401, 64), (0, 3, 2, 2)]
    for n, m, k, c in [*sizes, (2, 3, 0, 5)]:
        here = {"n": n, "m": m, "k": k, "c": c}
        x, y = (
            rng.standard_normal([evaluate_named(size, here) for size in shape]).astype(np.float32)
            for shape in (left, right)
        )
        wide = np.swapaxes(y, -1, -2) if turned else y @ TURN if y.ndim == 2 else y
        wanted = np.maximum(x.astype(np.float64) @ wide, 0)
        np.testing.assert_allclose(model.run({"x": x, "y": y})[0], wanted, rtol=1e-4, atol=1e-4)


def test_a_matrix_of_many_rows_is_packed_once() -> None:
    graph = _product((2, 1000, 64), (2, 64, 100), turned=False)
    names = [step.kernel.name for step in launches(planned(graph).program.steps)]
    assert any("pack" in name for name in names)


def test_panels_of_enlarged_images_are_packed_by_runs(rng: np.random.Generator) -> None:
    """Rows of 38 pixels, two for each of 19: a column's place in its row is divided, too."""
    b = GraphBuilder("product")
    w = rng.standard_normal((5, 16)).astype(np.float32)
    image = b.input("x", TensorType(f32, (1, 3, 19, 16)))
    twice = b.apply(
        "resize", image, shape=(1, 6, 38, 16), scales=(1.0, 2.0, 2.0, 1.0), mode="nearest",
        coordinate="asymmetric", nearest="floor",
    )  # fmt: skip
    planes = b.apply("transpose", twice, permutation=(0, 3, 1, 2))
    columns = b.apply("reshape", planes, shape=(1, 16, 6 * 38))
    graph = b.finish([b.apply("matmul", b.constant(w), columns)], ["y"])
    x = rng.standard_normal((1, 3, 19, 16)).astype(np.float32)
    wide = x.repeat(2, axis=1).repeat(2, axis=2).reshape(-1, 16).T.astype(np.float64)
    (got,) = bessemer.compile(graph, threads=1).run({"x": x})
    np.testing.assert_allclose(got[0], w @ wide, rtol=1e-4, atol=1e-4)
