"""Kernels that write into parts of larger values, and nests that transpose, in whole programs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import DType, TensorType, f32, f64, i8
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.pass_runs import N, inputs_of
from tests.schedule.run_program import ProgramRun

Written = Callable[[GraphBuilder, Value], Value]


@dataclass(frozen=True)
class Case:
    """`kernels` are the stems of the kernels' names in order."""

    name: str
    shape: tuple[Size, ...]
    write: Written
    kernels: tuple[str, ...]
    dtype: DType = f32


def _pad(b: GraphBuilder, x: Value, low: tuple[int, ...], high: tuple[int, ...]) -> Value:
    return b.apply("pad", x, low=low, high=high, mode="constant", value=2.0)


def _apart(b: GraphBuilder, x: Value) -> Value:
    """A value that a kernel of its own computes: another one reads it, too."""
    return b.apply("exp", x)


def _padded(b: GraphBuilder, x: Value) -> Value:
    return _pad(b, _apart(b, x), (0, 1, 2, 0), (0, 3, 0, 0))


def _padded_concat(b: GraphBuilder, x: Value) -> Value:
    both = b.apply("concat", _apart(b, x), b.apply("relu", x), axis=3)
    return _pad(b, both, (0, 1, 1, 0), (0, 1, 1, 0))


def _concat_of_padded(b: GraphBuilder, x: Value) -> Value:
    wide = _pad(b, _apart(b, x), (0, 1, 0, 0), (0, 0, 1, 0))
    return b.apply("concat", wide, wide, axis=3)


def _padded_inside_concat(b: GraphBuilder, x: Value) -> Value:
    wide = _pad(b, _apart(b, x), (0, 1, 0, 0), (0, 0, 1, 0))
    other = _pad(b, b.apply("relu", x), (0, 0, 1, 0), (0, 1, 0, 0))
    return b.apply("concat", wide, other, axis=3)


def _transposed(*permutation: int) -> Written:
    return lambda b, x: b.apply("relu", b.apply("transpose", x, permutation=permutation))


CASES = (
    Case("pad", (2, 4, 12, 3), _padded, ("exp", "border")),
    Case("pad of unknown rows", (N, N + 3, 12, 3), _padded, ("exp", "border")),
    Case("pad of a concat", (2, 4, 12, 3), _padded_concat, ("exp", "relu", "border")),
    Case(
        "concat of one pad twice",
        (2, 4, 12, 3),
        _concat_of_padded,
        ("exp", "border", "concat", "concat"),
    ),
    Case(
        "concat of pads",
        (2, 4, 12, 3),
        _padded_inside_concat,
        ("exp", "border", "relu", "border"),
    ),
    Case("transposed", (70, 90), _transposed(1, 0), ("relu",)),
    Case("transposed f64", (70, 61), _transposed(1, 0), ("relu",), f64),
    Case("transposed i8", (130, 70), _transposed(1, 0), ("relu",), i8),
    Case("transposed images", (2, 40, 5, 33), _transposed(0, 2, 3, 1), ("relu",)),
    Case("transposed unknown", (N, N + 70, 5, N + 31), _transposed(0, 2, 3, 1), ("relu",)),
    Case("transposed unknown and short", (N, N + 2, 5, 3 * N), _transposed(0, 2, 3, 1), ("relu",)),
)


def _graph(case: Case) -> Graph:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(case.dtype, case.shape))
    return builder.finish([case.write(builder, x)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("target", [x86.SSE42, x86.AVX512], ids=lambda target: target.name)
def test_programs_compute_what_their_graphs_do(
    case: Case, target: Target, rng: np.random.Generator
) -> None:
    graph = _graph(case)
    program = build_program(graph, target)
    stems = [
        step.kernel.name.rstrip("_0123456789").removesuffix("_kernel")
        for step in program.steps
        if isinstance(step, Launch)
    ]
    assert tuple(stems) == case.kernels
    inputs = inputs_of(graph, rng)
    (expected,) = run_graph(graph, inputs)
    (result,) = ProgramRun(program, {"n": 2}).run(list(inputs.values()))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
