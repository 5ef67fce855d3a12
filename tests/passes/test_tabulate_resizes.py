"""Which images are resized by tables of positions, and equal numbers."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import DType, TensorType, f16, f32, i32, u8
from bessemer.compiler.ops.image.resize_position import COORDINATES
from bessemer.compiler.passes.gathers.resize_as_floats import resize_as_floats
from bessemer.compiler.passes.gathers.tabulate_resizes import tabulate_resizes
from bessemer.compiler.passes.precision.compute_half_wide import compute_half_wide
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import N, changed

_H = dims.symbol("h")
_W = dims.symbol("w")


def _free(
    mode: str, coordinate: str = "half_pixel", dtype: DType = f32, *, transposed: bool = False
) -> Graph:
    b = GraphBuilder("g")
    b.input("like", TensorType(f32, (_H, _W)))
    x = b.input("x", TensorType(dtype, (2, N, 5, 3)))
    y = b.apply("resize", x, shape=(2, _H, _W, 3), mode=mode, coordinate=coordinate)
    return b.finish([b.apply("transpose", y, permutation=(0, 3, 1, 2)) if transposed else y])


def _operators(graph: Graph) -> list[str]:
    return [node.operator.name for node in graph.nodes]


@pytest.mark.parametrize("coordinate", [c for c in COORDINATES if not c.startswith("tf_")])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_free_sizes_are_looked_up(mode: str, coordinate: str, rng: np.random.Generator) -> None:
    result = changed(_free(mode, coordinate), [tabulate_resizes], rng, rtol=1e-6)
    assert _operators(result).count("mix_neighbours") == 2


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_pixels_are_side_by_side_before_they_are_resized(
    mode: str, rng: np.random.Generator
) -> None:
    graph = _free(mode, transposed=True)
    result = changed(graph, [tabulate_resizes, simplify, remove_dead], rng, rtol=1e-6)
    shapes = [n.output.type.shape for n in result.nodes if n.operator.name == "mix_neighbours"]
    assert shapes == [(2, 3, _H, 5), (2, 3, _H, _W)]
    assert _operators(result).count("transpose") == 1


@pytest.mark.parametrize("dtype", [u8, f16])
def test_pixels_that_are_rounded_and_then_moved_are_side_by_side_too(
    dtype: DType, rng: np.random.Generator
) -> None:
    """Also where another reader of theirs is dead."""
    passes = [compute_half_wide, resize_as_floats, tabulate_resizes]
    result = changed(_free("linear", dtype=dtype, transposed=True), passes, rng, rtol=1e-3)
    shapes = [n.output.type.shape for n in result.nodes if n.operator.name == "mix_neighbours"]
    assert shapes == [(2, 3, _H, 5), (2, 3, _H, _W)]


@pytest.mark.parametrize(
    "graph",
    [_free("linear", "tf_crop_and_resize"), _free("linear", dtype=i32)],
    ids=["crop", "integers"],
)
def test_others_stay(graph: Graph) -> None:
    assert tabulate_resizes(graph) is graph


@pytest.mark.parametrize(("mode", "dtype"), [("linear", u8), ("linear", i32), ("cubic", i32)])
def test_integers_are_mixed_as_floats(mode: str, dtype: DType, rng: np.random.Generator) -> None:
    graph = changed(_free(mode, dtype=dtype), [resize_as_floats, tabulate_resizes], rng)
    assert _operators(graph).count("mix_neighbours") == 2
    assert _operators(graph)[-2:] == ["round", "cast"]


def test_integers_that_are_not_mixed_stay() -> None:
    graph = _free("nearest", dtype=i32)
    assert resize_as_floats(graph) is graph


@pytest.mark.parametrize(("dtype", "outside"), [(u8, 0.7), (i32, -2.7), (i32, 2.0**24 + 1)])
def test_integers_outside_of_a_region_are_not_rounded(dtype: DType, outside: float) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, (4, 4)))
    given = {"roi": (0.0, 0.0, 1.0, 2.0), "extrapolation": outside}
    y = b.apply("resize", x, shape=(4, 4), mode="linear", coordinate="tf_crop_and_resize", **given)
    rows = np.arange(0, 64, 4, dtype=dtype.numpy).reshape(4, 4)
    (found,) = bessemer.compile(b.finish([y]), cache=False).run({"x": rows})
    beyond = np.full((4, 2), int(outside), dtype.numpy)
    np.testing.assert_array_equal(found, np.concatenate([rows[:, [0, 2]], beyond], 1))


def test_rows_are_mixed_first_unless_there_will_be_more(rng: np.random.Generator) -> None:
    def axes_of(shape: tuple[dims.Size, ...], scales: tuple[float, ...] = ()) -> list[int]:
        b = GraphBuilder("g")
        b.input("like", TensorType(f32, (_H, _W)))
        x = b.input("x", TensorType(f32, (3, N, dims.symbol("m"))))
        y = b.apply("resize", x, shape=shape, scales=scales, mode="linear")
        graph = changed(b.finish([y]), [tabulate_resizes], rng, rtol=1e-6)
        return [n.attributes["axis"] for n in graph.nodes if n.operator.name == "mix_neighbours"]

    assert axes_of((3, _H, _W)) == [1, 2]
    assert axes_of((3, _H, _W), (1.0, 0.3, 1.3)) == [1, 2]
    assert axes_of((3, _H, _W), (1.0, 1.2, 1.3)) == [2, 1]
    assert axes_of((3, N + 3, dims.symbol("m") + 5)) == [2, 1]


@pytest.mark.parametrize(
    ("mode", "coordinate"), [("linear", "half_pixel"), ("cubic", "align_corners")]
)
def test_rows_of_pixels_that_are_known_to_become_longer_are_looked_up(
    mode: str, coordinate: str, rng: np.random.Generator
) -> None:
    """Also where a transpose puts pixels side by side, or there is one channel behind them."""

    def looks_up(
        shape: tuple[dims.Size, ...], size: dims.Size, axis: int, *, transposed: bool = False
    ) -> bool:
        b = GraphBuilder("g")
        new = (*shape[:axis], size, *shape[axis + 1 :])
        x = b.input("x", TensorType(f32, shape))
        y = b.apply("resize", x, shape=new, mode=mode, coordinate=coordinate)
        graph = b.finish([b.apply("transpose", y, permutation=(0, 2, 1)) if transposed else y])
        passes = [tabulate_resizes, simplify]
        return "mix_neighbours" in _operators(changed(graph, passes, rng, rtol=1e-6))

    assert looks_up((2, 3, 5), 12, 2)
    assert looks_up((2, 5, 1), 7, 1)
    assert looks_up((2, 3, N), 2 * N, 2)
    assert looks_up((2, 5, 3), 12, 1, transposed=True)
    assert not looks_up((2, 5, 3), 12, 1)
    assert not looks_up((2, 3, 12), 5, 2)


def test_known_sizes_and_multiples_stay() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (1, 3, N, 5)))
    y = b.apply("resize", x, shape=(1, 3, 2 * N, 7), mode="linear")
    graph = b.finish([y])
    assert tabulate_resizes(graph) is graph


def test_multiples_are_looked_up_where_corners_are_aligned(rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (1, 3, N, 5)))
    y = b.apply("resize", x, shape=(1, 3, 2 * N, 7), mode="linear", coordinate="align_corners")
    result = changed(b.finish([y]), [tabulate_resizes], rng, rtol=1e-6)
    assert _operators(result).count("mix_neighbours") == 2


@pytest.mark.parametrize(
    ("mode", "dtype"), [("nearest", f32), ("nearest", u8), ("linear", f32), ("cubic", f32)]
)
@pytest.mark.parametrize("target", ["native", "x86_64-avx2"])
def test_near_and_far_pixels_are_looked_up(
    mode: str, dtype: DType, target: str, rng: np.random.Generator
) -> None:
    """Neighbours of a vector's pixels lie within one vector, two, four, or further apart."""
    b = GraphBuilder("g")
    b.input("like", TensorType(f32, (_H, _W)))
    x = b.input("x", TensorType(dtype, (3, N, dims.symbol("m"))))
    graph = b.finish([b.apply("resize", x, shape=(3, _H, _W), mode=mode)])
    model = bessemer.compile(graph, target=target, cache=False)
    sizes = [(9, 40), (40, 40), (100, 57), (70, 33), (200, 60), (300, 64), (1, 35), (64, 1)]
    for rows, (size, resized) in itertools.product((1, 5, 40), sizes):
        feed = {"like": np.zeros((7, resized), np.float32)}
        pixels = rng.standard_normal((3, rows, size), np.float32) * 50
        feed["x"] = (pixels + 100).astype(dtype.numpy)
        (found,) = model.run(feed)
        np.testing.assert_allclose(found, run_graph(graph, feed)[0], rtol=1e-5, atol=1e-3)


