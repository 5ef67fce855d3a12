"""Kernels that training asks for: shared packed operands, sums of rows and of columns."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.composite.composite import broadcast_to
from bessemer.compiler.options import Options


def _given(b: GraphBuilder, name: str, *shape: int) -> Value:
    return b.input(name, TensorType(f32, shape))


def _feeds(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        v.name: rng.uniform(0.5, 2, v.type.static_shape).astype(np.float32) for v in graph.inputs
    }


def _made(graph: Graph) -> tuple[Compilation, list[Array]]:
    made = build(graph, Options(target="x86_64-avx2", verify=True))
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    return made, model.run(_feeds(graph))


def _names(made: Compilation) -> list[str]:
    return [step.kernel.name for step in made.program.steps if isinstance(step, Launch)]


def test_two_products_share_a_packed_operand() -> None:
    b = GraphBuilder("shared")
    x, h, dy = _given(b, "x", 60, 24), _given(b, "h", 60, 40), _given(b, "dy", 60, 64)
    doubled = b.apply("add", dy, dy)
    parts = [
        b.apply("matmul", b.apply("transpose", v, permutation=(1, 0)), doubled) for v in (x, h)
    ]
    graph = b.finish(parts, ["dw", "dr"])
    made, results = _made(graph)
    assert sum(name.startswith("pack") for name in _names(made)) == 1
    feeds = {name: array.astype(np.float64) for name, array in _feeds(graph).items()}
    for result, name in zip(results, ("x", "h"), strict=True):
        np.testing.assert_allclose(result, feeds[name].T @ (2 * feeds["dy"]), rtol=1e-5)


def test_a_row_sum_with_a_number_for_each_row_reads_rows() -> None:
    rows, columns = 48, 160
    b = GraphBuilder("rows")
    x, t, s = _given(b, "x", rows, columns), _given(b, "t", rows, columns), _given(b, "s", rows, 1)
    level = broadcast_to(b, b.apply("log", s), (rows, columns))
    total = b.apply("reduce_sum", b.apply("mul", b.apply("sub", x, level), t), axes=(1,))
    graph = b.finish([total], ["y"])
    made, (result,) = _made(graph)
    (kernel,) = (step.kernel for step in made.program.steps if isinstance(step, Launch))
    assert f"in 0..{columns} by 8" in print_kernel(kernel)
    feeds = {name: array.astype(np.float64) for name, array in _feeds(graph).items()}
    wanted = ((feeds["x"] - np.log(feeds["s"])) * feeds["t"]).sum(1)
    np.testing.assert_allclose(result, wanted, rtol=1e-5)


def test_sums_of_columns_read_contiguous_blocks_of_a_row() -> None:
    b = GraphBuilder("columns")
    x = _given(b, "x", 63, 1024)
    graph = b.finish([b.apply("reduce_sum", x, axes=(0,))], ["y"])
    made, (result,) = _made(graph)
    (kernel,) = (step.kernel for step in made.program.steps if isinstance(step, Launch))
    assert "in 0..256 by 8 interleave 8" in print_kernel(kernel)
    wanted = _feeds(graph)["x"].astype(np.float64).sum(0)
    np.testing.assert_allclose(result, wanted, rtol=1e-6)
