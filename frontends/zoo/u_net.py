"""U-Net (Ronneberger et al., 2015): images [batch, C, H, W] to a map of classes of their size."""

from __future__ import annotations

from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Input,
    Layer,
    MaxPool,
    Network,
    Sequential,
    Tensor,
    concat,
    pad,
    relu,
)


def _two_convolutions(features: int) -> Sequential:
    return Sequential(
        Conv(features, 3, padding=1, bias=False), BatchNorm(), relu,
        Conv(features, 3, padding=1, bias=False), BatchNorm(), relu,
    )  # fmt: skip


class UNet(Layer):
    """Down by halves, and up again with what was seen on the way down beside it."""

    def __init__(self, classes: int, width: int, depth: int) -> None:
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = [_two_convolutions(features) for features in widths]
        self.grow = [ConvTranspose(features, 2, stride=2) for features in widths[:-1]]
        self.up = [_two_convolutions(features) for features in widths[:-1]]
        self.classify = Conv(classes, 1)
        self.halve = MaxPool(2)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for stage in self.down[:-1]:
            seen.append(stage(x))
            x = self.halve(seen[-1])
        x = self.down[-1](x)
        for grow, stage, beside in reversed(list(zip(self.grow, self.up, seen))):
            x = stage(concat([beside, _as_large(grow(x), beside)]))
        return self.classify(x)


def _as_large(x: Tensor, wanted: Tensor) -> Tensor:
    """Zeros at the ends for what halving has lost of odd sizes."""
    missing = [
        0 if axis == x.channel_axis else after - before
        for axis, (before, after) in enumerate(zip(x.shape, wanted.shape))
    ]
    return pad(x, [0] * x.rank, missing) if any(size != 0 for size in missing) else x


def unet(
    classes: int = 2, *, channels: int = 3, size: int | None = None, width: int = 64,
    depth: int = 4, seed: int = 0,
) -> Network:  # fmt: skip
    """U-Net with batch norm and padded convolutions; unet() has 31,037,698 parameters.

    Without `size`, images may be of any height and width.
    """
    space = ("height", "width") if size is None else (size, size)
    image = Input("image", ("batch", channels, *space))
    layers = UNet(classes, width, depth)
    return Network(layers, image, name="unet", outputs=["logits"], seed=seed)
