"""Gathers at evenly spaced places as views: which, and equal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.passes.gathers.gather_windows import gather_windows
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from tests.onnxruntime_sessions import session_of
from tests.pass_runs import N, changed


def _gathered(length: Size, places: object, axis: int = 1) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, length, 3)))
    return b.finish([b.apply("gather", x, b.constant(np.array(places, np.int64)), axis=axis)])


@pytest.mark.parametrize(
    "places", [[[0, 2, 4], [1, 3, 5]], [[[7]], [[5]], [[3]]], [3, 5, 7], [[4, 4], [5, 5]]]
)
def test_even_places_are_views(places: list[object], rng: np.random.Generator) -> None:
    graph = _gathered(8, places)
    result = changed(graph, [gather_windows, remove_dead], rng)
    is_even = not isinstance(places[0], list) or places[0] != [[7]]
    assert [n.operator.name for n in result.nodes] == ["windows" if is_even else "gather"]


@pytest.mark.parametrize("places", [[[0, 1], [1, 3]], [[-1, 0], [0, 1]], [[0, 1], [1, 2], [2, 4]]])
def test_others_stay(places: list[object], rng: np.random.Generator) -> None:
    graph = _gathered(8, places)
    assert changed(graph, [gather_windows], rng) is graph


@pytest.mark.parametrize(("more", "name"), [(4, "windows"), (3, "gather")])
def test_places_that_are_counted(more: int, name: str, rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, N, 3)))
    border = {"low": (0, 2, 0), "high": (0, more - 2, 0), "mode": "constant", "value": 0}
    x = b.apply("pad", x, **border)
    counted = b.apply("iota", shape=(N,), axis=0, dtype=i64)
    counted = b.apply("broadcast_to", counted, shape=(5, N))
    taps = b.apply("broadcast_to", b.constant(np.arange(5)[:, None]), shape=(5, N))
    y = b.apply("gather", x, b.apply("add", counted, taps), axis=1)
    graph = b.finish([y])
    if name == "gather":
        assert gather_windows(graph) is graph
        return
    result = changed(graph, [gather_windows, remove_dead], rng)
    assert [n.operator.name for n in result.nodes] == ["pad", name]


def _unfolded() -> ModelProto:
    """Windows of 3x3 at steps of 2 as torch's exporter writes them, times a matrix."""
    rng = np.random.default_rng(1)
    rows = (np.arange(3)[:, None] + 2 * np.arange(6)[None]).astype(np.int64)
    columns = (np.arange(3)[:, None] + 2 * np.arange(4)[None]).astype(np.int64)
    constants: dict[str, Array] = {
        "rows": rows,
        "columns": columns,
        "shape": np.array([0, 5 * 9, 24], np.int64),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "w": rng.standard_normal((7, 45)).astype(np.float32),
    }
    nodes: list[NodeProto] = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Gather", ["padded", "rows"], ["by_rows"], axis=2),
        helper.make_node("Gather", ["by_rows", "columns"], ["windows"], axis=4),
        helper.make_node("Transpose", ["windows"], ["transposed"], perm=[0, 1, 2, 4, 3, 5]),
        helper.make_node("Reshape", ["transposed", "shape"], ["flat"]),
        helper.make_node("MatMul", ["w", "flat"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 11, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_windows_of_an_image_are_onnxruntimes(rng: np.random.Generator) -> None:
    model = _unfolded()
    x = rng.standard_normal((2, 5, 11, 7)).astype(np.float32)
    (expected,) = session_of(model).run(None, {"x": x})
    (result,) = bessemer.compile(model, cache=False).run({"x": x})
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
