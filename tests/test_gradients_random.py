"""Gradients of 200 random small graphs, and gradients of gradients, against torch.autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, f64
from bessemer.compiler.ops import composite, composite_reduce
from bessemer.compiler.passes.differentiate import gradients

torch = pytest.importorskip("torch")
COUNT, BLOCK = 200, 10
Pair: TypeAlias = "tuple[Value, Any]"
"""A value of our graph and torch's of the same computation; all have two axes."""


class _Writer:
    """A graph of ours and one of torch's, being written side by side."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 17])
        self.b = GraphBuilder(f"random{seed}")
        self.arrays: dict[str, Array] = {}
        self.leaves: list[Pair] = []
        self.pairs: list[Pair] = []
        for k in range(int(self.rng.integers(1, 4))):
            shape = tuple(int(size) for size in self.rng.integers(1, 5, 2))
            self.arrays[f"x{k}"] = self.rng.standard_normal(shape)
            value = self.b.input(f"x{k}", TensorType(f64, shape))
            self.leaves.append((value, torch.tensor(self.arrays[f"x{k}"], requires_grad=True)))
        self.pairs += self.leaves

    def pick(self) -> Pair:
        """One of all, the later ones more often."""
        place = int(len(self.pairs) * self.rng.random() ** 0.5)
        return self.pairs[place]

    def other(self, shape: tuple[int, ...]) -> Pair:
        """One of a shape."""
        fitting = [pair for pair in self.pairs if pair[0].type.shape == shape]
        return fitting[int(self.rng.integers(len(fitting)))]

    def constant(self, *shape: int) -> Pair:
        array = self.rng.standard_normal(shape)
        return self.b.constant(array), torch.tensor(array)

    def graph(self) -> tuple[Graph, Any, list[Any]]:
        """Ours, with loss and gradients; torch's loss, and the tensors to differentiate by."""
        for _ in range(int(self.rng.integers(3, 12))):
            step = STEPS[int(self.rng.integers(len(STEPS)))]
            self.pairs.append(step(self, *self.pick()))
        value, tensor = self.pairs[-1]
        loss = self.b.apply("reduce_sum", self.b.apply("mul", value, value), axes=(0, 1))
        values = [value for value, _ in self.leaves]
        graph = self.b.finish([loss, *gradients(self.b, loss, values)])
        return graph, (tensor * tensor).sum(), [tensor for _, tensor in self.leaves]


Step: TypeAlias = Callable[[_Writer, Value, Any], Pair]


def _unary(name: str) -> Step:
    functions = {"relu": torch.relu, "neg": torch.neg, "abs": torch.abs, "erf": torch.erf}
    function = functions.get(name) or getattr(torch, name)
    return lambda w, x, t: (w.b.apply(name, x), function(t))


def _positive(name: str) -> Step:
    """A function that wants positive numbers."""

    def step(w: _Writer, x: Value, t: Any) -> Pair:
        safe = composite.binary(w.b, "add", w.b.apply("abs", x), 0.5)
        return w.b.apply(name, safe), getattr(torch, name)(t.abs() + 0.5)

    return step


def _binary(name: str, function: Callable[[Any, Any], Any]) -> Step:
    def step(w: _Writer, x: Value, t: Any) -> Pair:
        y, u = w.other(x.type.static_shape)
        # Bounded, so that nothing grows beyond all measure.
        return w.b.apply(name, w.b.apply("tanh", x), y), function(torch.tanh(t), u)

    return step


