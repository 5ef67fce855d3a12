"""gather, scatter, sorting and scans mean what the ONNX operators mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import Array
from tests.onnx_nodes import run_node


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def check(
    ours: str, theirs: str, arrays: list[Array], ours_has: dict[str, Any], **has: Any
) -> None:
    """Our operator's reference on the arrays against ONNX Runtime's node, all outputs."""
    results = OPS[ours].compute(arrays, ours_has)
    expected = run_node(theirs, arrays, outputs=len(results), **has)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-6, atol=1e-6)
        assert result.dtype == wanted.dtype


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(rng: np.random.Generator, axis: int) -> None:
    arrays = [normal(rng, 3, 4, 5), np.array([[0, -1], [2, -3]])]
    check("gather", "Gather", arrays, {"axis": axis}, axis=axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements(rng: np.random.Generator, axis: int) -> None:
    arrays = [normal(rng, 3, 4, 5), rng.integers(-3, 3, (2, 3, 4))]
    check("gather_elements", "GatherElements", arrays, {"axis": axis}, axis=axis)


@pytest.mark.parametrize("batch_dims,depth", [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)])
def test_gather_nd(rng: np.random.Generator, batch_dims: int, depth: int) -> None:
    arrays = [normal(rng, 2, 3, 4), rng.integers(-2, 2, (2, 3, depth))]
    check("gather_nd", "GatherND", arrays, {"batch_dims": batch_dims}, batch_dims=batch_dims)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_hot(axis: int) -> None:
    indices, values = np.array([[0, 5, -1], [-7, 6, -8]]), np.array([2.5, -1], np.float32)
    (ours,) = OPS["one_hot"].compute([indices, values], {"depth": 7, "axis": axis})
    (theirs,) = run_node("OneHot", [indices, np.array(7), values], axis=axis)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scatter_elements(rng: np.random.Generator, axis: int, reduction: str) -> None:
    shape = (2, 3, 3)
    # Without a reduction, an order of writing would be a promise ONNX does not make.
    places = (
        np.argsort(rng.random(shape), axis=axis)
        if reduction == "none"
        else rng.integers(-3, 3, shape)
    )
    arrays = [normal(rng, 3, 3, 3), places, normal(rng, *shape)]
    attributes = {"axis": axis, "reduction": reduction}
    check("scatter_elements", "ScatterElements", arrays, attributes, **attributes)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(rng: np.random.Generator, depth: int, reduction: str) -> None:
    places = rng.integers(-3, 3, (2, 2, depth))
    if reduction == "none":
        places = np.tile(np.array([[[0], [1]], [[2], [-1]]]), depth)
    arrays = [normal(rng, 4, 4, 4), places, normal(rng, 2, 2, *(4,) * (3 - depth))]
    check("scatter_nd", "ScatterND", arrays, {"reduction": reduction}, reduction=reduction)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2)])
def test_nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    check("nonzero", "NonZero", [rng.integers(0, 2, shape).astype(np.float32)], {"symbol": "n"})


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k(rng: np.random.Generator, k: int, largest: bool) -> None:
    x = rng.integers(0, 4, (3, 8, 2)).astype(np.float32)
    attributes = {"k": k, "axis": 1, "largest": largest}
    values, indices = OPS["top_k"].compute([x], attributes)
    expected = run_node("TopK", [x, np.array([k])], outputs=2, axis=1, largest=int(largest))
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


@pytest.mark.parametrize("ordered", [False, True])
def test_unique_elements(rng: np.random.Generator, ordered: bool) -> None:
    x = rng.integers(-3, 3, 17).astype(np.float32)
    check("unique", "Unique", [x], {"symbol": "n", "ordered": ordered}, sorted=int(ordered))


@pytest.mark.parametrize("ordered", [False, True])
def test_unique_rows(rng: np.random.Generator, ordered: bool) -> None:
    x = rng.integers(0, 2, (9, 3)).astype(np.float32)
    attributes = {"symbol": "n", "ordered": ordered}
    check("unique", "Unique", [x], attributes, sorted=int(ordered), axis=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_cumulative(rng: np.random.Generator, axis: int, exclusive: bool, reverse: bool) -> None:
    x = normal(rng, 4, 5)
    attributes = {"axis": axis, "exclusive": exclusive, "reverse": reverse}
    (ours,) = OPS["cumulative"].compute([x], attributes)
    (theirs,) = run_node(
        "CumSum", [x, np.array(axis)], exclusive=int(exclusive), reverse=int(reverse)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("limit", [2, 50])
def test_non_max_suppression(rng: np.random.Generator, limit: int, center: bool) -> None:
    boxes = rng.random((2, 40, 4)).astype(np.float32)
    scores = np.round(rng.random((2, 3, 40)), 1).astype(np.float32)
    overlap, score = np.array([0.3], np.float32), np.array([0.25], np.float32)
    (ours,) = OPS["non_max_suppression"].compute(
        [boxes, scores, overlap[0], score[0]], {"limit": limit, "center": center, "symbol": "n"}
    )
    (theirs,) = run_node(
        "NonMaxSuppression",
        [boxes, scores, np.array([limit]), overlap, score],
        center_point_box=int(center),
    )
    np.testing.assert_array_equal(ours, theirs)
    assert 0 < len(ours) < 240
