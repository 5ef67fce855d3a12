"""The maximum that softmax subtracts has no gradient of its own; any other maximum has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f64
from bessemer.compiler.ops.composite.composite import broadcast_to, reshape
from bessemer.compiler.ops.composite.composite_reduce import log_softmax, reduce, softmax
from bessemer.compiler.passes.differentiation.differentiate import gradients

torch = pytest.importorskip("torch")
SHAPE = (3, 4, 5)


def _difference(b: GraphBuilder, x: Value, axes: tuple[int, ...]) -> Value:
    most = broadcast_to(b, reduce(b, "max", x, axes, keep=True), SHAPE)
    return b.apply("sub", x, most)


def _share(b: GraphBuilder, power: Value, axes: tuple[int, ...]) -> Value:
    total = broadcast_to(b, reduce(b, "sum", power, axes, keep=True), SHAPE)
    return b.apply("div", power, total)


def _other_axes(b: GraphBuilder, x: Value) -> Value:
    """The maxima differ within the sum."""
    return _share(b, b.apply("exp", _difference(b, x, (2,))), (1, 2))


def _fewer_axes(b: GraphBuilder, x: Value) -> Value:
    return _share(b, b.apply("exp", _difference(b, x, (1, 2))), (2,))


def _read_twice(b: GraphBuilder, x: Value) -> Value:
    power = b.apply("exp", _difference(b, x, (2,)))
    return b.apply("add", _share(b, power, (2,)), power)


def _maximum_read(b: GraphBuilder, x: Value) -> Value:
    most = reduce(b, "max", x, (2,), keep=True)
    power = b.apply("exp", b.apply("sub", x, broadcast_to(b, most, SHAPE)))
    return b.apply("add", _share(b, power, (2,)), broadcast_to(b, most, SHAPE))


def _total_read(b: GraphBuilder, x: Value) -> Value:
    power = b.apply("exp", _difference(b, x, (2,)))
    total = reshape(b, reduce(b, "sum", power, (2,)), (3, 4, 1))
    share = b.apply("div", power, broadcast_to(b, total, SHAPE))
    return b.apply("mul", share, broadcast_to(b, total, SHAPE))


def _of_another(b: GraphBuilder, x: Value) -> Value:
    squares = b.apply("mul", x, x)
    most = broadcast_to(b, reduce(b, "max", squares, (2,), keep=True), SHAPE)
    return _share(b, b.apply("exp", b.apply("sub", x, most)), (2,))


def _torch_share(power: Any, axes: tuple[int, ...]) -> Any:
    return power / power.sum(axes, keepdim=True)


def _apart(x: Any) -> Any:
    return x - x.amax(2, keepdim=True)


CASES: dict[str, tuple[bool, Callable[..., Value], Callable[[Any], Any]]] = {
    "softmax": (True, lambda b, x: softmax(b, x, (1,)), lambda t: t.softmax(1)),
    "logarithm": (True, lambda b, x: log_softmax(b, x, (2,)), lambda t: t.log_softmax(2)),
    "fewer axes": (True, _fewer_axes, lambda t: t.softmax(2)),
    "other axes": (False, _other_axes, lambda t: _torch_share(_apart(t).exp(), (1, 2))),
    "powers read": (
        False, _read_twice, lambda t: _torch_share(_apart(t).exp(), (2,)) + _apart(t).exp()
    ),
    "maximum read": (False, _maximum_read, lambda t: t.softmax(2) + t.amax(2, keepdim=True)),
    "total read": (False, _total_read, lambda t: _apart(t).exp()),
    "another's maximum": (
        False, _of_another,
        lambda t: _torch_share((t - (t * t).amax(2, keepdim=True)).exp(), (2,)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_torchs_and_only_softmax_leaves_its_maximum_out(name: str) -> None:
    is_idle, write, theirs = CASES[name]
    rng = np.random.default_rng(4)
    x, weights = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    b = GraphBuilder("shift")
    value = b.input("x", TensorType(f64, SHAPE))
    weighted = b.apply("mul", write(b, value), b.constant(weights))
    loss = b.apply("reduce_sum", weighted, axes=(0, 1, 2))
    graph = b.finish([loss, *gradients(b, loss, [value])])
    tensor = torch.tensor(x, requires_grad=True)
    (wanted,) = torch.autograd.grad((theirs(tensor) * torch.tensor(weights)).sum(), [tensor])
    found = run_graph(graph, {"x": x})[1]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-9, atol=1e-12)
    assert any(node.operator.name == "eq" for node in graph.nodes) != is_idle


def test_powers_that_are_the_loss_itself_keep_their_maximum() -> None:
    b = GraphBuilder("shift")
    x = b.input("x", TensorType(f64, (1,)))
    shifted = b.apply("sub", x, reduce(b, "max", x, (0,), keep=True))
    power = b.apply("exp", shifted)
    share = b.apply("div", power, reduce(b, "sum", power, (0,), keep=True))
    graph = b.finish([share, *gradients(b, power, [x])])
    assert run_graph(graph, {"x": np.array([2.0])})[1] == 0


@pytest.mark.parametrize("transposed", ["maxima", "totals"])
def test_what_rows_give_to_columns_of_a_square_has_a_gradient(transposed: str) -> None:
    rng = np.random.default_rng(5)
    x, weights = rng.standard_normal((2, 4, 4))
    b = GraphBuilder("square")
    value = b.input("x", TensorType(f64, (4, 4)))
    places = {"maxima": (4, 1), "totals": (4, 1), transposed: (1, 4)}

    def spread(name: str, rows: Value) -> Value:
        return broadcast_to(b, reshape(b, rows, places[name]), (4, 4))

    most = spread("maxima", b.apply("reduce_max", value, axes=(1,)))
    power = b.apply("exp", b.apply("sub", value, most))
    share = b.apply("div", power, spread("totals", b.apply("reduce_sum", power, axes=(1,))))
    weighted = b.apply("mul", share, b.constant(weights))
    loss = b.apply("reduce_sum", weighted, axes=(0, 1))
    graph = b.finish([loss, *gradients(b, loss, [value])])
    tensor = torch.tensor(x, requires_grad=True)
    power_there = (tensor - tensor.amax(1).reshape(places["maxima"])).exp()
    there = (
        power_there / power_there.sum(1).reshape(places["totals"]) * torch.tensor(weights)
    ).sum()
    (wanted,) = torch.autograd.grad(there, [tensor])
    found = run_graph(graph, {"x": x})[1]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-9, atol=1e-12)