def _quotient(w: _Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    safe = composite.binary(w.b, "add", w.b.apply("exp", w.b.apply("sin", y)), 1.0)
    return w.b.apply("div", x, safe), t / (u.sin().exp() + 1)


def _matmul(w: _Writer, x: Value, t: Any) -> Pair:
    y, u = w.constant(x.type.static_shape[1], int(w.rng.integers(1, 5)))
    return w.b.apply("matmul", x, y), t @ u


def _gram(w: _Writer, x: Value, t: Any) -> Pair:
    s, v = w.b.apply("tanh", x), torch.tanh(t)
    return w.b.apply("matmul", s, composite.transpose(w.b, s, [1, 0])), v @ v.T


def _transpose(w: _Writer, x: Value, t: Any) -> Pair:
    return composite.transpose(w.b, x, [1, 0]), t.T


def _reshape(w: _Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    return composite.reshape(w.b, x, (1, rows * columns)), t.reshape(1, -1)


def _backwards(w: _Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    found = w.b.apply("slice", x, starts=(rows - 1, 0), shape=(rows, columns), steps=(-1, 1))
    return found, t.flip(0)


def _every_second(w: _Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    shape = (rows, (columns + 1) // 2)
    return w.b.apply("slice", x, starts=(0, 0), shape=shape, steps=(1, 2)), t[:, ::2]


def _concat(w: _Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    axis = int(w.rng.integers(2))
    if x.type.static_shape[axis] > 8:
        return y, u
    return w.b.apply("concat", x, y, x, axis=axis), torch.cat([t, u, t], axis)


def _pad(w: _Writer, x: Value, t: Any) -> Pair:
    found = w.b.apply("pad", x, low=(0, 1), high=(1, -1), mode="constant", value=2.0)
    return found, torch.nn.functional.pad(t, (1, -1, 0, 1), value=2.0)


def _reduce(name: str, function: Callable[[Any], Any]) -> Step:
    def step(w: _Writer, x: Value, t: Any) -> Pair:
        rows = x.type.static_shape[0]
        found = w.b.apply(name, x, axes=(1,))
        spread = composite.broadcast_to(w.b, composite.reshape(w.b, found, (rows, 1)), (rows, 2))
        return spread, function(t).reshape(-1, 1).expand(-1, 2)

    return step


def _gather(w: _Writer, x: Value, t: Any) -> Pair:
    places = w.rng.integers(0, x.type.static_shape[0], 3)
    return w.b.apply("gather", x, w.b.constant(places), axis=0), t[torch.tensor(places)]


def _select(w: _Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    return w.b.apply("select", w.b.apply("gt", x, y), w.b.apply("sin", x), y), torch.where(
        t > u, t.sin(), u
    )


def _running(w: _Writer, x: Value, t: Any) -> Pair:
    return w.b.apply("cumulative", x, axis=1, reduction="add"), t.cumsum(1)


def _softmax(w: _Writer, x: Value, t: Any) -> Pair:
    shifted = w.b.apply("exp", w.b.apply("tanh", x))
    total = composite.reshape(
        w.b, w.b.apply("reduce_sum", shifted, axes=(1,)), (x.type.static_shape[0], 1)
    )
    return composite.binary(w.b, "div", shifted, total), torch.softmax(torch.tanh(t), 1)


STEPS: list[Step] = [
    *map(_unary, ("sin", "cos", "tanh", "sigmoid", "relu", "neg", "abs", "erf", "atan")),
    *map(_positive, ("sqrt", "log", "rsqrt", "log1p")),
    _binary("add", torch.add), _binary("sub", torch.sub), _binary("mul", torch.mul),
    _binary("max", torch.maximum), _binary("min", torch.minimum),
    _quotient, _matmul, _gram, _transpose, _reshape, _backwards, _every_second, _concat, _pad,
    _reduce("reduce_sum", lambda t: t.sum(1)), _reduce("reduce_max", lambda t: t.amax(1)),
    _reduce("reduce_prod", lambda t: t.prod(1)), _gather, _select, _running, _softmax,
]  # fmt: skip


@pytest.mark.parametrize("block", range(COUNT // BLOCK))
def test_random_graphs_have_torchs_gradients(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        writer = _Writer(seed)
        graph, loss, tensors = writer.graph()
        wanted = [loss, *torch.autograd.grad(loss, tensors, allow_unused=True)]
        found = [run_graph(graph, writer.arrays)]
        if seed % BLOCK == 0:
            found.append(bessemer.compile(graph).run(writer.arrays))
        for arrays in found:
            for ours, theirs in zip(arrays, wanted, strict=True):
                expected = 0.0 if theirs is None else theirs.detach().numpy()
                np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-9, err_msg=f"{seed}")


def test_the_gradient_of_a_gradients_norm_is_torchs() -> None:
    """Of an MLP with softmax cross entropy: what a gradient penalty differentiates."""
    rng = np.random.default_rng(4)
    shapes = {"x": (6, 5), "w": (5, 7), "v": (7, 3), "target": (6, 3)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    arrays["target"] = np.eye(3)[rng.integers(0, 3, 6)]
    b = GraphBuilder("mlp")
    x, w, v, target = (b.input(name, TensorType(f64, shape)) for name, shape in shapes.items())
    hidden = b.apply("sigmoid", b.apply("matmul", x, w))
    scores = composite_reduce.log_softmax(b, b.apply("matmul", hidden, v), [1])
    loss = b.apply("neg", b.apply("reduce_sum", b.apply("mul", scores, target), axes=(0, 1)))
    norm = None
    for gradient in gradients(b, loss, [x, w, v]):
        part = b.apply("reduce_sum", b.apply("mul", gradient, gradient), axes=(0, 1))
        norm = part if norm is None else b.apply("add", norm, part)
    assert norm is not None
    graph = b.finish([norm, *gradients(b, norm, [x, w, v])])

    tensors = [torch.tensor(arrays[name], requires_grad=True) for name in ("x", "w", "v")]
    made = torch.sigmoid(tensors[0] @ tensors[1]) @ tensors[2]
    value = -(made.log_softmax(1) * torch.tensor(arrays["target"])).sum()
    first = torch.autograd.grad(value, tensors, create_graph=True)
    total = sum((g * g).sum() for g in first)
    wanted = [total, *torch.autograd.grad(total, tensors)]
    for ours, theirs in zip(bessemer.compile(graph).run(arrays), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-11)
