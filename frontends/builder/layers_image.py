"""Convolutions, pools and resizing, over any number of spatial axes.

Images are [N, C, *spatial], or [N, *spatial, C] in a network with `channels_last=True`. The
operators want channels last: transposes go around them, and the compiler cancels those that meet.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size, ceildiv, floordiv, maximum
from bessemer.compiler.ops.composite import composite_shape
from bessemer.frontends.builder.initializers import ZEROS, Fans, He, Initializer
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.settings import require_counts

Each: TypeAlias = int | tuple[int, ...]
"""One number for all spatial axes, or one for each."""
Padding: TypeAlias = int | tuple[int, ...] | tuple[tuple[int, int], ...] | Literal["same"]
"""For all axes, for each, (before, after) for each, or what gives ceil(size / stride) positions."""


def spatial_input(x: Tensor) -> Tensor:
    """x with its channels last. Raises CompileError if it is not a batch of images."""
    if x.rank < 3:
        raise CompileError(
            f"the input is {x.type}; it must have axes for the batch, the channels and at least "
            f"one of space."
        )
    if x.trace.channels_last:
        return x
    return x.with_value(composite_shape.to_channels_last(x.builder, x.value))


def spatial_output(x: Tensor) -> Tensor:
    """x, whose channels are last, as the network has images."""
    if x.trace.channels_last:
        return x
    return x.with_value(composite_shape.from_channels_last(x.builder, x.value))


def each_axis(what: str, entries: Each, count: int) -> tuple[int, ...]:
    """One entry for each spatial axis."""
    result = tuple(entries) if isinstance(entries, (tuple, list)) else (entries,) * count
    if len(result) != count:
        raise CompileError(f"{what} {entries} does not fit {count} spatial axes.")
    return result


@dataclass(frozen=True)
class _Window:
    """The attributes that convolutions and pools share."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[Size, ...]
    high: tuple[Size, ...]


def _window(
    x: Tensor, kernel: Sequence[int], stride: Each, dilation: Each, padding: Padding
) -> _Window:
    """For x with its channels last."""
    count = x.rank - 2
    strides = each_axis("stride", stride, count)
    dilations = each_axis("dilation", dilation, count)
    low: list[Size] = []
    high: list[Size] = []
    if padding == "same":
        for size, taps, step, spread in zip(x.shape[1:-1], kernel, strides, dilations):
            reach = (taps - 1) * spread + 1
            needed: Size = reach - 1
            if step > 1:
                needed = maximum((ceildiv(size, step) - 1) * step + reach - size, 0)
            low.append(floordiv(needed, 2))
            high.append(needed - low[-1])
    else:
        pairs = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * count
        try:
            for pair in pairs:
                before, after = pair if isinstance(pair, (tuple, list)) else (pair, pair)
                low.append(operator.index(before))
                high.append(operator.index(after))
        except (TypeError, ValueError):
            pairs = ()
        if len(pairs) != count:
            raise CompileError(f"padding {padding!r} does not fit {count} spatial axes.")
    return _Window(strides, dilations, tuple(low), tuple(high))


def _channels(x: Tensor) -> int:
    channels = x.shape[-1]
    if not isinstance(channels, int):
        raise CompileError(f"the input has {channels} channels; their number must be known.")
    return channels


