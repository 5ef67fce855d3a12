"""GANs: noise to images, and images to how real they look."""

from __future__ import annotations

from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    Input,
    Layer,
    LeakyReLU,
    Network,
    Normal,
    Sequential,
    Tensor,
    relu,
    sigmoid,
    tanh,
)
from bessemer.frontends.zoo.convolutional import image_network

WEIGHTS = Normal(0.02)


def dcgan_generator(
    noise: int = 100, *, channels: int = 3, width: int = 64, doublings: int = 4, seed: int = 0
) -> Network:
    """DCGAN (Radford et al., 2015): noise [batch, noise, 1, 1] to an image between -1 and 1.

    The image has 4 · 2 ** doublings a side. 3,576,704 parameters. `width`: the features before the
    last layer.
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


class Adversaries(Layer):
    """A generator and a discriminator (Goodfellow et al., 2014), trained in one step.

    From images and noise, both [batch, ...]: logits of both, and what was made. Training takes
    losses.ADVERSARIAL as its loss: each moves its own layer.
    """

    def __init__(self, generator: Layer, discriminator: Layer) -> None:
        self.generator = generator
        self.discriminator = discriminator

    def forward(self, image: Tensor, noise: Tensor) -> dict[str, Tensor]:
        made = self.generator(noise)
        return {
            "real": self.discriminator(image), "fake": self.discriminator(made), "made": made
        }  # fmt: skip


def dense_gan(inputs: int = 64, *, noise: int = 16, hidden: int = 128, seed: int = 0) -> Network:
    """A GAN of dense layers: image [batch, inputs] between 0 and 1, noise [batch, noise]."""
    generator = Sequential(
        Dense(hidden), BatchNorm(), relu, Dense(hidden), BatchNorm(), relu, Dense(inputs, sigmoid)
    )
    slope = LeakyReLU(0.2)
    discriminator = Sequential(
        Dense(hidden), slope, Dropout(0.3), Dense(hidden), slope, Dropout(0.3), Dense(1)
    )
    shapes = (Input("image", ("batch", inputs)), Input("noise", ("batch", noise)))
    return Network(Adversaries(generator, discriminator), *shapes, name="dense_gan", seed=seed)
