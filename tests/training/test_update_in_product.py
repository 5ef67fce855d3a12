"""Updates behind the blocks of the product that gives the gradient: the same bits as apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ops.composite.composite import binary, broadcast_to
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import parse_target
from bessemer.frontends.compile import compile

Array = np.ndarray[Any, Any]
KERNEL = "matmul_update"


def _adaptive(
    depth: int, rows: int, columns: int, decay: float = 0.0, operand: str = "x", keep: bool = False
) -> Graph:
    """m' = 0.9 m + g, s' = 0.9 s + g g, p' = p - rate m' / (1 + sqrt s') with g = x^T dy + decay p;
    with `keep`, g is an output, too. What stands for x may be p itself."""
    builder = GraphBuilder("g")
    given = {
        name: builder.input(name, TensorType(f32, shape))
        for name, shape in (
            ("x", (depth, rows)),
            ("dy", (depth, columns)),
            ("rate", (1,)),
            ("m", (rows, columns)),
            ("s", (rows, columns)),
            ("p", (rows, columns)),
        )
    }
    left = builder.apply("transpose", given[operand], permutation=(1, 0))
    g = builder.apply("matmul", left, given["dy"])
    if decay:
        g = builder.apply("add", g, binary(builder, "mul", given["p"], decay))
    m = builder.apply("add", binary(builder, "mul", given["m"], 0.9), g)
    square = builder.apply("mul", g, g)
    s = builder.apply("add", binary(builder, "mul", given["s"], 0.9), square)
    scale = binary(builder, "add", builder.apply("sqrt", s), 1.0)
    rate = broadcast_to(builder, given["rate"], (rows, columns))
    step = builder.apply("mul", rate, builder.apply("div", m, scale))
    p = builder.apply("sub", given["p"], step)
    outputs = [m, s, p, g] if keep else [m, s, p]
    graph = builder.finish(outputs, ["m", "s", "p", "g"][: len(outputs)])
    return replace(graph, updates=((0, 3), (1, 4), (2, 5)))


def _kernels(graph: Graph) -> list[str]:
    program = build_program(graph, parse_target("x86_64-avx512"))
    return [kernel.name for kernel in kernels_of(program.steps)]


def _inputs(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {
        value.name: rng.uniform(0, 1, value.type.static_shape).astype(np.float32)
        for value in graph.inputs
    }


def _stepped(graph: Graph, threads: int) -> list[Array]:
    """The state after two steps in place."""
    model = compile(graph, threads=threads)
    inputs = _inputs(graph)
    state = [inputs[name] for name in "msp"]
    for _ in range(2):
        model.run(inputs, out=[*state, *(None for _ in graph.outputs[3:])])
    return state


@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize(
    "sizes",
    [
        (64, 56, 48),  # one block wide
        (37, 784, 96),  # a depth that no unrolled step divides
        (64, 32, 1088),  # several blocks wide
        (3, 64, 40),  # too short a depth to fetch anything
        (64, 96, 10),  # a panel that is not full
    ],
)
def test_they_are_one_kernel_with_the_same_bits(sizes: tuple[int, int, int], decay: float) -> None:
    together = _adaptive(*sizes, decay)
    apart = _adaptive(*sizes, decay, keep=True)
    assert KERNEL in _kernels(together)
    assert KERNEL not in _kernels(apart)
    one, two = _stepped(together, 1), _stepped(together, 2)
    for found, other, wanted in zip(one, two, _stepped(apart, 1), strict=True):
        np.testing.assert_array_equal(found, other)
        np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(one, _reference(together, decay), strict=True):
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


def _reference(graph: Graph, decay: float, operand: str = "x") -> tuple[Array, Array, Array]:
    """Two steps in float64."""
    given = {name: array.astype(np.float64) for name, array in _inputs(graph).items()}
    for _ in range(2):
        g = given[operand].T @ given["dy"] + decay * given["p"]
        given["m"] = 0.9 * given["m"] + g
        given["s"] = 0.9 * given["s"] + g * g
        given["p"] = given["p"] - given["rate"] * given["m"] / (1 + np.sqrt(given["s"]))
    return given["m"], given["s"], given["p"]


@pytest.mark.parametrize("sizes", [(64, 512, 512), (64, 96, 1088)])
def test_the_gradient_of_a_triangle_of_weights(sizes: tuple[int, int, int]) -> None:
    """Blocks of a product of which only a band of sums is read."""
    depth, rows, columns = sizes
    builder = GraphBuilder("g")
    x, dy = (builder.input(n, TensorType(f32, (depth, size))) for n, size in zip("xd", sizes[1:]))
    m, s, p = (builder.input(n, TensorType(f32, (rows, columns))) for n in "msp")
    seen = np.tril(np.ones((rows, columns), bool))
    zeros = builder.apply("full", shape=(rows, columns), value=0.0, dtype=f32)
    g = builder.apply("matmul", builder.apply("transpose", x, permutation=(1, 0)), dy)
    g = builder.apply("select", builder.constant(seen), g, zeros)
    added = builder.apply("add", m, g)
    squares = builder.apply("add", s, builder.apply("mul", g, g))
    step = builder.apply("div", added, binary(builder, "add", squares, 1.0))
    outputs = [added, squares, builder.apply("sub", p, step)]
    graph = replace(builder.finish(outputs), updates=((0, 2), (1, 3), (2, 4)))
    assert KERNEL in _kernels(graph)
    inputs = _inputs(graph)
    found = compile(graph, threads=2).run(inputs)
    given = {name: array.astype(np.float64) for name, array in inputs.items()}
    wanted = np.where(seen, given["x"].T @ given["d"], 0)
    np.testing.assert_allclose(found[0], given["m"] + wanted, rtol=1e-5)
    np.testing.assert_allclose(found[1], given["s"] + wanted * wanted, rtol=1e-5)


def test_a_product_that_reads_what_is_written_over_stays_apart() -> None:
    graph = _adaptive(64, 64, 64, operand="p")
    assert KERNEL not in _kernels(graph)
    for found, wanted in zip(_stepped(graph, 2), _reference(graph, 0.0, "p"), strict=True):
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


def test_a_product_stays_before_a_copy_over_what_it_reads() -> None:
    """p' = q is copied when g = p^T x x is there; m' and s' wait for what reads m and s."""
    n = 64
    builder = GraphBuilder("g")
    p, q, m, s, x = (builder.input(name, TensorType(f32, (n, n))) for name in "pqmsx")

    def turned(value: Value) -> Value:
        return builder.apply("transpose", value, permutation=(1, 0))

    squared = builder.apply("matmul", x, x)
    total = builder.apply("reduce_sum", squared, axes=(0, 1))
    g = builder.apply("matmul", turned(p), squared)
    read = builder.apply("add", builder.apply("matmul", x, s), turned(m))
    moved = builder.apply("add", m, g)
    squares = builder.apply("add", s, builder.apply("mul", g, g))
    graph = builder.finish([q, moved, squares, total, read], ["p'", "m'", "s'", "total", "read"])
    graph = replace(graph, updates=((0, 0), (1, 2), (2, 3)))
    inputs = _inputs(graph)
    given = {name: array.astype(np.float64) for name, array in inputs.items()}
    model = compile(graph, threads=1)
    model.run(inputs, out=[inputs["p"], inputs["m"], inputs["s"], None, None])
    wanted = given["p"].T @ (given["x"] @ given["x"])
    np.testing.assert_array_equal(inputs["p"], inputs["q"])
    np.testing.assert_allclose(inputs["m"], given["m"] + wanted, rtol=1e-5)
    np.testing.assert_allclose(inputs["s"], given["s"] + wanted * wanted, rtol=1e-5)


def test_rows_that_fill_no_tiles_stay_apart() -> None:
    assert KERNEL not in _kernels(_adaptive(64, 997, 512))
