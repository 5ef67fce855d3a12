"""DCGAN (Radford et al., 2015): noise to images, and images to how real they look."""

from __future__ import annotations

from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Flatten,
    Input,
    Layer,
    LeakyReLU,
    Network,
    Normal,
    Sequential,
    relu,
    sigmoid,
    tanh,
)
from bessemer.frontends.zoo.convolutional import image_network

WEIGHTS = Normal(0.02)


def dcgan_generator(
    noise: int = 100, *, channels: int = 3, width: int = 64, doublings: int = 4, seed: int = 0
) -> Network:
    """noise [batch, noise, 1, 1] to an image between -1 and 1, 4 · 2 ** doublings a side.

    3,576,704 parameters. `width`: the features before the last layer.
    """
    layers: list[Layer] = []
    widths = [width * 2**level for level in reversed(range(doublings))]
    for place, features in enumerate(widths):
        stride, padding = (1, 0) if place == 0 else (2, 1)
        grow = ConvTranspose(features, 4, stride, padding, bias=False, weights=WEIGHTS)
        layers.append(Sequential(grow, BatchNorm(), relu))
    last = ConvTranspose(channels, 4, 2, 1, bias=False, weights=WEIGHTS)
    return Network(
        Sequential(*layers, last, tanh),
        Input("noise", ("batch", noise, 1, 1)),
        name="dcgan_generator",
        outputs=["image"],
        seed=seed,
    )


def dcgan_discriminator(
    size: int = 64, *, channels: int = 3, width: int = 64, seed: int = 0
) -> Network:
    """image [batch, channels, size, size] to the probability [batch, 1] that it is real.

    2,765,568 parameters. The size is 4 times a power of two.
    """
    layers: list[Layer] = [Conv(width, 4, 2, 1, bias=False, weights=WEIGHTS), LeakyReLU(0.2)]
    side, features = size // 2, width
    while side > 4:
        side, features = side // 2, features * 2
        shrink = Conv(features, 4, 2, 1, bias=False, weights=WEIGHTS)
        layers += [shrink, BatchNorm(), LeakyReLU(0.2)]
    judge = Conv(1, 4, bias=False, weights=WEIGHTS)
    chain = Sequential(*layers, judge, Flatten(), sigmoid)
    return image_network("dcgan_discriminator", chain, channels, size, seed, "probability")
