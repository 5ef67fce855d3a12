"""LeNet, AlexNet, VGG: chains of convolutions, from images [batch, C, H, W] to logits."""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Input,
    Layer,
    MaxPool,
    Network,
    ReLU,
    Sequential,
)


def image_network(
    name: str, layers: Layer, channels: int, size: int, seed: int, output: str = "logits"
) -> Network:
    """A network from square images."""
    image = Input("image", ("batch", channels, size, size))
    return Network(layers, image, name=name, outputs=[output], seed=seed)


def stages_of(name: str, stages: Mapping[int, tuple[int, ...]], depth: int) -> tuple[int, ...]:
    """How many layers each stage has in the network of this depth."""
    if depth not in stages:
        known = ", ".join(map(str, stages))
        raise CompileError(f"{name} has {known} layers, not {depth}.")
    return stages[depth]


def lenet(classes: int = 10, *, size: int = 28, channels: int = 1, seed: int = 0) -> Network:
    """LeNet-5 (LeCun et al., 1998), with maxima and ReLU: 61,706 parameters."""
    layers = Sequential(
        Conv(6, 5, padding=2), ReLU(), MaxPool(2),
        Conv(16, 5), ReLU(), MaxPool(2),
        Flatten(),
        Dense(120), ReLU(),
        Dense(84), ReLU(),
        Dense(classes),
    )  # fmt: skip
    return image_network("lenet", layers, channels, size, seed)


def alexnet(
    classes: int = 1000, *, size: int = 224, width: int = 64, hidden: int = 4096, seed: int = 0
) -> Network:
    """AlexNet on one device (Krizhevsky, 2014): 61,100,840 parameters. `width`: first features."""
    layers = Sequential(
        Conv(width, 11, stride=4, padding=2), ReLU(), MaxPool(3, 2),
        Conv(3 * width, 5, padding=2), ReLU(), MaxPool(3, 2),
        Conv(6 * width, 3, padding=1), ReLU(),
        Conv(4 * width, 3, padding=1), ReLU(),
        Conv(4 * width, 3, padding=1), ReLU(), MaxPool(3, 2),
        Flatten(),
        Dropout(), Dense(hidden), ReLU(),
        Dropout(), Dense(hidden), ReLU(),
        Dense(classes),
    )  # fmt: skip
    return image_network("alexnet", layers, 3, size, seed)


VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions before each of the five pools, by the number of layers with weights."""


def vgg(
    depth: int = 16, classes: int = 1000, *, size: int = 224, width: int = 64, hidden: int = 4096,
    batch_norm: bool = False, channels: int = 3, seed: int = 0,
) -> Network:  # fmt: skip
    """VGG with 11, 13, 16 or 19 layers (Simonyan & Zisserman, 2014): vgg(16) has 138,357,544."""
    layers: list[Layer] = []
    for stage, count in enumerate(stages_of("vgg", VGG_STAGES, depth)):
        for _ in range(count):
            layers.append(Conv(width * min(2**stage, 8), 3, padding=1))
            layers.extend([BatchNorm(), ReLU()] if batch_norm else [ReLU()])
        layers.append(MaxPool(2))
    head = [Flatten(), Dense(hidden), ReLU(), Dropout(), Dense(hidden), ReLU(), Dropout()]
    chain = Sequential(*layers, *head, Dense(classes))
    return image_network(f"vgg{depth}", chain, channels, size, seed)
