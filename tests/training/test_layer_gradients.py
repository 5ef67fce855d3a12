"""Every layer trains: its parameters' gradients are the limits of differences, in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.frontends import builder as nn
from bessemer.frontends.builder import Input, Network, Tensor
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer

Shape = tuple[int, ...]
IMAGE, VECTOR, SEQUENCE = (2, 4, 5, 6), (3, 6), (2, 4, 6)

LAYERS: dict[str, tuple[Callable[[], Any], Shape]] = {
    "dense": (lambda: nn.Dense(5, nn.tanh), VECTOR),
    "dense without bias": (lambda: nn.Dense(5, bias=False), SEQUENCE),
    "convolution": (lambda: nn.Conv(3, 3, stride=2, padding=1), IMAGE),
    "dilated and grouped": (lambda: nn.Conv(4, 2, dilation=2, groups=2), IMAGE),
    "depthwise": (lambda: nn.Conv(8, 3, padding="same", groups=4), IMAGE),
    "convolution over time": (lambda: nn.Conv(3, 2), (2, 4, 7)),
    "convolution of volumes": (lambda: nn.Conv(3, 2), (2, 2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose(3, 3, 2, 1), IMAGE),
    "PReLU": (lambda: nn.PReLU(), IMAGE),
    "shared PReLU": (lambda: nn.PReLU(shared=True), VECTOR),
    "batch norm": (lambda: nn.BatchNorm(), IMAGE),
    "batch norm of vectors": (lambda: nn.BatchNorm(), VECTOR),
    "layer norm": (lambda: nn.LayerNorm(), SEQUENCE),
    "layer norm of two axes": (lambda: nn.LayerNorm(2), SEQUENCE),
    "RMS norm": (lambda: nn.RMSNorm(), SEQUENCE),
    "group norm": (lambda: nn.GroupNorm(2), IMAGE),
    "instance norm": (lambda: nn.InstanceNorm(), IMAGE),
    "attention": (lambda: nn.MultiHeadAttention(2), SEQUENCE),
    "causal attention": (lambda: nn.MultiHeadAttention(2, causal=True), SEQUENCE),
    "transformer": (lambda: nn.TransformerBlock(6, 2), SEQUENCE),
    "residual": (lambda: nn.Residual(nn.Dense(6, nn.sigmoid)), VECTOR),
    "dense connection": (lambda: nn.DenseConnection(nn.Conv(2, 1)), IMAGE),
    "dropout": (lambda: nn.Sequential(nn.Dense(6), nn.Dropout(0.4), nn.Dense(3)), VECTOR),
    "pools": (
        lambda: nn.Sequential(nn.Conv(3, 2), nn.MaxPool(2), nn.Conv(3, 1), nn.AveragePool(2, 1)),
        IMAGE,
    ),
    "global pools": (lambda: nn.Sequential(nn.Conv(3, 2), nn.GlobalAveragePool()), IMAGE),
    "local response": (lambda: nn.Sequential(nn.Conv(6, 2), nn.LocalResponseNorm(3)), IMAGE),
    "upsampling": (lambda: nn.Sequential(nn.Conv(3, 2), nn.Upsample(2)), IMAGE),
    "linear upsampling": (
        lambda: nn.Sequential(nn.Conv(3, 2), nn.Upsample(2, "linear")),
        IMAGE,
    ),
    "RNN": (lambda: nn.RNN(3), SEQUENCE),
    "LSTM": (lambda: nn.LSTM(3, 2, bidirectional=True), SEQUENCE),
    "LSTM with dropout": (lambda: nn.LSTM(3, 2, dropout=0.3), SEQUENCE),
    "GRU": (lambda: nn.GRU(3), SEQUENCE),
}
UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(nn, name)
    for name in (
        "relu", "leaky_relu", "relu6", "sigmoid", "tanh", "ramp", "gaussian", "gelu", "silu",
        "hard_sigmoid", "hard_swish", "hard_tanh", "softplus", "softsign", "elu", "celu", "selu",
        "mish", "thresholded_relu", "softmax", "log_softmax",
    )
}  # fmt: skip
_RATE = 0.5


def _trainer(network: Network, x: np.ndarray[Any, Any]) -> tuple[Trainer, dict[str, Any]]:
    """The loss is a random direction of the output; one step moves by the gradient."""
    shape = network.structure.outputs[0].type.static_shape
    target = np.random.default_rng(7).standard_normal(shape)
    trainer = Trainer(
        network, lambda y, t: (y * t).sum(), [Input("t", shape, "f64")], optimizer=SGD(_RATE),
        threads=1,
    )  # fmt: skip
    return trainer, {"x": x, "t": target}


def _check(network: Network, x: np.ndarray[Any, Any], rng: np.random.Generator) -> None:
    """Gradients along random directions against central differences of the training loss."""
    arrays = {
        name: array + (0.1 * rng.standard_normal(array.shape) if "running" not in name else 0)
        for name, array in network.arrays().items()
    }
    trainer, batch = _trainer(network.with_arrays(arrays), x)
    trainer.step(batch)
    parameters = [name for name, p in network.parameters.items() if p.trainable]
    assert parameters
    found = {name: (arrays[name] - trainer.state[name]) / _RATE for name in parameters}

    def loss(moved: str, array: np.ndarray[Any, Any]) -> float:
        trainer.state = {name: a.copy() for name, a in arrays.items()} | {moved: array}
        trainer.steps = 0
        return trainer.step(batch)["loss"]

    for name in parameters:
        direction = rng.standard_normal(arrays[name].shape)
        step = 1e-6
        up = loss(name, arrays[name] + step * direction)
        down = loss(name, arrays[name] - step * direction)
        expected = (up - down) / (2 * step)
        actual = float((found[name] * direction).sum())
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_s_gradients_are_limits_of_differences(name: str, rng: np.random.Generator) -> None:
    make, shape = LAYERS[name]
    _check(Network(make(), Input("x", shape, "f64")), rng.standard_normal(shape), rng)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_s_gradient_is_a_limit_of_differences(name: str, rng: np.random.Generator) -> None:
    layers = nn.Sequential(nn.Dense(5), UNITS[name])
    _check(Network(layers, Input("x", VECTOR, "f64")), rng.standard_normal(VECTOR), rng)


@pytest.mark.parametrize("rows", [5, 30])
def test_an_embedding_s_rows_get_what_their_tokens_give(
    rows: int, rng: np.random.Generator
) -> None:
    """Of 30 rows, those that move are written over where they lie."""
    layers = nn.Sequential(nn.Embedding(rows, 3), nn.Dense(2))
    network = Network(layers, Input("x", (2, 3), "i64"))
    x = np.array([[0, 3, 3], [3, 1, 0]])
    shape = (2, 3, 2)
    trainer = Trainer(network, lambda y, t: (y * t).sum(), [Input("t", shape)], optimizer=SGD(1.0))
    target = rng.standard_normal(shape).astype(np.float32)
    before = {name: array.copy() for name, array in trainer.state.items()}
    trainer.step({"x": x, "t": target})
    wanted = np.zeros((rows, 3))
    np.add.at(wanted, x, target @ before["dense1.weight"].T)
    name = "embedding1.weight"
    np.testing.assert_allclose(before[name] - trainer.state[name], wanted, atol=1e-6)


def test_dropout_drops_its_share_and_nothing_without_training(rng: np.random.Generator) -> None:
    """The slope of each element's own weight is 1 / (1 - rate), or 0."""

    class Slopes(nn.Layer):
        def forward(self, x: Tensor) -> Tensor:
            return nn.Dropout(0.25)(x * x.parameter("weight", (200, 200), nn.Constant(1.0)))

    network = Network(Slopes(), Input("x", (200, 200)))
    x = np.ones((200, 200), np.float32)
    (kept,) = bessemer.compile(network).run({"x": x})
    np.testing.assert_array_equal(kept, x)
    trainer = Trainer(network, lambda y: y.sum(), [], optimizer=SGD(1.0))
    trainer.step({"x": x})
    first = 1 - trainer.state["weight"]
    assert set(np.unique(first.round(5))) == {np.float32(0), np.float32(1 / 0.75).round(5)}
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.02)
    before = trainer.state["weight"].copy()
    trainer.step({"x": x})
    # Another step drops others.
    both = (first == 0) & (before == trainer.state["weight"])
    assert both.mean() == pytest.approx(0.0625, abs=0.02)


