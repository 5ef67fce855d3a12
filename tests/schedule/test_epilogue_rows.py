"""Epilogues with functions and inputs of their own, row by row, against NumPy in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import FragmentMac
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.options import Options
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target

TARGETS = [
    target.name
    for target in (x86.SSE42, x86.AVX2, x86.AVX512)
    if set(target.features) <= set(host_target().features)
]


def _graph(shape: tuple[int, ...], depth: int, columns: int) -> Graph:
    """d @ w times the derivative of GELU at x, as its gradient has it."""
    b = GraphBuilder("gelu")
    d = b.input("d", TensorType(f32, (*shape, depth)))
    w = b.input("w", TensorType(f32, (depth, columns)))
    x = b.input("x", TensorType(f32, (*shape, columns)))
    sums = b.apply("matmul", d, w)
    t = binary(b, "mul", x, math.sqrt(0.5))
    bell = b.apply("exp", b.apply("neg", b.apply("mul", t, t)))
    slope = b.apply("mul", binary(b, "mul", x, 1 / math.sqrt(2 * math.pi)), bell)
    share = binary(b, "mul", binary(b, "add", b.apply("erf", t), 1.0), 0.5)
    return b.finish([b.apply("mul", sums, b.apply("add", share, slope))], ["y"])


def _expected(d: Array, w: Array, x: Array) -> Array:
    share = (1 + np.vectorize(math.erf)(x * math.sqrt(0.5))) / 2
    return np.asarray((d @ w) * (share + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "depth", "columns"),
    [((1, 30), 9, 64), ((3, 29), 40, 128), ((64,), 33, 96), ((50,), 20, 70)],
)
def test_a_derivative_behind_a_product(
    shape: tuple[int, ...], depth: int, columns: int, target: Any
) -> None:
    graph = _graph(shape, depth, columns)
    rng = np.random.default_rng(depth)
    feeds = {
        v.name: rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs
    }
    made = build(graph, Options(target=target, verify=True))
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    wanted = _expected(*(array.astype(np.float64) for array in feeds.values()))
    np.testing.assert_allclose(model.run(feeds)[0], wanted, rtol=2e-5, atol=2e-5)


def _product(shape: tuple[int, ...], depth: int, columns: int) -> str:
    """The text of the product's kernel."""
    made = build(_graph(shape, depth, columns), Options(target="x86_64-avx512"))
    (kernel,) = (
        k
        for k in kernels_of(made.program.steps)
        if any(isinstance(part, FragmentMac) for part in walk(k.body))
    )
    return print_kernel(kernel)


@pytest.mark.parametrize(("rows", "heights"), [(56, 1), (1024, 2)])
def test_the_functions_are_written_once_a_tile(rows: int, heights: int) -> None:
    """Also where threads share blocks, which begin at rows that only locals tell."""
    assert _product((rows,), 64, 128).count("erf(") == heights


def test_what_an_epilogue_reads_is_fetched_as_what_it_writes_is() -> None:
    found = [line.split()[1] for line in _product((1024,), 8, 1024).split("\n") if _is_hint(line)]
    (read,) = {*found} - {"out0"}
    assert found.count(read) == found.count("out0") > 0


def _is_hint(line: str) -> bool:
    return line.strip().startswith("prefetch")
