"""The mean that a variance subtracts has no gradient through the squares; other centers have."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f64
from bessemer.compiler.ops.composite.composite import binary, broadcast_to, reshape
from bessemer.compiler.ops.composite.composite_normalize import layer_norm
from bessemer.compiler.ops.composite.composite_reduce import mean, variance
from bessemer.compiler.passes.differentiation.differentiate import gradients

torch = pytest.importorskip("torch")
SHAPE = (3, 4, 4)
SUMS = {"normalized": 2, "variance": 0, "mean by a factor": 0, "squares of a branch": 0}
"""How many sums their gradients have outside of regions; the others have one, through the mean."""


def _squares(b: GraphBuilder, x: Value, center: Value, axes: tuple[int, ...]) -> Value:
    distance = b.apply("sub", x, broadcast_to(b, center, SHAPE))
    return b.apply("reduce_sum", b.apply("mul", distance, distance), axes=axes)


def _by_factor(b: GraphBuilder, x: Value, factor: float) -> Value:
    total = reshape(b, b.apply("reduce_sum", x, axes=(2,)), (3, 4, 1))
    return _squares(b, x, binary(b, "mul", total, factor), (1, 2))


def _turned(b: GraphBuilder, x: Value) -> Value:
    """The means of rows are subtracted from columns."""
    return _squares(b, x, reshape(b, mean(b, x, (2,)), (3, 1, 4)), (2,))


def _squares_read(b: GraphBuilder, x: Value) -> Value:
    distance = b.apply("sub", x, broadcast_to(b, mean(b, x, (2,), keep=True), SHAPE))
    return b.apply("mul", distance, distance)


def _squares_of_branch(b: GraphBuilder, x: Value) -> Value:
    inner = GraphBuilder("branch", b)
    region = inner.finish([_squares_read(inner, inner.input("x", x.type))])
    (squares,) = b.apply_many("if", b.constant(np.array(True)), x, regions=(region, region))
    return squares


def _torch_squares(t: Any, center: Any, axes: tuple[int, ...]) -> Any:
    return ((t - center) ** 2).sum(axes)


CASES: dict[str, tuple[Callable[..., Value], Callable[[Any], Any]]] = {
    "normalized": (
        lambda b, x: layer_norm(b, x, None, None, (2,), 1e-5),
        lambda t: torch.layer_norm(t, (4,)),
    ),
    "variance": (lambda b, x: variance(b, x, (1, 2)), lambda t: t.var((1, 2), correction=0)),
    "mean by a factor": (
        lambda b, x: _by_factor(b, x, 0.25),
        lambda t: _torch_squares(t, t.mean(2, keepdim=True), (1, 2)),
    ),
    "not the mean": (
        lambda b, x: _by_factor(b, x, 0.5),
        lambda t: _torch_squares(t, t.mean(2, keepdim=True) * 2, (1, 2)),
    ),
    "over fewer axes": (
        lambda b, x: _squares(b, x, mean(b, x, (1, 2), keep=True), (2,)),
        lambda t: _torch_squares(t, t.mean((1, 2), keepdim=True), (2,)),
    ),
    "turned": (_turned, lambda t: _torch_squares(t, t.mean(2)[:, None], (2,))),
    "squares read": (_squares_read, lambda t: (t - t.mean(2, keepdim=True)) ** 2),
    "squares of a branch": (_squares_of_branch, lambda t: (t - t.mean(2, keepdim=True)) ** 2),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_through_variances_are_torchs(name: str) -> None:
    write, theirs = CASES[name]
    rng = np.random.default_rng(4)
    x = rng.standard_normal(SHAPE)
    b = GraphBuilder("spread")
    value = b.input("x", TensorType(f64, SHAPE))
    result = write(b, value)
    weights = rng.standard_normal(result.type.static_shape)
    weighted = b.apply("mul", result, b.constant(weights))
    loss = b.apply("reduce_sum", weighted, axes=tuple(range(weights.ndim)))
    before = sum(node.operator.name == "reduce_sum" for node in b.nodes)
    graph = b.finish([loss, *gradients(b, loss, [value])])
    tensor = torch.tensor(x, requires_grad=True)
    (wanted,) = torch.autograd.grad((theirs(tensor) * torch.tensor(weights)).sum(), [tensor])
    np.testing.assert_allclose(run_graph(graph, {"x": x})[1], wanted.numpy(), rtol=1e-9, atol=1e-9)
    sums = sum(node.operator.name == "reduce_sum" for node in graph.nodes) - before
    assert sums == SUMS.get(name, 1)
