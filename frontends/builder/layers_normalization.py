"""Normalizations, with their scales and biases as parameters."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import product
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite.composite import size_as
from bessemer.frontends.builder.initializers import ONES, ZEROS
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.layers_image import spatial_input, spatial_output
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.settings import (
    require_counts,
    require_not_negative,
    require_share,
)


@dataclass(frozen=True, eq=False, repr=False)
class BatchNorm(Layer):
    """Every channel by its running mean and variance, then scaled and shifted.

    Parameters weight, bias, running_mean, running_variance, all [C]. `momentum` is the share of a
    new batch in the running statistics while training.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        require_share(self, "momentum")

    def forward(self, x: Tensor) -> Tensor:
        if x.rank < 2:
            raise CompileError(f"the input is {x.type}; it must have a batch and channels.")
        shape = (x.shape[x.channel_axis],)
        weight, bias = x.parameter("weight", shape, ONES), x.parameter("bias", shape, ZEROS)
        mean = x.parameter("running_mean", shape, ZEROS, trainable=False)
        variance = x.parameter("running_variance", shape, ONES, trainable=False)
        if x.trace.step is not None:
            return self._of_batch(x, weight, bias, mean, variance)
        normal = normalize.batch_norm(
            x.builder, x.value, weight.value, bias.value, mean.value, variance.value,
            self.epsilon, x.channel_axis,
        )  # fmt: skip
        return x.with_value(normal)

    def _of_batch(
        self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor:
        """By the batch's own statistics, which also move the running ones."""
        image = spatial_input(x) if x.rank > 2 else x
        normal, center, spread = (
            x.with_value(value)
            for value in normalize.norm_of_batch(
                x.builder, image.value, weight.value, bias.value, self.epsilon
            )
        )
        # The variance of what the batch was drawn from, not of the batch itself. Of a single value
        # there is none: the running variance stays.
        count = product(image.shape[:-1])
        many, fewer = (
            x.with_value(size_as(x.builder, size, x.dtype, mean.shape))
            for size in (count, dims.maximum(count - 1, 1))
        )
        is_known = dims.minimum(count - 1, 1)
        share = x.with_value(size_as(x.builder, is_known, x.dtype, mean.shape)) * self.momentum
        moved = variance * (1 - share) + spread * many / fewer * share
        x.trace.update("running_variance", moved.value)
        moved = mean * (1 - self.momentum) + center * self.momentum
        x.trace.update("running_mean", moved.value)
        return spatial_output(normal) if x.rank > 2 else normal


@dataclass(frozen=True, eq=False, repr=False)
class LayerNorm(Layer):
    """Every vector of features (the last `axes` axes) by itself; weight and bias of its shape."""

    axes: int = 1
    epsilon: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")

    def forward(self, x: Tensor) -> Tensor:
        if not 1 <= self.axes <= x.rank:
            raise CompileError(f"the input is {x.type}; it has no {self.axes} last axes.")
        shape = x.shape[-self.axes :]
        weight = x.parameter("weight", shape, ONES)
        bias = x.parameter("bias", shape, ZEROS).value if self.bias else None
        axes = range(x.rank - self.axes, x.rank)
        return x.with_value(
            normalize.layer_norm(x.builder, x.value, weight.value, bias, axes, self.epsilon)
        )


@dataclass(frozen=True, eq=False, repr=False)
class RMSNorm(Layer):
    """Every vector of features divided by its root mean square, then scaled by weight."""

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")

    def forward(self, x: Tensor) -> Tensor:
        weight = x.parameter("weight", x.shape[-1:], ONES)
        normal = normalize.rms_norm(x.builder, x.value, weight.value, (x.rank - 1,), self.epsilon)
        return x.with_value(normal)


@dataclass(frozen=True, eq=False, repr=False)
class GroupNorm(Layer):
    """Every group of channels of every image by itself; weight and bias are [C]."""

    groups: int = 32
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        require_counts(self, 1, "groups")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        weight = x.parameter("weight", image.shape[-1:], ONES)
        bias = x.parameter("bias", image.shape[-1:], ZEROS)
        normal = normalize.group_norm(
            x.builder, image.value, weight.value, bias.value, self.groups, self.epsilon
        )
        return spatial_output(x.with_value(normal))


@dataclass(frozen=True, eq=False, repr=False)
class InstanceNorm(Layer):
    """Every channel of every image by itself; weight and bias are [C]."""

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        weight = x.parameter("weight", image.shape[-1:], ONES)
        bias = x.parameter("bias", image.shape[-1:], ZEROS)
        normal = normalize.instance_norm(
            x.builder, image.value, weight.value, bias.value, self.epsilon
        )
        return spatial_output(x.with_value(normal))


@dataclass(frozen=True, eq=False, repr=False)
class LocalResponseNorm(Layer):
    """x / (bias + alpha · mean of squares of `size` neighbouring channels) ** beta (AlexNet)."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def __post_init__(self) -> None:
        require_counts(self, 1, "size")

    def forward(self, x: Tensor) -> Tensor:
        image = spatial_input(x)
        normal = normalize.lrn(x.builder, image.value, self.size, self.alpha, self.beta, self.bias)
        return spatial_output(x.with_value(normal))
