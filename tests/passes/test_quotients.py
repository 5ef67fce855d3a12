"""Quotients by constants that are rounded to whole numbers, or to bytes, have the bits of a
division."""

from collections.abc import Callable

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, DType, TensorType, f32, i8, u8
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.pointwise.cast import saturating_cast
from bessemer.compiler.options import Options

COUNT = 1 << 16


@pytest.mark.parametrize("divisor", [0.0013906117528676987, -3.0, 0.1, 1 - 2.0**-24, 1e-30, 7e22])
def test_rounded_quotients_are_exact(divisor: float, rng: np.random.Generator) -> None:
    model = _compiled(divisor, lambda b, x: b.apply("round", x))
    for given in _numbers(divisor, rng):
        np.testing.assert_array_equal(model(given), _rounded(given, divisor))


@pytest.mark.parametrize("divisor", [0.0013906117528676987, -3.0, 0.1, 1e-17, 7e17])
@pytest.mark.parametrize(("dtype", "zero"), [(u8, 0), (u8, 117), (u8, 255), (i8, 0), (i8, -101)])
def test_bytes_are_exact(divisor: float, dtype: DType, zero: int, rng: np.random.Generator) -> None:
    def quantize(b: GraphBuilder, x: Value) -> Value:
        steps = b.apply("round", x)
        if zero != 0:
            number = b.apply("full", shape=(COUNT,), value=zero, dtype=f32)
            steps = b.apply("add", steps, number)
        return b.apply("cast", steps, dtype=dtype)

    model = _compiled(divisor, quantize)
    for given in _numbers(divisor, rng):
        wanted = saturating_cast(_rounded(given, divisor) + np.float32(zero), dtype)
        np.testing.assert_array_equal(model(given), wanted)


def _compiled(
    divisor: float, end: Callable[[GraphBuilder, Value], Value]
) -> Callable[[Array], Array]:
    """x / divisor, and what follows."""
    b = GraphBuilder("quotients")
    x = b.input("x", TensorType(f32, (COUNT,)))
    share = b.apply("full", shape=(COUNT,), value=divisor, dtype=f32)
    made = build(b.finish([end(b, b.apply("div", x, share))]), Options())
    model = load_code(made.code, made.weights, machine_of(made.target), 1)
    return lambda given: model.run({"x": given})[0]


def _rounded(given: Array, divisor: float) -> Array:
    with np.errstate(all="ignore"):
        rounded: Array = np.rint(given / np.float32(divisor))
    return rounded


def _numbers(divisor: float, rng: np.random.Generator) -> list[Array]:
    """Ties, their neighbours, numbers of all magnitudes, and what is not a number."""
    scale = np.float32(divisor)
    halves = (rng.integers(-300, 300, COUNT) + 0.5).astype(np.float32) * scale
    near = np.nextafter(halves, rng.choice(np.array([-np.inf, np.inf], np.float32), COUNT))
    wide = (rng.standard_normal(COUNT) * 10.0 ** rng.uniform(-30, 30, COUNT)).astype(np.float32)
    special = np.resize(np.array([0, np.inf, -np.inf, np.nan, 3e38, -3e38], np.float32), COUNT)
    return [halves, near, wide, special]