@dataclass(frozen=True, eq=False, repr=False)
class Conv(Layer):
    """Convolution; weight is [*kernel, channels / groups, features], bias [features].

    `groups` cuts channels and features into as many parts that do not see each other.
    """

    features: int
    kernel: Each
    stride: Each = 1
    padding: Padding = 0
    dilation: Each = 1
    groups: int = 1
    bias: bool = True
    weights: Initializer = field(default=He())

    def __post_init__(self) -> None:
        require_counts(self, 1, "features", "kernel", "stride", "dilation", "groups")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        return spatial_output(self._convolved(image, self.features, self.groups))

    def _convolved(self, x: Tensor, features: int, groups: int) -> Tensor:
        kernel = each_axis("kernel", self.kernel, x.rank - 2)
        channels = _channels(x)
        if channels % groups or features % groups:
            raise CompileError(
                f"{groups} groups cannot share {channels} channels and {features} features."
            )
        weight = x.parameter("weight", (*kernel, channels // groups, features), self.weights)
        window = _window(x, kernel, self.stride, self.dilation, self.padding)
        result = x.with_value(
            x.builder.apply("conv", x.value, weight.value, groups=groups, **vars(window))
        )
        return result + x.parameter("bias", (features,), ZEROS) if self.bias else result


@dataclass(frozen=True, eq=False, repr=False)
class DepthwiseConv(Conv):
    """A convolution of every channel by itself, which makes `features` features of each."""

    features: int = 1
    kernel: Each = 3

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        channels = _channels(image)
        return spatial_output(self._convolved(image, self.features * channels, channels))


@dataclass(frozen=True, eq=False, repr=False)
class ConvTranspose(Layer):
    """The transpose of a convolution; weight is [*kernel, features / groups, channels].

    An axis of n becomes (n - 1) · stride - 2 · padding + (kernel - 1) · dilation + 1
    + output_padding.
    """

    features: int
    kernel: Each
    stride: Each = 1
    padding: Padding = 0
    dilation: Each = 1
    output_padding: Each = 0
    groups: int = 1
    bias: bool = True
    weights: Initializer = field(default=He())

    def __post_init__(self) -> None:
        require_counts(self, 1, "features", "kernel", "stride", "dilation", "groups")
        require_counts(self, 0, "output_padding")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        kernel = each_axis("kernel", self.kernel, image.rank - 2)
        if self.padding == "same" or self.features % self.groups:
            raise CompileError("padding must be numbers, and the groups share all features.")
        weight = self._weight(image, kernel)
        window = _window(image, kernel, self.stride, self.dilation, self.padding)
        result = image.builder.apply(
            "conv_transpose",
            image.value,
            weight.value,
            output_padding=each_axis("output_padding", self.output_padding, image.rank - 2),
            groups=self.groups,
            **vars(window),
        )
        made = image.with_value(result)
        if self.bias:
            made = made + image.parameter("bias", (self.features,), ZEROS)
        return spatial_output(made)

    def _weight(self, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
        channels = _channels(x)
        taps = 1
        for size in kernel:
            taps *= size
        share = self.features // self.groups
        fans = Fans(taps * channels // self.groups, taps * share)
        return x.parameter("weight", (*kernel, share, channels), self.weights, fans=fans)


@dataclass(frozen=True, eq=False, repr=False)
class MaxPool(Layer):
    """The greatest of each window; without a stride, windows lie side by side."""

    kernel: Each
    stride: Each | None = None
    padding: Padding = 0
    dilation: Each = 1

    def __post_init__(self) -> None:
        require_counts(self, 1, "kernel", "stride", "dilation")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        kernel = each_axis("kernel", self.kernel, image.rank - 2)
        stride = self.kernel if self.stride is None else self.stride
        window = _window(image, kernel, stride, self.dilation, self.padding)
        pooled = image.builder.apply("max_pool", image.value, kernel=kernel, **vars(window))
        return spatial_output(image.with_value(pooled))


@dataclass(frozen=True, eq=False, repr=False)
class AveragePool(Layer):
    """The mean of each window; `count_padding`: pads count as zeros, else they do not count."""

    kernel: Each
    stride: Each | None = None
    padding: Padding = 0
    count_padding: bool = False

    def __post_init__(self) -> None:
        require_counts(self, 1, "kernel", "stride")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        kernel = each_axis("kernel", self.kernel, image.rank - 2)
        stride = self.kernel if self.stride is None else self.stride
        window = _window(image, kernel, stride, 1, self.padding)
        pooled = image.builder.apply(
            "average_pool",
            image.value,
            kernel=kernel,
            count_include_pad=self.count_padding,
            **vars(window),
        )
        return spatial_output(image.with_value(pooled))


@dataclass(frozen=True, eq=False, repr=False)
class GlobalAveragePool(Layer):
    """The mean over space, [N, C]; `keep` leaves spatial axes of size 1."""

    keep: bool = False

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        pooled = image.mean(range(1, x.rank - 1), self.keep)
        return spatial_output(pooled) if self.keep else pooled


@dataclass(frozen=True, eq=False, repr=False)
class GlobalMaxPool(Layer):
    """The greatest over space, [N, C]; `keep` leaves spatial axes of size 1."""

    keep: bool = False

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        pooled = image.max(range(1, x.rank - 1), self.keep)
        return spatial_output(pooled) if self.keep else pooled


@dataclass(frozen=True, eq=False, repr=False)
class Upsample(Layer):
    """Larger by a whole factor: each pixel repeated, or straight lines between pixel centres."""

    factor: Each = 2
    mode: Literal["nearest", "linear"] = "nearest"

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        factors = each_axis("factor", self.factor, image.rank - 2)
        spatial = [size * factor for size, factor in zip(image.shape[1:-1], factors)]
        enlarged = image.builder.apply(
            "resize",
            image.value,
            shape=(image.shape[0], *spatial, image.shape[-1]),
            scales=(1.0, *map(float, factors), 1.0),
            mode=self.mode,
            coordinate="asymmetric" if self.mode == "nearest" else "half_pixel",
            nearest="floor",
        )
        return spatial_output(image.with_value(enlarged))
