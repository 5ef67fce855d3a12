"""Weight gradients of 3x3 convolutions by Winograd's method, against NumPy in float64."""

from itertools import product
from typing import Any

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops  # registers the operators
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import parse_target
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE

Images = tuple[Any, int, int, int, int]


def _graph(images: Images, stride: int = 1) -> Graph:
    """2 * dw - w for dw = the sum over pixels of x[tap] * relu(dy), as a gradient is written."""
    count, height, width, channels, columns = images
    b = GraphBuilder("gradient")
    taps = [(size - 1) * stride + 3 for size in (height, width)]
    x = b.input("x", TensorType(f32, (count, *taps, channels)))
    dy = b.input("dy", TensorType(f32, (count, height, width, columns)))
    w = b.input("w", TensorType(f32, (3, 3, channels, columns)))
    image = b.apply("transpose", x, permutation=(3, 1, 2, 0))
    weight = b.apply("transpose", b.apply("relu", dy), permutation=(1, 2, 0, 3))
    steps = {"strides": (1, 1), "dilations": (stride, stride)}
    found = b.apply("conv", image, weight, **steps, low=(0, 0), high=(0, 0), groups=1)
    found = b.apply("transpose", found, permutation=(1, 2, 0, 3))
    return b.finish([b.apply("sub", b.apply("add", found, found), w)])


def _arrays(images: Images, rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    count, height, width, channels, columns = images
    x = rng.standard_normal((count, height + 2, width + 2, channels)).astype(np.float32)
    dy = rng.standard_normal((count, height, width, columns)).astype(np.float32)
    w = rng.standard_normal((3, 3, channels, columns)).astype(np.float32)
    wide, seen = x.astype(np.float64), np.maximum(dy, 0).astype(np.float64).reshape(-1, columns)
    wanted = np.empty(w.shape)
    for top, left in product(range(3), range(3)):
        part = wide[:, top : top + height, left : left + width].reshape(-1, channels)
        wanted[top, left] = 2 * part.T @ seen - w[top, left]
    return {"x": x, "dy": dy, "w": w}, wanted


def _goes_this_way(graph: Graph, target: str) -> bool:
    machine = parse_target(target)
    for step in passes_of(Options(), machine):
        graph = step(graph)
    kernels = kernels_of(build_program(graph, machine).steps)
    return any(kernel.name.startswith("winograd_gradient") for kernel in kernels)


@pytest.mark.parametrize(
    ("target", "images"),
    [
        (HERE[-1], (2, 7, 9, 40, 100)),  # odd images; some channels and columns are none
        (HERE[0], (7, 4, 6, 64, 64)),  # sums of parts, added up
        *[
            pytest.param(target, images, marks=pytest.mark.slow)
            for target in HERE
            for images in ((1, 16, 16, 520, 32), (3, 12, 8, 35, 33), (8, 14, 14, 64, 96))
        ],
    ],
)
def test_gradient(target: Target, images: Images) -> None:
    rng = np.random.default_rng(3)
    given, wanted = _arrays(images, rng)
    found = [
        bessemer.compile(_graph(images), threads=threads, target=target.name).run(given)[0]
        for threads in (1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    error = np.linalg.norm(found[0] - wanted) / np.linalg.norm(wanted)
    assert error < 1e-6
    assert _goes_this_way(_graph(images), target.name)


@pytest.mark.parametrize(
    "graph",
    [
        _graph((7, 14, 14, 64, 64), stride=2),
        _graph((7, 14, 14, 16, 64)),  # too few channels
        _graph((symbol("batch"), 14, 14, 64, 64)),
    ],
)
def test_others_go_their_way(graph: Graph) -> None:
    assert not _goes_this_way(graph, "x86_64-avx512")
