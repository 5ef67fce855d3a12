"""First layers in bfloat16 whose windows are widened to whole rows of a matrix unit's tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, bf16, f32
from bessemer.compiler.options import Options
from bessemer.compiler.passes.convolution.fill_tile_rows import fill_tile_rows
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.amx_emulation import counts, emulator, needs_emulator, reset
from tests.pass_runs import lines
from tests.schedule.test_matrix_tiles_networks import Sketch, error, loaded, runs_to, uses_tiles


def first_layer(dtype: Any, taps: int, stride: int, pads: int) -> Sketch:
    net = Sketch((1, 3, 28, 30), dtype)
    weight = net.weights(32, 3, taps, taps)
    net.add("Conv", weight, net.weights(32), pads=[pads] * 4, strides=[stride] * 2)
    net.add("Relu")
    return net


def compiled(taps: int, stride: int, pads: int) -> Compilation:
    model = first_layer(np.float32, taps, stride, pads).model()
    return build(read_onnx(model), Options(target="x86_64-amx", precision="bfloat16", verify=True))


@needs_emulator
@pytest.mark.parametrize(
    ("taps", "stride", "pads"),
    [
        (7, 2, 3),
        pytest.param(8, 1, 0, marks=pytest.mark.slow),
        pytest.param(5, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_convolution(taps: int, stride: int, pads: int) -> None:
    emulator()
    made = compiled(taps, stride, pads)
    assert uses_tiles(made) == 1
    x = np.random.default_rng(5).standard_normal((1, 3, 28, 30)).astype(np.float32)
    exact = ReferenceEvaluator(first_layer(np.float64, taps, stride, pads).model())
    (expected,) = exact.run(None, {"x": x.astype(np.float64)})
    reset()
    result = runs_to(loaded(made), x)
    assert counts()["product"] > 0 and result.shape == np.shape(expected)
    assert error(result, np.asarray(expected)) < 5e-3


def _graph(shape: tuple[int, ...], weight: tuple[int, ...]) -> Graph:
    b = GraphBuilder("first")
    x = b.input("x", TensorType(bf16, shape))
    padded = b.apply("pad", x, low=(0, 0, 1, 2), high=(0, 0, 1, 2), mode="constant", value=0)
    w = b.constant(np.ones(weight, bf16.numpy), "w")
    y = b.apply("transpose", padded, permutation=(0, 2, 3, 1))
    none = (0, 0)
    y = b.apply(
        "conv", y, w, strides=(1, 1), dilations=(1, 1), low=none, high=none, groups=1, dtype=f32
    )
    return b.finish([y])


def test_images_that_were_padded_plane_by_plane_are_padded_once() -> None:
    graph = fill_tile_rows(_graph((1, 3, 30, 30), (5, 5, 3, 32)))
    assert any("high=(0, 1, 5, 1)" in line and "low=(0, 1, 2, 0)" in line for line in lines(graph))
    assert lines(fill_tile_rows(graph)) == lines(graph)


def test_others_stay_as_they_are() -> None:
    for shape, weight in (
        ((1, 3, 30, 30), (3, 3, 3, 32)),  # short rows
        ((1, 16, 30, 30), (5, 5, 16, 32)),  # many channels
        ((1, 3, 30, 30), (5, 5, 3, 8)),  # few outputs
        ((1, 3, 12, 12), (7, 7, 3, 32)),  # few pixels
    ):
        graph = _graph(shape, weight)
        assert lines(fill_tile_rows(graph)) == lines(graph)
