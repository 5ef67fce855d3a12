"""Gradients of 200 random small graphs, and gradients of gradients, against torch.autograd."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f64
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.compiler.passes.differentiation.differentiate import gradients
from tests.training.random_graph_places import PLACE_STEPS
from tests.training.random_graph_steps import PLAIN_STEPS
from tests.training.random_graphs import Writer

torch = pytest.importorskip("torch")
COUNT, BLOCK = 200, 10
STEPS = [*PLAIN_STEPS, *PLACE_STEPS]


@pytest.mark.parametrize("block", range(COUNT // BLOCK))
def test_random_graphs_have_torchs_gradients(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        writer = Writer(seed)
        graph, loss, tensors = writer.graph(STEPS)
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
