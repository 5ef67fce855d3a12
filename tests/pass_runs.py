"""Runs passes on small graphs: each must be valid, idempotent, and keep the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.types import DTYPES, Array, DType, TensorType, f32
from bessemer.compiler.ir.verifier.verify_graph import verify_graph

Pass = Callable[[Graph], Graph]
N = symbol("n")


def lines(graph: Graph) -> list[str]:
    """The nodes of a graph as text, without types and comments."""
    printed = [line.split("  # ")[0].strip() for line in print_graph(graph).splitlines()[1:]]
    kept = [line for line in printed if "= constant" not in line]
    return [line.rsplit(") : ", 1)[0] + ")" if ") : " in line else line for line in kept]


def inputs_of(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Arrays for the inputs; symbols are 2."""

    def array(value: Value) -> Array:
        shape = [evaluate(size, lambda leaf: 2) for size in value.type.shape]
        numbers = rng.standard_normal(shape) * 3
        return np.asarray(numbers).astype(value.type.dtype.numpy)

    return {value.name: array(value) for value in graph.inputs}


def changed(
    graph: Graph, passes: Sequence[Pass], rng: np.random.Generator, rtol: float = 0
) -> Graph:
    """The graph after passes, each of which must be valid, idempotent, and keep the numbers."""
    inputs = inputs_of(graph, rng)
    before = run_graph(graph, inputs)
    for step in passes:
        graph = step(graph)
        verify_graph(graph)
        assert step(graph) is graph, f"{step.__name__} finds more to do the second time"
    for old, new in zip(before, run_graph(graph, inputs), strict=True):
        assert old.dtype == new.dtype
        largest = np.abs(old[np.isfinite(old)].astype(np.float64)).max(initial=0)
        wide, wanted = new.astype(np.float64), old.astype(np.float64)
        np.testing.assert_allclose(wide, wanted, rtol=rtol, atol=rtol * largest)
    return graph


class Case:
    """A graph being written, with the shorthands that the tables below use."""

    def __init__(self) -> None:
        self.b = GraphBuilder("case")

    def x(self, *shape: Size, dtype: DType = f32) -> Value:
        name = f"x{len(self.b.inputs)}"
        return self.b.input(name, TensorType(dtype, shape or (N, 3)))

    def of(self, operator: str, *operands: Value | float, **attributes: object) -> Value:
        """A node; numbers become what fills the first operand's shape."""
        first = operands[0]
        assert isinstance(first, Value)
        values = [
            operand
            if isinstance(operand, Value)
            else self.b.apply("full", shape=first.type.shape, value=operand, dtype=first.type.dtype)
            for operand in operands
        ]
        return self.b.apply(operator, *values, **attributes)

    def cast(self, x: Value, *names: str) -> Value:
        for name in names:
            x = self.of("cast", x, dtype=DTYPES[name])
        return x


def widen(c: Case, x: Value, *shape: Size) -> Value:
    """x broadcast to a shape."""
    return c.of("broadcast_to", x, shape=shape)
