"""Loops over rows whose elements lie at different distances are unrolled by the period of these."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.dims import Size, Symbol, atom, floordiv, minimum
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import f32
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.nests.row_periods import vectors_per_period
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.x86 import AVX512
from bessemer.frontends.models_in import as_graph
from tests.compiled_kernels import assembly


def _period(extent: int, numerator: int, denominator: int, last: int = 0) -> int:
    """Of a row of every numerator/denominator-th element, cut off behind the last if there is one;
    vectors have 16 lanes."""
    inner = Symbol("i", extent)
    place: Size = floordiv(numerator * atom(inner) + 1, denominator)
    value = Buffer("x", f32, (4096,))[minimum(place, last) if last else place]
    return vectors_per_period(value, inner, 0, extent, 16)


def test_after_how_many_vectors_distances_are_the_same_again() -> None:
    assert _period(224, 20, 7) == 7
    assert _period(96, 5, 4) == 1
    assert _period(300, 32, 15) == 15
    assert _period(96, 1, 3) == 3
    assert _period(160, 5, 8) == 1


def test_a_short_row_without_a_period_is_unrolled_whole() -> None:
    assert _period(225, 128, 45) == 14
    assert _period(224, 20, 7, last=600) == 14
    assert _period(400, 128, 45) == 0
    assert _period(400, 20, 7, last=1100) == 0


def test_what_needs_no_gathering_stays() -> None:
    assert _period(224, 3, 1) == 0
    assert _period(224, 1, 2) == 0
    assert _period(8, 20, 7) == 0


def _model(mode: str, width: int, *, antialias: bool = False) -> onnx.ModelProto:
    filtered = ", antialias = 1" if antialias else ""
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[1, 2, 20, 160] x) => (float[1, 2, 9, {width}] y)
        <int64[4] sizes = {{1, 2, 9, {width}}}> {{
            y = Resize<mode = "{mode}"{filtered}>(x, , , sizes)
        }}"""
    )


CASES = [
    ("nearest", 64, False), ("nearest", 75, False), ("linear", 56, False), ("linear", 70, False),
    ("cubic", 112, False), ("linear", 64, True), ("cubic", 50, True), ("nearest", 480, False),
    ("linear", 200, False), ("nearest", 256, False),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "width", "antialias"), CASES)
def test_resized_images_are_those_of_the_reference(
    mode: str, width: int, antialias: bool, rng: np.random.Generator
) -> None:
    model = _model(mode, width, antialias=antialias)
    x = rng.standard_normal((1, 2, 20, 160)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (found,) = bessemer.compile(model, cache=False).run({"x": x})
    np.testing.assert_allclose(found, np.asarray(expected), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("mode", "width", "antialias"),
    [("nearest", 64, False), ("linear", 64, True), ("nearest", 240, False)],
)
def test_nothing_is_gathered(mode: str, width: int, antialias: bool) -> None:
    graph = as_graph(_model(mode, width, antialias=antialias))
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    for kernel in kernels_of(build_program(graph, AVX512).steps):
        assert "gather" not in assembly(kernel, AVX512)
