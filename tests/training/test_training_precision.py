"""Training with precision="bfloat16": products of rounded numbers, everything else in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Precision
from bessemer.compiler.passes.precision.store_bfloat16 import store_bfloat16
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.frontends import zoo
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train.losses import cross_entropy, mean_squared_error
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.step import Regularization, training_graph
from bessemer.frontends.train.trainer import Trainer
from tests.pass_runs import Case

BATCH, STEPS = 32, 12


def _losses(precision: Precision, network: Network, batch: dict[str, Array], **given: Any) -> Array:
    network = network.with_dims({"batch": len(batch["y"])})
    target = Input("y", batch["y"].shape, "f32" if batch["y"].dtype == np.float32 else "i64")
    trainer = Trainer(network, targets=[target], precision=precision, threads=1, **given)
    losses = np.array([trainer.step(batch)["loss"] for _ in range(STEPS)])
    assert {array.dtype for array in trainer.state.values()} == {np.dtype(np.float32)}
    return losses


def _torch_losses(network: Network, x: Array, y: Array, rounded: Callable[[Any], Any]) -> Array:
    """The same steps in torch, with a function of all that products multiply."""
    torch = pytest.importorskip("torch")

    class Product(torch.autograd.Function):  # type: ignore[misc, name-defined, unused-ignore]
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any) -> Any:
            ctx.save_for_backward(x, w)
            return rounded(x) @ rounded(w)

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            x, w = ctx.saved_tensors
            return rounded(dy) @ rounded(w).T, rounded(x).T @ rounded(dy)

    parameters = [torch.tensor(array, requires_grad=True) for array in network.arrays().values()]
    losses = []
    for _ in range(STEPS):
        value = torch.tensor(x)
        for layer in range(3):
            weight, bias = parameters[2 * layer : 2 * layer + 2]
            value = Product.apply(value, weight) + bias
            value = torch.relu(value) if layer < 2 else value
        loss = ((value - torch.tensor(y)) ** 2).mean()
        slopes = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter -= 0.2 * slope
        losses.append(loss.item())
    return np.array(losses)


def test_a_step_is_one_whose_products_are_of_rounded_numbers() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((BATCH, 20)).astype(np.float32)
    y = rng.standard_normal((BATCH, 7)).astype(np.float32)
    network = zoo.mlp(20, (48, 40), 7)
    exact = _torch_losses(network, x, y, lambda value: value)
    wanted = _torch_losses(network, x, y, lambda value: value.bfloat16().float())
    batch = {network.inputs[0].name: x, "y": y}
    found = _losses("bfloat16", network, batch, loss=mean_squared_error, optimizer=SGD(0.2))
    # Where sums end an ulp apart, a number is now and then rounded the other way.
    assert np.abs(found / wanted - 1).max() < 0.2 * np.abs(exact / wanted - 1).max()


@pytest.mark.slow
def test_a_convolutional_network_learns_as_in_float32() -> None:
    rng = np.random.default_rng(4)
    network = zoo.lenet(size=16)
    (given,) = network.with_dims({"batch": BATCH}).inputs
    batch: dict[str, Array] = {
        given.name: rng.standard_normal(given.type.static_shape).astype(np.float32),
        "y": rng.integers(0, 10, BATCH),
    }
    settings: dict[str, Any] = {"loss": cross_entropy, "optimizer": SGD(0.02)}
    found, exact = (_losses(kind, network, batch, **settings) for kind in ("bfloat16", "float32"))
    np.testing.assert_allclose(found, exact, rtol=2e-2)
    assert found[-1] < 0.9 * found[0]


def test_of_convolutions_the_gradients_of_weights_stay_float32() -> None:
    graph = training_graph(
        zoo.lenet(size=16),
        cross_entropy,
        [Input("y", ("batch",), "i64")],
        SGD(0.1),
        {},
        Regularization(),
    ).graph
    narrow = remove_dead(store_bfloat16(graph))
    kinds = [str(n.inputs[0].type.dtype) for n in narrow.nodes if n.operator.name == "conv"]
    assert sorted(kinds) == ["bf16", "bf16", "f32", "f32"]


@pytest.mark.parametrize("shape", [(64, 48, 80), (33, 17, 19)], ids=str)
def test_a_product_across_rows_is_of_rounded_numbers(
    shape: tuple[int, int, int], rng: np.random.Generator
) -> None:
    depth, rows, columns = shape
    c = Case()
    left = c.of("transpose", c.x(depth, rows), permutation=(1, 0))
    graph = c.b.finish([c.of("matmul", left, c.x(depth, columns))])
    arrays = [rng.standard_normal((depth, size)).astype(np.float32) for size in (rows, columns)]
    model = bessemer.compile(graph, precision="bfloat16")
    (found,) = model.run({f"x{k}": array for k, array in enumerate(arrays)})
    x, y = (array.astype(ml_dtypes.bfloat16).astype(np.float64) for array in arrays)
    np.testing.assert_allclose(found, x.T @ y, rtol=1e-5, atol=1e-5)


def test_an_unknown_precision_is_refused_before_the_first_step() -> None:
    wrong: Any = "float8"
    with pytest.raises(CompileError, match="precision='float8'"):
        Trainer(
            zoo.mlp(2, (3,), 2), cross_entropy, [Input("y", ("batch",), "i64")], precision=wrong
        )
