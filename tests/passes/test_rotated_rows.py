"""What a condition does not change is computed before it: rotary positions of normalized heads."""

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.loops import Accumulate, For
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.composite.composite_normalize import rms_norm
from bessemer.compiler.options import Options


@pytest.mark.parametrize("rows", [6, symbol("rows")])
def test_the_norm_of_a_rotated_row_is_computed_once(rng: np.random.Generator, rows: Size) -> None:
    b = GraphBuilder("rotated")
    x = b.input("x", TensorType(f32, (rows, 32)))
    normal = rms_norm(b, x, None, (1,), 1e-6)
    half = {"shape": (rows, 16), "steps": (1, 1)}
    low = b.apply("slice", normal, starts=(0, 0), **half)
    high = b.apply("slice", normal, starts=(0, 16), **half)
    y = b.apply("add", normal, b.apply("concat", b.apply("neg", high), low, axis=1))
    made = build(b.finish([y]), Options())
    (kernel,) = [step.kernel for step in made.program.steps if isinstance(step, Launch)]
    sums = [s for s in walk(kernel.body) if isinstance(s, For) and _adds(s)]
    assert len(sums) == 1
    model = load_code(made.code, made.weights, machine_of(made.target), 1)
    given = rng.standard_normal((6, 32)).astype(np.float32)
    wide = given / np.sqrt((given.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-6)
    wanted = wide + np.concatenate([-wide[:, 16:], wide[:, :16]], axis=1)
    np.testing.assert_allclose(model.run({"x": given})[0], wanted, rtol=2e-6, atol=2e-6)


def _adds(loop: For) -> bool:
    return any(isinstance(statement, Accumulate) for statement in loop.body)
