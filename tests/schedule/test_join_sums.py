"""Launches that add up parts of the same arrays by the same loops are one."""

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
def test_sums_of_the_same_arrays_are_joined(target: Target) -> None:
    """Taps' sums in registers (30 columns) and in memory (200), of a known number of rows and of a
    free one; totals that depend on them stand alone."""
    rng, b = np.random.default_rng(3), GraphBuilder("sums")
    outputs, arrays, wanted = [], [], []
    shapes: list[tuple[Size, int]] = [(90, 30), (90, 200), (symbol("n"), 30)]
    for k, (rows, columns) in enumerate(shapes):
        x, y = (b.input(f"{name}{k}", TensorType(f32, (rows, columns))) for name in "xy")
        left, right = (rng.standard_normal((90, columns), np.float32) for _ in "xy")
        arrays += [left, right]
        exact, other = left.astype(np.float64), right.astype(np.float64)
        for tap in range(3):
            window = {"starts": (tap, 0), "shape": (rows - 2, columns), "steps": (1, 1)}
            ends = {"starts": (0, 0), "shape": (rows - 2, columns), "steps": (1, 1)}
            part = b.apply("mul", b.apply("slice", x, **window), b.apply("slice", y, **ends))
            outputs.append(b.apply("reduce_sum", part, axes=(0,)))
            wanted.append((exact[tap : 88 + tap] * other[:88]).sum(0))
        spread = b.apply("broadcast_to", outputs[-1], shape=(rows, columns))
        outputs.append(b.apply("reduce_sum", b.apply("mul", x, spread), axes=(0,)))
        wanted.append((exact * wanted[-1]).sum(0))
    graph = b.finish(outputs)
    names = [kernel.name for kernel in kernels_of(build_program(graph, x86.AVX512).steps)]
    stems = [name.rstrip("_0123456789") for name in names]
    assert stems == ["sums", "mul_reduce_sum"] * 3
    made = build(graph, Options(target=target.name))
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    for found, expected in zip(model.run(arrays), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
