"""Networks as channels-first formats make readers write them: transposes around convolutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, f32

N = symbol("n")


class Net:
    """Writes a network on [n, channels, height, width]; weights are seeded."""

    def __init__(self) -> None:
        self.b = GraphBuilder("net")
        self.rng = np.random.default_rng(7)

    def input(self, *shape: Size) -> Value:
        return self.b.input("x", TensorType(f32, (N, *shape)))

    def transpose(self, x: Value, *permutation: int) -> Value:
        return self.b.apply("transpose", x, permutation=permutation)

    def last(self, x: Value) -> Value:
        return self.transpose(x, 0, 2, 3, 1)

    def first(self, x: Value) -> Value:
        return self.transpose(x, 0, 3, 1, 2)

    def weights(self, *shape: int) -> Array:
        scale = np.sqrt(np.prod(shape[1:]))
        return np.asarray(self.rng.standard_normal(shape) / scale, np.float32)

    def conv(
        self, x: Value, channels: int, size: int = 3, stride: int = 1, groups: int = 1
    ) -> Value:
        inputs = x.type.shape[1]
        assert isinstance(inputs, int)
        with self.b.source(f"conv{len(self.b.nodes)}"):
            w = self.b.constant(self.weights(channels, inputs // groups, size, size))
            y = self.b.apply(
                "conv",
                self.last(x),
                self.transpose(w, 2, 3, 1, 0),
                strides=(stride, stride),
                dilations=(1, 1),
                low=(size // 2, size // 2),
                high=(size // 2, size // 2),
                groups=groups,
            )
            return self.by_channel("add", self.first(y), self.rng.standard_normal(channels))

    def by_channel(self, operator: str, x: Value, numbers: Array) -> Value:
        column = self.b.constant(numbers.astype(np.float32))
        column = self.b.apply("reshape", column, shape=(len(numbers), 1, 1))
        spread = self.b.apply("broadcast_to", column, shape=x.type.shape)
        return self.b.apply(operator, x, spread)

    def batch_norm(self, x: Value) -> Value:
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        with self.b.source(f"bn{len(self.b.nodes)}"):
            y = self.by_channel("sub", x, self.rng.standard_normal(channels))
            y = self.by_channel("div", y, self.rng.uniform(0.5, 2, channels))
            y = self.by_channel("mul", y, self.rng.standard_normal(channels))
            return self.by_channel("add", y, self.rng.standard_normal(channels))

    def relu(self, x: Value) -> Value:
        return self.b.apply("relu", x)

    def add(self, x: Value, y: Value) -> Value:
        return self.b.apply("add", x, y)

    def number(self, x: Value, value: float) -> Value:
        return self.b.apply("full", shape=x.type.shape, value=value, dtype=f32)

    def hard_swish(self, x: Value) -> Value:
        gate = self.add(x, self.number(x, 3.0))
        gate = self.b.apply("clip", gate, minimum=0.0, maximum=6.0)
        return self.b.apply("div", self.b.apply("mul", x, gate), self.number(x, 6.0))

    def global_average(self, x: Value) -> Value:
        n, channels, height, width = x.type.shape
        total = self.b.apply("reduce_sum", x, axes=(2, 3))
        assert isinstance(height, int) and isinstance(width, int)
        mean = self.b.apply("div", total, self.number(total, float(height * width)))
        return self.b.apply("reshape", mean, shape=(n, channels, 1, 1))

    def squeeze_excite(self, x: Value) -> Value:
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        gate = self.relu(self.conv(self.global_average(x), 4, 1))
        gate = self.b.apply("sigmoid", self.conv(gate, channels, 1))
        return self.b.apply("mul", x, self.b.apply("broadcast_to", gate, shape=x.type.shape))

    def max_pool(self, x: Value) -> Value:
        window = {"kernel": (2, 2), "strides": (2, 2), "dilations": (1, 1)}
        return self.first(self.b.apply("max_pool", self.last(x), **window, low=(0, 0), high=(0, 0)))

    def double(self, x: Value) -> Value:
        """Nearest neighbours at twice the size."""
        n, c, h, w = x.type.shape
        y = self.b.apply("reshape", x, shape=(n, c, h, 1, w, 1))
        y = self.b.apply("broadcast_to", y, shape=(n, c, h, 2, w, 2))
        return self.b.apply("reshape", y, shape=(n, c, 2 * h, 2 * w))


def residual(net: Net, blocks: int = 2) -> Value:
    """A small ResNet: batch norms, residual sums, a strided shortcut, a pooled classifier."""
    y = net.relu(net.batch_norm(net.conv(net.input(3, 8, 8), 8)))
    for _ in range(blocks):
        z = net.relu(net.batch_norm(net.conv(y, 8)))
        y = net.relu(net.add(net.batch_norm(net.conv(z, 8)), y))
    z = net.relu(net.batch_norm(net.conv(y, 16, stride=2)))
    y = net.relu(net.add(net.batch_norm(net.conv(y, 16, 1, 2)), net.batch_norm(net.conv(z, 16))))
    flat = net.b.apply("reshape", net.global_average(y), shape=(N, 16))
    return net.b.apply("matmul", flat, net.b.constant(net.weights(16, 10)))


def mobile(net: Net) -> Value:
    """Inverted bottlenecks with depthwise convolutions, hard-swish and squeeze-excite."""
    y = net.hard_swish(net.batch_norm(net.conv(net.input(3, 8, 8), 8)))
    for _ in range(2):
        z = net.hard_swish(net.batch_norm(net.conv(y, 16, 1)))
        z = net.hard_swish(net.batch_norm(net.conv(z, 16, groups=16)))
        y = net.add(y, net.batch_norm(net.conv(net.squeeze_excite(z), 8, 1)))
    return net.b.apply("reshape", net.global_average(y), shape=(N, 8))


def u_net(net: Net) -> Value:
    """Down and up again, with skip connections that are concatenated."""
    skips: list[Value] = []
    y = net.relu(net.conv(net.input(3, 8, 8), 8))
    for _ in range(2):
        skips.append(y)
        y = net.relu(net.conv(net.max_pool(y), 8))
    for skip in reversed(skips):
        y = net.relu(net.conv(net.b.apply("concat", net.double(y), skip, axis=1), 8))
    return net.conv(y, 2, 1)


def pixel_shuffle(net: Net) -> Value:
    """Channels to space between two convolutions: one transpose cannot be avoided there."""
    y = net.relu(net.conv(net.input(3, 8, 8), 16))
    y = net.b.apply("reshape", y, shape=(N, 4, 2, 2, 8, 8))
    y = net.b.apply("reshape", net.transpose(y, 0, 1, 4, 2, 5, 3), shape=(N, 4, 16, 16))
    return net.global_average(net.conv(net.relu(y), 8))


def softmax_of_channels(net: Net) -> Value:
    """Reductions over channels, then a pad (which makes it larger) and a slice."""
    y = net.conv(net.input(3, 8, 8), 4)

    def over_channels(name: str, x: Value) -> Value:
        kept = net.b.apply("reshape", net.b.apply(name, x, axes=(1,)), shape=(N, 1, 8, 8))
        return net.b.apply("broadcast_to", kept, shape=x.type.shape)

    y = net.b.apply("exp", net.b.apply("sub", y, over_channels("reduce_max", y)))
    y = net.b.apply("div", y, over_channels("reduce_sum", y))
    y = net.b.apply("pad", y, low=(0, 0, 1, 2), high=(0, 1, 0, 0), mode="constant", value=0.0)
    y = net.b.apply("slice", y, starts=(0, 1, 0, 1), shape=(N, 3, 8, 8), steps=(1, 1, 1, 1))
    return net.last(net.add(y, y))


NETS: dict[str, tuple[Callable[[Net], Value], int]] = {
    "residual": (residual, 1),
    "mobile": (mobile, 1),
    "u_net": (u_net, 2),
    "pixel_shuffle": (pixel_shuffle, 2),
    "softmax_of_channels": (softmax_of_channels, 1),
}
"""Networks, and how many transposes must be left: of the input, of the output, of pixels."""


def graph_of(build: Callable[[Net], Value]) -> Graph:
    """The graph of a network."""
    net = Net()
    return net.b.finish([build(net)], ["y"])
