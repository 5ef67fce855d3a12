"""A residual network with layers of one's own: python examples/residual_network.py"""

import numpy as np

import bessemer
from bessemer.frontends import builder as nn


class Block(nn.Layer):
    """Two convolutions beside a shortcut; halves the picture if the stride is 2."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        self.conv1 = nn.Conv(channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm()
        self.conv2 = nn.Conv(channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm()
        self.shortcut = nn.Conv(channels, 1, stride) if stride > 1 else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        y = nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nn.relu(y + (self.shortcut(x) if self.shortcut else x))


def main() -> None:
    """Compiles once and runs pictures in batches of 1 and 8."""
    layers = nn.Sequential(
        nn.Conv(16, 3, padding=1),
        Block(16),
        Block(32, stride=2),
        Block(64, stride=2),
        nn.GlobalAveragePool(),
        nn.Dense(10),
    )
    picture = nn.Input("picture", ("batch", 3, 32, 32))
    network = nn.Network(layers, picture, name="small_resnet", outputs=["logits"])
    print(network)
    model = bessemer.compile(network)
    for batch in (1, 8):
        pictures = np.random.default_rng(0).random((batch, 3, 32, 32), dtype=np.float32)
        (logits,) = model.run({"picture": pictures})
        print(f"batch {batch}: classes {logits.argmax(axis=1).tolist()}")


if __name__ == "__main__":
    main()
