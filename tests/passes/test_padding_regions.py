"""Taps of convolutions that only ever see padding: which go, and equal numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, f32, i32, u8
from bessemer.compiler.passes.quantization.narrow_integers import narrow_integers
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import changed


@pytest.mark.parametrize(
    ("dilation", "low", "high", "stride", "taps"),
    [
        (12, 12, 12, 1, 1),  # both ends
        (6, 6, 6, 1, 1),
        (5, 5, 5, 1, 3),  # the last tap still sees a pixel
        (6, 6, 0, 1, 2),
        (1, 2, 2, 1, 3),
        (4, 4, 4, 4, 3),  # the second place sees what the first does not
        (12, 20, 4, 1, 2),  # without the other one the pad would be a cut
    ],
)
def test_unseen_taps_go(
    dilation: int, low: int, high: int, stride: int, taps: int, rng: np.random.Generator
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, 6, 9, 3)))
    w = b.constant(rng.standard_normal((3, 1, 3, 4)).astype(np.float32))
    dilations = {"strides": (stride, 1), "dilations": (dilation, 1), "groups": 1}
    if 6 + low + high <= 2 * dilation:
        low, high = low + dilation, high + dilation
    y = b.apply("conv", x, w, low=(low, 0), high=(high, 0), **dilations)
    result = changed(b.finish([y]), [simplify], rng, rtol=1e-6)
    (conv,) = [node for node in result.nodes if node.operator.name == "conv"]
    assert conv.inputs[1].type.shape == (taps, 1, 3, 4)


def test_the_taps_left_of_known_weights_are_known(rng: np.random.Generator) -> None:
    """Those of bytes stay bytes: a convolution of them is narrowed as one of all taps is."""
    b = GraphBuilder("g")
    x = b.apply("cast", b.input("x", TensorType(u8, (1, 6, 7, 8))), dtype=i32)
    w = b.constant(rng.integers(-127, 127, (3, 3, 8, 4)).astype(np.int32))
    window = {"strides": (1, 1), "dilations": (9, 9), "low": (9, 9), "high": (9, 9)}
    graph = b.finish([b.apply("conv", x, w, groups=1, **window)])
    result = changed(graph, [simplify, narrow_integers, remove_dead], rng)
    (conv,) = [node for node in result.nodes if node.operator.name == "conv"]
    assert conv.inputs[1].type.shape == (1, 1, 8, 4)
    assert conv.inputs[1] in result.constants and conv.inputs[0].type.dtype is u8
