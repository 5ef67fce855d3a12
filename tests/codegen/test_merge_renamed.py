"""Kernels that differ only in the names of sizes are one function, which gets the sizes of each."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options


def test_layers_on_maps_of_several_free_sizes_share_a_kernel(rng: np.random.Generator) -> None:
    b = GraphBuilder("maps")
    sizes = [("h", "w"), ("size007", "size008"), ("size009", "size010")]
    maps = [
        b.input(f"x{k}", TensorType(f32, (*map(symbol, two), 3))) for k, two in enumerate(sizes)
    ]
    turned = [b.apply("transpose", b.apply("relu", x), permutation=(1, 0, 2)) for x in maps]
    graph = b.finish([*turned, b.apply("tanh", maps[0])])
    made = build(graph, Options())
    assert len(kernels_of(made.program.steps)) == 2
    arrays = [rng.standard_normal((4 + k, 9 - 2 * k, 3)).astype(np.float32) for k in range(3)]
    model = load_code(made.code, made.weights, machine_of(made.target), 1)
    *found, _ = model.run(arrays)
    for array, result in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(result, np.maximum(array, 0).transpose(1, 0, 2))
