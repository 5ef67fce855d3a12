"""Images that are resized along one axis after the other: which, and equal numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f32, u8
from bessemer.compiler.passes.gathers.resize_by_axes import resize_by_axes
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from tests.pass_runs import N, changed


def _enlarged(*, last: bool, transposed: bool, mode: str, scales: bool = False) -> Graph:
    b = GraphBuilder("g")
    given, wanted = ((N, 3, 4, 5), (N, 3, 8, 15)) if last else ((N, 4, 5, 3), (N, 8, 15, 3))
    x = b.input("x", TensorType(f32, given))
    factors = ((1.0, 1.0, 2.0, 3.0) if last else (1.0, 2.0, 3.0, 1.0)) if scales else ()
    y = b.apply("resize", x, shape=wanted, scales=factors, mode=mode)
    return b.finish([b.apply("transpose", y, permutation=(0, 3, 1, 2)) if transposed else y])


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("transposed", [False, True])
def test_pixels_in_vectors_are_mixed_by_rows(
    transposed: bool, mode: str, scales: bool, rng: np.random.Generator
) -> None:
    graph = _enlarged(last=not transposed, transposed=transposed, mode=mode, scales=scales)
    result = changed(graph, [resize_by_axes, remove_dead], rng, rtol=1e-6)
    shapes = [n.output.type.shape for n in result.nodes if n.operator.name == "resize"]
    assert shapes == [(N, 3, 4, 15), (N, 3, 8, 15)]


@pytest.mark.parametrize(("last", "mode"), [(False, "linear"), (True, "nearest")])
def test_others_stay(last: bool, mode: str, rng: np.random.Generator) -> None:
    graph = _enlarged(last=last, transposed=False, mode=mode)
    assert changed(graph, [resize_by_axes], rng) is graph


def test_integers_are_rounded_once(rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(u8, (1, 2, 5, 6)))
    graph = b.finish([b.apply("resize", x, shape=(1, 2, 10, 12), mode="linear")])
    bytes_ = rng.integers(0, 100, (1, 2, 5, 6)).astype(np.uint8)
    (made,) = bessemer.compile(graph, threads=1, cache=False).run({"x": bytes_})
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    (real,) = ReferenceEvaluator(node).run(
        None, {"x": bytes_.astype(np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    )
    np.testing.assert_array_equal(made, np.rint(real))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_filters_against_aliasing_see_one_axis_at_a_time(
    mode: str, rng: np.random.Generator
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (N, 3, 12, 15)))
    y = b.apply("resize", x, shape=(N, 3, 5, 4), mode=mode, antialias=True)
    result = changed(b.finish([y]), [resize_by_axes], rng, rtol=1e-5)
    assert [node.output.type.shape for node in result.nodes] == [(N, 3, 5, 15), (N, 3, 5, 4)]


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_mixed_before_a_shrinking_image_s_pixels_are_gathered(
    transposed: bool, rng: np.random.Generator
) -> None:
    def shapes(height: int, width: int) -> list[tuple[Size, ...]]:
        b = GraphBuilder("g")
        x = b.input("x", TensorType(f32, (N, 12, 20, 3) if transposed else (N, 3, 12, 20)))
        wanted = (N, height, width, 3) if transposed else (N, 3, height, width)
        y = b.apply("resize", x, shape=wanted, mode="linear")
        graph = b.finish([b.apply("transpose", y, permutation=(0, 3, 1, 2)) if transposed else y])
        result = changed(graph, [resize_by_axes, remove_dead], rng, rtol=1e-5)
        return [n.output.type.shape for n in result.nodes if n.operator.name == "resize"]

    assert shapes(7, 9) == [(N, 3, 7, 20), (N, 3, 7, 9)]
    assert len(shapes(6, 10)) == 1
    assert len(shapes(1, 9)) == 1


@pytest.mark.parametrize("antialias", [False, True])
def test_an_axis_that_a_scale_moves_but_does_not_enlarge_is_resized(
    antialias: bool, rng: np.random.Generator
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (1, 3, 2, 10, 10)))
    scales = (1.0, 1.0, 1.3, 1.3, 1.3)
    shape = (1, 3, 2, 13, 13)
    y = b.apply("resize", x, shape=shape, scales=scales, mode="linear", antialias=antialias)
    changed(b.finish([y]), [resize_by_axes], rng, rtol=1e-5)


@pytest.mark.parametrize("columns", [7, 8])
def test_a_row_may_have_as_many_pixels_as_its_filter_taps(
    columns: int, rng: np.random.Generator
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (7, columns)))
    scales = (0.3, 1.0)  # of eight taps
    y = b.apply("resize", x, shape=(2, columns), scales=scales, mode="linear", antialias=True)
    graph = b.finish([y])
    image = rng.standard_normal((7, columns), np.float32)
    (found,) = bessemer.compile(graph, cache=False).run({"x": image})
    np.testing.assert_allclose(found, run_graph(graph, {"x": image})[0], rtol=1e-5, atol=1e-6)


def test_an_arena_may_be_of_sizes_alone_that_only_the_run_knows() -> None:
    """Axis by axis, what is between them is as large as the input `sizes` says."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 19]>
        agraph (float[1, 1, 4, 4] x, int64[4] sizes) => (float[a, b, c, d] y) {
            y = Resize<mode = "linear", antialias = 1>(x, , , sizes)
        }"""
    )
    feed = {
        "x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4),
        "sizes": np.array([1, 1, 3, 2]),
    }
    (expected,) = ReferenceEvaluator(model).run(None, feed)
    (found,) = bessemer.compile(model, cache=False).run(feed)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-6)