def test_every_draw_has_numbers_of_its_own() -> None:
    """A layer applied twice drops others each time, as two views of one picture want it."""
    dropout = nn.Dropout(0.5)

    def forward(x: Tensor) -> Tensor:
        normal = nn.normal(x, x.shape), nn.normal(x, x.shape)
        return nn.stack([dropout(x), dropout(x), *normal, nn.uniform(x, x.shape)])

    metrics = {
        "dropped apart": lambda y: abs(y[0] - y[1]).mean(),
        "normal": lambda y: (y[2] * y[2]).mean(),
        "together": lambda y: (y[2] * y[3]).mean(),
        "uniform": lambda y: y[4].mean(),
        "first": lambda y: y[4][0, 0],
    }

    class Drawing(nn.Layer):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x) * x.parameter("weight", (), nn.ONES)

    network = Network(Drawing(), Input("x", ("batch", 500)))
    trainer = Trainer(network, lambda y: y.mean(), [], optimizer=SGD(0.0), metrics=metrics)
    x = np.ones((40, 500), np.float32)
    steps = [trainer.step({"x": x}) for _ in range(2)]
    for found in steps:
        assert found["dropped apart"] == pytest.approx(1.0, abs=0.05)
        assert found["normal"] == pytest.approx(1.0, abs=0.05)
        assert found["together"] == pytest.approx(0.0, abs=0.05)
        assert found["uniform"] == pytest.approx(0.5, abs=0.02)
    assert steps[0]["first"] != steps[1]["first"]
    same = bessemer.compile(network)
    np.testing.assert_array_equal(same.run({"x": x})[0], same.run({"x": x})[0])
