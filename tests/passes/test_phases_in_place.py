"""The phases of a transposed convolution with strides are written right to where they alternate."""

from typing import Any

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops  # registers the operators
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import parse_target

torch = pytest.importorskip("torch")


def _graph(taps: int, size: int, outputs: int = 24) -> Graph:
    """conv_transpose(x, w), stride 2, where y is positive, as an input's gradient goes on."""
    b = GraphBuilder("phases")
    x = b.input("x", TensorType(f32, (2, size, size, 16)))
    w = b.input("w", TensorType(f32, (taps, taps, outputs, 16)))
    y = b.input("y", TensorType(f32, (2, 2 * size, 2 * size, outputs)))
    low, more = (taps - 1) // 2, taps % 2
    found = b.apply(
        "conv_transpose", x, w, strides=(2, 2), dilations=(1, 1), groups=1,
        low=(low, low), high=(low, low), output_padding=(more, more),
    )  # fmt: skip
    return b.finish([b.apply("mul", b.apply("relu", y), found)])


def _wanted(arrays: dict[str, Any], taps: int) -> Any:
    x, w, y = (torch.tensor(arrays[name]).double() for name in "xwy")
    x, w = x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1)
    found = torch.nn.functional.conv_transpose2d(
        x, w, stride=2, padding=(taps - 1) // 2, output_padding=taps % 2
    )
    return (y.relu() * found.permute(0, 2, 3, 1)).numpy()


@pytest.mark.parametrize(
    ("taps", "size", "outputs"),
    [(3, 7, 24), (4, 5, 32), (2, 6, 16), pytest.param(1, 12, 24, marks=pytest.mark.slow)],
)
def test_phases(taps: int, size: int, outputs: int) -> None:
    graph, rng = _graph(taps, size, outputs), np.random.default_rng(0)
    arrays = {
        value.name: rng.standard_normal(value.type.static_shape).astype(np.float32)
        for value in graph.inputs
    }
    (found,) = bessemer.compile(graph, threads=2).run(arrays)
    (alone,) = bessemer.compile(graph, threads=1).run(arrays)
    wanted = _wanted(arrays, taps)
    np.testing.assert_array_equal(found, alone)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-6


@pytest.mark.parametrize(("taps", "outputs"), [(3, 24), (4, 32)])
def test_nothing_is_copied_but_one_padded_input(taps: int, outputs: int) -> None:
    graph, target = _graph(taps, 7, outputs), parse_target("x86_64-avx512")
    for step in passes_of(Options(), target):
        graph = step(graph)
    names = [kernel.name for kernel in kernels_of(build_program(graph, target).steps)]
    assert not any("concat" in name for name in names)
    assert sum(name.startswith("conv") for name in names) == 4
    assert sum("pad" in name for name in names) == 1
