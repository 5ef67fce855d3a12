"""What the compiler's Python does for twice as large a graph is about twice as much."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable

import numpy as np
import pytest

from bessemer.compiler.codegen.body.body import body_text
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.fit_memory import fit_memory
from bessemer.compiler.ir import loops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.microkernel import lower_contraction
from bessemer.compiler.schedule.contraction.packing import PanelPacking
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.schedule.convolution.depthwise import lower_depthwise
from bessemer.compiler.schedule.convolution.depthwise_plan import Depthwise, TileSize
from bessemer.compiler.schedule.lowering import contractions, depthwise_group
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import parse_target
from bessemer.compiler.targets.machine import Target

TARGET = parse_target("x86_64-avx512")
ROWS = 8


def _parts(count: int) -> Graph:
    """A row cut into many parts, and put together again."""
    builder = GraphBuilder("parts")
    x = builder.input("x", TensorType(f32, (ROWS, count)))
    steps = (1, 1)
    parts = [
        builder.apply("slice", x, starts=(0, at), shape=(ROWS, 1), steps=steps)
        for at in range(count)
    ]
    changed = [builder.apply("exp", part) if at % 2 else part for at, part in enumerate(parts)]
    return builder.finish([builder.apply("concat", *changed[::-1], axis=1)])


def _layers(count: int) -> Graph:
    """Equal layers, each with weights and an output of its own."""
    builder = GraphBuilder("layers")
    rng = np.random.default_rng(0)
    x = builder.input("x", TensorType(f32, (ROWS, 16)))
    outputs = []
    for _ in range(count // 4):
        weights = builder.constant(rng.standard_normal((16, 16)).astype(np.float32))
        x = builder.apply("tanh", builder.apply("matmul", x, weights))
        outputs.append(x)
    return builder.finish(outputs)


def _sizes(count: int) -> Graph:
    """Values of two sizes that only the run knows, by turns."""
    builder = GraphBuilder("sizes")
    x = builder.input("x", TensorType(f32, (symbol("n"), symbol("m"))))
    for _ in range(count // 16):
        square = builder.apply("matmul", x, builder.apply("transpose", x, permutation=(1, 0)))
        x = builder.apply("matmul", builder.apply("tanh", square), x)
    return builder.finish([x])


def _calls(network: Callable[[int], Graph], count: int) -> int:
    """The calls of functions from a network's first node to the run body."""
    profile = cProfile.Profile()
    profile.enable()
    graph = network(count)
    for step in passes_of(Options(), TARGET):
        graph = step(graph)
    fitted = fit_memory(graph, Options(), TARGET)
    body_text(fitted.program, fitted.plan, "model", {})
    profile.disable()
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    assert isinstance(calls, int)
    return calls


@pytest.mark.parametrize("network", [_parts, _layers, _sizes])
def test_twice_as_many_nodes_take_about_twice_as_many_calls(
    network: Callable[[int], Graph],
) -> None:
    _calls(network, 50)  # what is made once: types, operators, caches
    assert _calls(network, 300) < 2.15 * _calls(network, 150)


def test_equal_layers_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[loops.Block] = []

    def write(
        contraction: Contraction, tiling: Tiling, target: Target, packing: PanelPacking | None
    ) -> loops.Block:
        written.append(lower_contraction(contraction, tiling, target, packing))
        return written[-1]

    monkeypatch.setattr(contractions, "lower_contraction", write)
    program = build_program(_layers(200), TARGET)
    assert len(written) == len(kernels_of(program.steps)) == 1
    assert len(program.steps) == 50


def test_equal_depthwise_convolutions_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[loops.Block] = []

    def write(work: Depthwise, tile: TileSize) -> loops.Block:
        written.append(lower_depthwise(work, tile))
        return written[-1]

    monkeypatch.setattr(depthwise_group, "lower_depthwise", write)
    builder = GraphBuilder("depthwise")
    rng = np.random.default_rng(0)
    x = builder.input("x", TensorType(f32, (1, 12, 12, 16)))
    ends = {"low": (1, 1), "high": (1, 1), "strides": (1, 1), "dilations": (1, 1)}
    for layer in range(8):
        weights = builder.constant(rng.standard_normal((3, 3, 1, 16)).astype(np.float32))
        x = builder.apply("conv", x, weights, groups=16, **ends)
        x = builder.apply("relu" if layer % 2 else "tanh", x)
    program = build_program(builder.finish([x]), TARGET)
    assert len(written) == len(kernels_of(program.steps)) == 2
    assert len(program.steps) == 8
