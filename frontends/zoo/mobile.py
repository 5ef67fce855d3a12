"""MobileNet v2 (Sandler et al., 2018): images [batch, 3, H, W] to logits [batch, classes]."""

from __future__ import annotations

from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    Dense,
    DepthwiseConv,
    Dropout,
    GlobalAveragePool,
    Layer,
    Network,
    ReLU6,
    Residual,
    Sequential,
)
from bessemer.frontends.zoo.convolutional import image_network

STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
"""(expansion, features, blocks, stride of the first) of each stage."""


def _rounded(features: float) -> int:
    """The nearest multiple of 8, but never less than nine tenths."""
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * features else nearest


def _inverted(before: int, features: int, stride: int, expansion: int) -> Layer:
    """Widens with 1x1, filters every channel by itself, narrows with 1x1."""
    hidden = before * expansion
    widen: list[Layer] = []
    if expansion != 1:
        widen = [Conv(hidden, 1, bias=False), BatchNorm(), ReLU6()]
    body = Sequential(
        *widen,
        DepthwiseConv(kernel=3, stride=stride, padding=1, bias=False), BatchNorm(), ReLU6(),
        Conv(features, 1, bias=False), BatchNorm(),
    )  # fmt: skip
    return Residual(body) if stride == 1 and before == features else body


def mobilenet_v2(
    classes: int = 1000, *, size: int = 224, width: float = 1.0, seed: int = 0
) -> Network:
    """MobileNet v2: 3,504,872 parameters. `width` scales the features of every layer."""
    before = _rounded(32 * width)
    layers: list[Layer] = [Conv(before, 3, 2, 1, bias=False), BatchNorm(), ReLU6()]
    for expansion, wanted, count, stride in STAGES:
        features = _rounded(wanted * width)
        for place in range(count):
            layers.append(_inverted(before, features, stride if place == 0 else 1, expansion))
            before = features
    last = _rounded(1280 * max(width, 1.0))
    layers += [Conv(last, 1, bias=False), BatchNorm(), ReLU6(), GlobalAveragePool()]
    network = Sequential(*layers, Dropout(0.2), Dense(classes))
    return image_network("mobilenet_v2", network, 3, size, seed)
