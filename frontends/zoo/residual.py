"""ResNet (He et al., 2015): images [batch, 3, H, W] to logits [batch, classes]."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    Dense,
    GlobalAveragePool,
    Layer,
    MaxPool,
    Network,
    Residual,
    Sequential,
    Tensor,
    relu,
)
from bessemer.frontends.zoo.convolutional import image_network, stages_of

Activation = Callable[[Tensor], Tensor]

STAGES = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
}  # fmt: skip
"""Blocks in each of the four stages, by the number of layers with weights."""


def _conv(features: int, kernel: int, stride: int = 1) -> Conv:
    return Conv(features, kernel, stride=stride, padding=kernel // 2, bias=False)


def _basic(features: int, stride: int, activation: Activation) -> Sequential:
    """Two convolutions of 3x3."""
    return Sequential(
        _conv(features, 3, stride), BatchNorm(), activation,
        _conv(features, 3), BatchNorm(),
    )  # fmt: skip


def _bottleneck(features: int, stride: int, activation: Activation) -> Sequential:
    """A 3x3 convolution between 1x1 ones, which narrow to a quarter and widen again.

    The stride is the middle one's, as in torchvision (ResNet v1.5); the paper has it in the first.
    """
    narrow = features // 4
    return Sequential(
        _conv(narrow, 1), BatchNorm(), activation,
        _conv(narrow, 3, stride), BatchNorm(), activation,
        _conv(features, 1), BatchNorm(),
    )  # fmt: skip


def resnet(
    depth: int = 50, classes: int = 1000, *, size: int = 224, width: int = 64, channels: int = 3,
    small_images: bool = False, activation: Activation = relu, seed: int = 0,
) -> Network:  # fmt: skip
    """ResNet with 18, 34, 50, 101 or 152 layers: resnet(50) has 25,557,032 parameters.

    `small_images` begins with one 3x3 convolution in place of the 7x7 and the pool.
    """
    make_body, expansion = (_basic, 1) if depth < 50 else (_bottleneck, 4)
    stem: list[Layer] = [_conv(width, 7, 2), BatchNorm()]
    if small_images:
        stem = [_conv(width, 3), BatchNorm()]
    stages: list[Layer] = []
    before = width
    for stage, count in enumerate(stages_of("resnet", STAGES, depth)):
        blocks: list[Layer] = []
        features = expansion * width * 2**stage
        for place in range(count):
            stride = 2 if stage > 0 and place == 0 else 1
            shortcut = None
            if stride != 1 or before != features:
                shortcut = Sequential(_conv(features, 1, stride), BatchNorm())
            body = make_body(features, stride, activation)
            blocks.append(Residual(body, shortcut, activation))
            before = features
        stages.append(Sequential(*blocks).named(f"stage{stage + 1}"))
    pool = [] if small_images else [MaxPool(3, 2, padding=1)]
    layers = Sequential(*stem, activation, *pool, *stages, GlobalAveragePool(), Dense(classes))
    return image_network(f"resnet{depth}", layers, channels, size, seed)
