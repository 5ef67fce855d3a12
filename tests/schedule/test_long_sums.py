"""Long sums in float32 are sums of sums: rounding grows with the root of their length at most."""

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.passes.differentiation.differentiate import gradients

CASES = [((65536, 32), (0,)), ((16, 64, 64, 16), (0, 1, 2)), ((3001, 7), (0,)), ((129, 16), (0,))]


@pytest.mark.parametrize("is_symbolic", [False, True])
@pytest.mark.parametrize(("shape", "axes"), CASES)
def test_a_sum_down_columns_keeps_its_digits(
    shape: tuple[int, ...], axes: tuple[int, ...], is_symbolic: bool, rng: np.random.Generator
) -> None:
    """Positive numbers: added one after the other, 65536 of them lose five bits more."""
    b = GraphBuilder("columns")
    x = b.input("x", TensorType(f32, (symbol("rows") if is_symbolic else shape[0], *shape[1:])))
    graph = b.finish([b.apply("reduce_sum", b.apply("mul", x, x), axes=axes)])
    array = rng.random(shape, np.float32)
    (found,) = bessemer.compile(graph, threads=2).run({"x": array})
    wanted = np.square(array.astype(np.float64)).sum(axes)
    assert np.abs(found / wanted - 1).max() < 8e-7


@pytest.mark.parametrize(("pixels", "taps"), [((64, 64), (1, 1)), ((4096,), (2,))])
def test_the_gradient_of_a_convolutions_weight_keeps_its_digits(
    pixels: tuple[int, ...], taps: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Of two samples of many pixels, which are not a sum each."""
    b = GraphBuilder("weight")
    y = b.input("y", TensorType(f32, (2, *pixels, 16)))
    shape = (2, *(size + tap - 1 for size, tap in zip(pixels, taps)), 8)
    x = b.input("x", TensorType(f32, shape))
    w = b.input("w", TensorType(f32, (*taps, 8, 16)))
    none, ones = (0,) * len(taps), (1,) * len(taps)
    found = b.apply("conv", x, w, strides=ones, dilations=ones, low=none, high=none, groups=1)
    loss = b.apply("reduce_sum", b.apply("mul", found, y), axes=tuple(range(y.type.rank)))
    given = {v.name: rng.random(v.type.static_shape, np.float32) for v in (x, y, w)}
    graph = b.finish(gradients(b, loss, [w]))
    (result,) = bessemer.compile(graph, threads=1).run(given)
    image, cotangent = (given[name].astype(np.float64) for name in ("x", "y"))
    for tap in np.ndindex(*taps):
        window = image[(slice(None), *(slice(t, t + n) for t, n in zip(tap, pixels)))]
        wanted = window.reshape(-1, 8).T @ cotangent.reshape(-1, 16)
        assert np.abs(result[tap] / wanted - 1).max() < 8e-7
