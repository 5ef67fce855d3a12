"""Quotients by constants that are rounded to whole numbers have the bits of a division."""

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.driver import build, machine_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options

COUNT = 1 << 16


@pytest.mark.parametrize("divisor", [0.0013906117528676987, -3.0, 0.1, 1 - 2.0**-24, 1e-30, 7e22])
def test_rounded_quotients_are_exact(divisor: float, rng: np.random.Generator) -> None:
    b = GraphBuilder("quotients")
    x = b.input("x", TensorType(f32, (COUNT,)))
    share = b.apply("full", shape=(COUNT,), value=divisor, dtype=f32)
    made = build(b.finish([b.apply("round", b.apply("div", x, share))]), Options())
    model = load_code(made.code, made.weights, machine_of(made.target), 1)
    scale = np.float32(divisor)
    halves = (rng.integers(-300, 300, COUNT) + 0.5).astype(np.float32) * scale
    near = np.nextafter(halves, rng.choice(np.array([-np.inf, np.inf], np.float32), COUNT))
    wide = (rng.standard_normal(COUNT) * 10.0 ** rng.uniform(-30, 30, COUNT)).astype(np.float32)
    special = np.resize(np.array([0, np.inf, -np.inf, np.nan, 3e38, -3e38], np.float32), COUNT)
    for given in (halves, near, wide, special):
        with np.errstate(all="ignore"):
            wanted = np.rint(given / scale)
        np.testing.assert_array_equal(model.run({"x": given})[0], wanted)
