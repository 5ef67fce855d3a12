"""Kernels with teams: their text, what is refused, and machine code that meets at barriers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.jit import aligned_weights, link, load_code
from bessemer.compiler.options import Options
from bessemer.runtime.arrays import address
from bessemer.runtime.native import Options as NativeOptions

TEXT = """\
kernel sums[bessemer_team](in0 : f32[8], out0 : f32[3,8]) writes 1 operations 48 members 8
  team i1 in 0..bessemer_team
    for i2 in 0..8
      if (index(i2)%index(bessemer_team)) == index(i1)
        out0[0, i2] = in0[i2]
    barrier of i1
    for i3 in 0..2
      for i4 in 0..8
        if (index(i4)%index(bessemer_team)) == index(i1)
          out0[i3+1, i4] = out0[i3, i4] + out0[i3, (-i4+7)]
      barrier of i1
"""


def test_a_team_reads_back() -> None:
    kernel = parse_kernel(TEXT)
    assert parse_kernel(print_kernel(kernel)).members == 8
    assert print_kernel(parse_kernel(print_kernel(kernel))) == print_kernel(kernel)
    verify_kernel(kernel)


def test_a_team_of_one_means_the_same() -> None:
    x = np.arange(8, dtype=np.float32)
    (out,) = run_kernel(parse_kernel(TEXT), [x], {"bessemer_team": 1}).outputs
    first = x + x[::-1]
    np.testing.assert_array_equal(out, [x, first, first + first[::-1]])
    with pytest.raises(InternalError, match="a team of one"):
        run_kernel(parse_kernel(TEXT), [x], {"bessemer_team": 2})


@pytest.mark.parametrize(
    ("line", "broken", "message"),
    [
        ("team i1 in 0..bessemer_team", "team i1 in 0..8", "a team has bessemer_team members"),
        ("team i1 in", "parallel i1 in", "a barrier in a kernel without a team"),
        ("  for i3 in 0..2", "  team i3 in 0..bessemer_team", "only outermost statement"),
        ("for i3 in 0..2", "vector i3 in 0..2 by 2", "a barrier inside of a vector loop"),
    ],
)
def test_a_team_that_could_not_meet_is_refused(line: str, broken: str, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        verify_kernel(parse_kernel(TEXT.replace(line, broken)))


def recurrence(steps: int = 40, hidden: int = 160) -> tuple[Graph, dict[str, Array]]:
    """An lstm that is worth a team, and inputs."""
    rng = np.random.default_rng(3)
    b = GraphBuilder("recurrence")
    x = b.input("x", TensorType(f32, (steps, 1, 4 * hidden)))
    weights = rng.standard_normal((hidden, 4 * hidden)).astype(np.float32) * 0.1
    zeros = b.constant(np.zeros((1, hidden), np.float32))
    outputs = b.apply_many("lstm", x, b.constant(weights), zeros, zeros)
    graph = b.finish(outputs, ["y", "h", "c"])
    return graph, {"x": rng.standard_normal((steps, 1, 4 * hidden)).astype(np.float32)}


def test_all_numbers_of_threads_give_the_same_bits() -> None:
    graph, arrays = recurrence()
    made = build(graph, Options())
    results = []
    for threads in (1, 2, 3, 5, 20):
        model = load_code(made.code, made.weights, machine_of(made.target), threads)
        results += [[a.copy() for a in model.run(arrays)] for _ in range(3)]
    for outputs in results[1:]:
        for output, first in zip(outputs, results[0], strict=True):
            np.testing.assert_array_equal(output, first)


TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, TASK, ctypes.c_void_p)


@pytest.mark.parametrize("spin", [0, -1])
@pytest.mark.parametrize("own_loop", [False, True])
def test_who_cannot_run_a_team_at_once_runs_it_alone(spin: int, own_loop: bool) -> None:
    """A parallel_for that runs one task after the other would wait at the first barrier forever."""
    graph, arrays = recurrence()
    made = build(graph, Options())
    expected = load_code(made.code, made.weights, machine_of(made.target), 1).run(arrays)

    def in_turn(_: Any, count: int, task: Callable[[Any, int], None], argument: Any) -> None:
        for number in range(count):
            task(argument, number)

    loop = LOOP(in_turn)
    native = link(made.code, machine_of(made.target))
    weights = aligned_weights(made.weights)
    options = NativeOptions(threads=2, spin_microseconds=spin, weights=address(weights))
    if own_loop:
        options.parallel_for = ctypes.cast(loop, ctypes.c_void_p).value
    context = ctypes.c_void_p()
    assert native.create(ctypes.addressof(context), ctypes.addressof(options)) == 0
    results = [np.zeros_like(array) for array in expected]
    pointers = [(ctypes.c_void_p * 3)(*(a.ctypes.data for a in results))]
    pointers.insert(0, (ctypes.c_void_p * 3)(arrays["x"].ctypes.data))
    dims = (ctypes.c_int64 * 1)()
    tables: list[Any] = [*pointers, dims]
    places = [ctypes.addressof(table) for table in tables]
    assert native.run(context.value, *places, None, 0) == 0
    native.destroy(context.value)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
