"""Convolutions whose neighbouring sums are of neighbouring pixels: which, and what they give."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.loops import For
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.passes.convolution.convolve_planes import convolve_planes
from bessemer.compiler.passes.layout.move_transposes import move_transposes
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.onnx_check import expected, parsed
from tests.pass_runs import N, changed
from tests.planned import planned


def _convolution(x: tuple[Size, ...], w: tuple[int, ...], groups: int, stride: int = 1) -> Graph:
    """A grouped convolution of planes, as a file has it: channels are moved last and back."""
    b, rank = GraphBuilder("g"), len(x)
    image = b.input("x", TensorType(f32, x))
    weight = b.constant((np.arange(np.prod(w), dtype=np.float32) % 7 - 3).reshape(w))
    pads, steps, ones = ((value,) * (rank - 2) for value in (1, stride, 1))
    moved = b.apply("transpose", image, permutation=(0, *range(2, rank), 1))
    y = b.apply(
        "conv", moved, weight, strides=steps, dilations=ones, low=pads, high=pads, groups=groups
    )
    return b.finish([b.apply("transpose", y, permutation=(0, rank - 1, *range(1, rank - 1)))])


@pytest.mark.parametrize(
    ("x", "w", "groups", "is_of_planes"),
    [
        ((2, 10, 400), (3, 5, 2), 2, True),
        ((1, 6, 9, 20), (3, 3, 2, 3), 3, True),
        ((N, 6, 9, 20), (3, 3, 2, 3), 3, True),
        ((1, 4, 3, 5, 13), (1, 3, 3, 2, 2), 2, True),
        ((1, 12, 9, 9), (3, 3, 6, 2), 2, True),
        ((1, 32, 9, 20), (3, 3, 2, 16), 16, True),
        ((1, 32, 9, 15), (3, 3, 2, 16), 16, False),
        ((1, 32, 9, 40), (5, 5, 2, 16), 16, False),
        ((1, 4, 9, 9), (3, 3, 2, 2), 2, False),
        ((1, 2, 9, 70), (5, 5, 1, 8), 2, False),
        ((1, 4, 9, 70), (3, 3, 1, 4), 4, False),
        ((1, 3, 9, 70), (5, 5, 1, 3), 3, True),
        ((1, 3, 9, 70), (3, 3, 1, 6), 3, True),
        ((1, 3, 9, 20), (5, 5, 1, 3), 3, False),
        ((1, 8, 9, 70), (5, 5, 1, 8), 8, False),
        ((1, 6, 9, 6), (3, 3, 2, 3), 3, False),
        ((1, 8, 9, 20), (3, 3, 4, 4), 2, False),
        ((1, 8, 9, 20), (3, 3, 8, 1), 1, False),
    ],
)
def test_convolutions_of_single_outputs_are_of_planes(
    x: tuple[Size, ...],
    w: tuple[int, ...],
    groups: int,
    is_of_planes: bool,
    rng: np.random.Generator,
) -> None:
    passes = [convolve_planes, move_transposes, fold_constants, simplify, remove_dead]
    result = changed(_convolution(x, w, groups), passes, rng, rtol=1e-6)
    names = [node.operator.name for node in result.nodes]
    assert (names == ["plane_conv"]) == is_of_planes


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_grouped_convolutions_of_free_sizes(
    stride: int, dilation: int, rng: np.random.Generator
) -> None:
    """Borders, rows of any length, and what follows the sums are right."""
    model = parsed(f"""
        g (float[n,6,h,w] x, float[3,2,3,5] w, float[3] b) => (float[n,3,p,q] y) {{
            c = Conv<strides=[1,{stride}], dilations=[1,{dilation}], pads=[1,4,1,4], group=3>
                (x, w, b)
            y = Relu(c)
        }}
    """)
    compiled = bessemer.compile(model, cache=False)
    for shape in ((1, 6, 7, 33), (2, 6, 1, 8), (1, 6, 40, 100)):
        inputs = {
            name: rng.standard_normal(sizes).astype(np.float32)
            for name, sizes in (("x", shape), ("w", (3, 2, 3, 5)), ("b", (3,)))
        }
        (wanted,) = expected(model, inputs)
        np.testing.assert_allclose(compiled.run(inputs)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_last", [False, True])
def test_what_windows_see_is_computed_once_and_lies_in_planes(
    is_last: bool, rng: np.random.Generator
) -> None:
    """As many numbers go in as come out; channels come last or are moved there."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (1, 9, 70, 3) if is_last else (1, 3, 9, 70)))
    before = b.apply("tanh", x)
    if not is_last:
        before = b.apply("transpose", before, permutation=(0, 2, 3, 1))
    weight = b.constant(np.arange(27, dtype=np.float32).reshape(3, 3, 1, 3))
    pads = {"low": (1, 1), "high": (1, 1)}
    y = b.apply("conv", before, weight, strides=(1, 1), dilations=(1, 1), groups=3, **pads)
    graph = b.finish([b.apply("transpose", y, permutation=(0, 3, 1, 2))])
    (kernel,) = (k for k in kernels_of(planned(graph).program.steps) if "conv" in k.name)
    assert kernel.name == "plane_conv"
    vectors = [s for s in walk(kernel.body) if isinstance(s, For) and s.kind == "vector"]
    assert vectors and all(loop.extent != 3 for loop in vectors), "vectors are of pixels"
    array = rng.standard_normal(x.type.static_shape).astype(np.float32)
    (found,) = bessemer.compile(graph).run({"x": array})
    np.testing.assert_allclose(found, run_graph(graph, {"x": array})[0], rtol=1e-4, atol=1e-4)
