"""The vision transformer (Dosovitskiy et al., 2020): an image is a text of patches."""

from __future__ import annotations

from bessemer.frontends.builder import (
    Conv,
    Dense,
    Layer,
    LayerNorm,
    Network,
    Normal,
    Tensor,
    TransformerBlock,
    concat,
)
from bessemer.frontends.builder.initializers import ZEROS
from bessemer.frontends.zoo.convolutional import image_network


class VisionTransformer(Layer):
    """Patches and a class token, each with its place; blocks; logits of the class token."""

    def __init__(self, patch: int, features: int, heads: int, layers: int, classes: int) -> None:
        self.patches = Conv(features, patch, stride=patch)
        self.features = features
        self.blocks = [TransformerBlock(features, heads, epsilon=1e-6) for _ in range(layers)]
        self.norm = LayerNorm(epsilon=1e-6)
        self.classify = Dense(classes)

    def forward(self, image: Tensor) -> Tensor:
        grid = self.patches(image)
        batch, width = grid.shape[0], self.features
        words = grid.reshape(batch, width, -1).transpose(0, 2, 1)
        first = image.parameter("class_token", (1, 1, width), ZEROS)
        x = concat([first.broadcast_to(batch, 1, width), words], 1)
        x = x + image.parameter("position", (x.shape[1], width), Normal(0.02))
        for block in self.blocks:
            x = block(x)
        return self.classify(self.norm(x)[:, 0])


def vision_transformer(
    classes: int = 1000, *, size: int = 224, patch: int = 16, features: int = 768, heads: int = 12,
    layers: int = 12, channels: int = 3, seed: int = 0,
) -> Network:  # fmt: skip
    """ViT-B/16: images [batch, channels, size, size] to logits; 86,567,656 parameters."""
    network = VisionTransformer(patch, features, heads, layers, classes)
    return image_network("vision_transformer", network, channels, size, seed)
