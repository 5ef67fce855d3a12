"""Networks of dense layers: the perceptron, multi-layer perceptrons, autoencoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.frontends.builder import (
    Dense,
    Input,
    Network,
    Sequential,
    Tensor,
    relu,
    sigmoid,
    step,
)

Activation = Callable[[Tensor], Tensor]


def perceptron(inputs: int = 2, units: int = 1, *, seed: int = 0) -> Network:
    """One layer of threshold units (Rosenblatt, 1958): x [batch, inputs] to 0 or 1 each."""
    shape = ("batch", inputs)
    return Network(Dense(units, step), Input("x", shape), name="perceptron", seed=seed)


def mlp(
    inputs: int = 784,
    hidden: Sequence[int] = (512, 512),
    classes: int = 10,
    *,
    activation: Activation = relu,
    seed: int = 0,
) -> Network:
    """A multi-layer perceptron: x [batch, inputs] to logits [batch, classes]."""
    layers = Sequential(*(Dense(width, activation) for width in hidden), Dense(classes))
    shape = ("batch", inputs)
    return Network(layers, Input("x", shape), name="mlp", outputs=["logits"], seed=seed)


def autoencoder(
    inputs: int = 784,
    hidden: Sequence[int] = (256, 64, 16),
    *,
    activation: Activation = relu,
    seed: int = 0,
) -> Network:
    """Down to a code and back up to x again: outputs code [batch, hidden[-1]] and rebuilt."""
    widths = [*reversed(hidden[:-1])]
    encoder = Sequential(*(Dense(width, activation) for width in hidden)).named("encoder")
    layers = [Dense(width, activation) for width in widths]
    decoder = Sequential(*layers, Dense(inputs, sigmoid)).named("decoder")

    def forward(x: Tensor) -> dict[str, Tensor]:
        code = encoder(x)
        return {"rebuilt": decoder(code), "code": code}

    return Network(forward, Input("x", ("batch", inputs)), name="autoencoder", seed=seed)
