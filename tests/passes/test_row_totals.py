"""Totals over several axes are computed once, not again for each of the rows that share them."""

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import Block, For, Statement
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.ir.walk_loops import blocks
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.composite.composite import broadcast_to
from bessemer.compiler.options import Options
from tests.planned import planned


def _norm(n: Size, t: Size, c: int) -> Graph:
    """As Conv-TasNet's: over steps and channels, with a scale for each channel; its way back, too,
    has a total of a total."""
    b = GraphBuilder("norm")
    x, w = b.input("x", TensorType(f32, (n, t, c))), b.input("w", TensorType(f32, (c,)))
    wide = broadcast_to(b, w, x.type.shape)
    total = b.apply("reduce_sum", b.apply("mul", x, wide), axes=(1, 2))
    total = broadcast_to(b, b.apply("reshape", total, shape=(n, 1, 1)), x.type.shape)
    away = b.apply("sub", b.apply("mul", x, wide), total)
    second = b.apply("reduce_sum", b.apply("tanh", b.apply("mul", away, wide)), axes=(1, 2))
    second = broadcast_to(b, b.apply("reshape", second, shape=(n, 1, 1)), x.type.shape)
    return b.finish([b.apply("add", b.apply("mul", away, wide), second)], ["y"])


def _exact(x: Array, w: Array) -> Array:
    x, w = x.astype(np.float64), w.astype(np.float64)
    away = x * w - (x * w).sum((1, 2), keepdims=True)
    return np.asarray(away * w + np.tanh(away * w).sum((1, 2), keepdims=True))


SIZES = [(4, 50, 24), (1, 33, 16), (3, 7, 5)]


@pytest.mark.parametrize(("n", "t", "c"), SIZES)
@pytest.mark.parametrize("open_sizes", [False, True])
def test_rows_behind_totals(
    n: int, t: int, c: int, open_sizes: bool, rng: np.random.Generator
) -> None:
    graph = _norm(symbol("n"), symbol("t"), c) if open_sizes else _norm(n, t, c)
    x, w = rng.standard_normal((n, t, c), np.float32), rng.standard_normal(c, np.float32)
    made = build(graph, Options())
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    (found,) = model.run({"x": x, "w": w})
    np.testing.assert_allclose(found, _exact(x, w), rtol=1e-4, atol=1e-3)


def test_a_total_is_not_computed_for_every_row() -> None:
    """Twice as many steps: twice the work, not four times."""

    def work(steps: int) -> int:
        program = planned(_norm(4, steps, 24)).program
        return sum(_runs(step.kernel.body) for step in program.steps if isinstance(step, Launch))

    assert work(400) < 2.5 * work(200)


def _runs(block: Block) -> int:
    """How often statements run that hold no others."""
    return sum(
        _size(statement) * sum(map(_runs, inner)) if (inner := blocks(statement)) else 1
        for statement in block
    )


def _size(statement: Statement) -> int:
    if not isinstance(statement, For):
        return 1
    assert isinstance(statement.extent, int)
    return statement.extent
