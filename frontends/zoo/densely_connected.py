"""DenseNet (Huang et al., 2016): images [batch, 3, H, W] to logits [batch, classes]."""

from __future__ import annotations

from bessemer.frontends.builder import (
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    DenseConnection,
    GlobalAveragePool,
    Layer,
    MaxPool,
    Network,
    Sequential,
    relu,
)
from bessemer.frontends.zoo.convolutional import image_network, stages_of

STAGES = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""Connections in each of the four stages, by the number of layers with weights."""


def _connection(growth: int) -> DenseConnection:
    """Adds `growth` channels, made through a bottleneck of four times as many."""
    body = Sequential(
        BatchNorm(), relu, Conv(4 * growth, 1, bias=False),
        BatchNorm(), relu, Conv(growth, 3, padding=1, bias=False),
    )  # fmt: skip
    return DenseConnection(body)


def densenet(
    depth: int = 121, classes: int = 1000, *, size: int = 224, growth: int = 32,
    stages: tuple[int, ...] | None = None, channels: int = 3, seed: int = 0,
) -> Network:  # fmt: skip
    """DenseNet with 121, 169 or 201 layers: densenet(121) has 7,978,856 parameters.

    `stages`: other numbers of connections in each stage than those of `depth`.
    """
    features = 2 * growth
    layers: list[Layer] = [Conv(features, 7, 2, 3, bias=False), BatchNorm()]
    body: list[Layer] = []
    counts = stages or stages_of("densenet", STAGES, depth)
    for stage, count in enumerate(counts):
        body.extend(_connection(growth) for _ in range(count))
        features += count * growth
        if stage < len(counts) - 1:
            features //= 2
            body.append(_transition(features))
    head = (BatchNorm(), relu, GlobalAveragePool(), Dense(classes))
    chain = Sequential(*layers, relu, MaxPool(3, 2, 1), *body, *head)
    return image_network(f"densenet{depth}", chain, channels, size, seed)


def _transition(features: int) -> Sequential:
    """Half the channels and half the size."""
    return Sequential(BatchNorm(), relu, Conv(features, 1, bias=False), AveragePool(2))