def _model(attributes: str, x: str = "float[1, 3, a, b]", scales: str = "") -> onnx.ModelProto:
    call = "Resize<%s>(x, , scales)" if scales else "Resize<%s>(x, , , all)"
    sizes = "" if scales else "two = Constant<value_ints = [1, 3]>() all = Concat<axis = 0>(two, s)"
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph ({x} x{"" if scales else ", int64[2] s"}) => (float[c, d, e, f] y)
        {f"<float[4] scales = {{{scales}}}>" if scales else ""} {{
            {sizes}
            y = {call % attributes}
        }}"""
    )


@pytest.mark.parametrize(
    "attributes",
    [
        'mode = "linear"',
        'mode = "linear", coordinate_transformation_mode = "align_corners"',
        'mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"',
        'mode = "cubic"',
        'mode = "cubic", cubic_coeff_a = -0.5, coordinate_transformation_mode = "align_corners"',
        'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
    ],
)
def test_compiled_images_are_those_of_onnxruntime(
    attributes: str, rng: np.random.Generator
) -> None:
    model = _model(attributes)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    compiled = bessemer.compile(model, cache=False)
    for sizes in ((14, 21), (5, 20), (3, 2), (1, 1), (7, 9)):
        feed = {"x": rng.standard_normal((1, 3, 7, 9), np.float32), "s": np.array(sizes)}
        (wanted,) = session.run(None, feed)
        np.testing.assert_allclose(compiled.run(feed)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [1.3, 0.7])
def test_given_scales_of_free_images(factor: float, rng: np.random.Generator) -> None:
    """The sizes are rounded down, so that the scales say where pixels lie."""
    model = _model('mode = "linear"', scales=f"1.0, 1.0, {factor}, {factor}")
    feed = {"x": rng.standard_normal((1, 3, 7, 9), np.float32)}
    (expected,) = ReferenceEvaluator(model).run(None, feed)
    (found,) = bessemer.compile(model, cache=False).run(feed)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5, atol=1e-5)


def test_no_pixels_are_resized_to_none(rng: np.random.Generator) -> None:
    model = _model('mode = "linear"')
    feed = {"x": np.zeros((1, 3, 4, 4), np.float32), "s": np.array([0, 5])}
    (found,) = bessemer.compile(model, cache=False).run(feed)
    assert found.shape == (1, 3, 0, 5)
