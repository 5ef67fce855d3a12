"""Greedy pretraining, layer by layer: each learns to rebuild what the one before it gives.

With Boltzmann machines the result is a deep belief network (Hinton, Osindero & Teh, 2006); with
autoencoders, stacked autoencoders (Bengio et al., 2007). Either gives a sigmoid network its first
weights, which ordinary training then tunes.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.builder.activations import sigmoid
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.compile import compile
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import Adam, Optimizer
from bessemer.frontends.train.trainer import Trainer

Layer = tuple[Array, Array]
"""A weight [inputs, outputs], and a bias [outputs]."""


def pretrain_machines(
    x: Array, widths: Sequence[int], *, epochs: int = 10, batch: int = 32, chain: int = 1,
    optimizer: Optimizer | None = None, threads: int | None = None, seed: int = 0,
) -> list[Layer]:  # fmt: skip
    """Boltzmann machines on rows x [rows, features] between 0 and 1; from the first layer on."""
    found: list[Layer] = []
    for width in widths:
        network = zoo.boltzmann_machine(x.shape[1], width, chain=chain, seed=seed + len(found))
        trainer = Trainer(
            network, _contrast, [], optimizer=optimizer or Adam(0.005), threads=threads, seed=seed
        )
        trainer.fit({"x": x}, epochs=epochs, batch=batch)
        found.append((trainer.state["weight"], trainer.state["bias_hidden"]))
        x = compile(trainer.network, threads=threads).run({"x": x})[0]
    return found


def with_layers(network: Network, layers: Sequence[Layer]) -> Network:
    """An `mlp` whose first layers are these."""
    arrays: dict[str, Array] = {}
    for place, (weight, bias) in enumerate(layers, 1):
        arrays |= {f"dense{place}.weight": weight, f"dense{place}.bias": bias}
    return network.with_arrays(arrays)


def _contrast(hidden: Tensor, rebuilt: Tensor, contrast: Tensor) -> Tensor:
    return contrast


def pretrain_autoencoders(
    x: Array, widths: Sequence[int], *, epochs: int = 10, batch: int = 32,
    optimizer: Optimizer | None = None, threads: int | None = None, seed: int = 0,
) -> list[Layer]:  # fmt: skip
    """Autoencoders of one hidden sigmoid layer, on rows x between 0 and 1; the encoders' layers."""
    found: list[Layer] = []
    for width in widths:
        network = zoo.autoencoder(x.shape[1], [width], activation=sigmoid, seed=seed + len(found))
        trainer = Trainer(
            network,
            lambda rebuilt, code, target: mean_squared_error(rebuilt, target),
            [Input("target", network.inputs[0].shape)],
            optimizer=optimizer or Adam(0.005),
            threads=threads,
            seed=seed,
        )
        trainer.fit({"x": x, "target": x}, epochs=epochs, batch=batch)
        state = trainer.state
        found.append((state["encoder.dense1.weight"], state["encoder.dense1.bias"]))
        x = compile(trainer.network, threads=threads).run({"x": x})[1]
    return found
