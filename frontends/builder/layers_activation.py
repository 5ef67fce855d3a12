"""Activations as layers, for use in a `Sequential`; activations.py has the functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bessemer.frontends.builder import activations
from bessemer.frontends.builder.initializers import Constant, Initializer
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.tensor import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Activation(Layer):
    """Any function of a tensor as a layer."""

    function: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True, eq=False, repr=False)
class ReLU(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.relu(x)


@dataclass(frozen=True, eq=False, repr=False)
class ReLU6(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.relu6(x)


@dataclass(frozen=True, eq=False, repr=False)
class LeakyReLU(Layer):
    slope: float = 0.01

    def forward(self, x: Tensor) -> Tensor:
        return activations.leaky_relu(x, self.slope)


@dataclass(frozen=True, eq=False, repr=False)
class ThresholdedReLU(Layer):
    threshold: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return activations.thresholded_relu(x, self.threshold)


@dataclass(frozen=True, eq=False, repr=False)
class PReLU(Layer):
    """Leaky ReLU with a slope for every channel, or one for all, that is trained (weight)."""

    shared: bool = False
    slope: Initializer = field(default=Constant(0.25))

    def forward(self, x: Tensor) -> Tensor:
        if self.shared:
            return activations.prelu(x, x.parameter("weight", (1,), self.slope))
        shape = [1] * (x.rank - x.channel_axis)
        weight = x.parameter("weight", (x.shape[x.channel_axis],), self.slope)
        return activations.prelu(x, weight.reshape(weight.shape[0], *shape[1:]))


@dataclass(frozen=True, eq=False, repr=False)
class ELU(Layer):
    alpha: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return activations.elu(x, self.alpha)


@dataclass(frozen=True, eq=False, repr=False)
class CELU(Layer):
    alpha: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return activations.celu(x, self.alpha)


@dataclass(frozen=True, eq=False, repr=False)
class SELU(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.selu(x)


@dataclass(frozen=True, eq=False, repr=False)
class GELU(Layer):
    approximate: bool = False

    def forward(self, x: Tensor) -> Tensor:
        return activations.gelu(x, self.approximate)


@dataclass(frozen=True, eq=False, repr=False)
class SiLU(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.silu(x)


@dataclass(frozen=True, eq=False, repr=False)
class Mish(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.mish(x)


@dataclass(frozen=True, eq=False, repr=False)
class Sigmoid(Layer):
    steepness: float = 1.0
    center: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return activations.sigmoid(x, self.steepness, self.center)


@dataclass(frozen=True, eq=False, repr=False)
class HardSigmoid(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.hard_sigmoid(x)


@dataclass(frozen=True, eq=False, repr=False)
class HardSwish(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.hard_swish(x)


@dataclass(frozen=True, eq=False, repr=False)
class Tanh(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.tanh(x)


@dataclass(frozen=True, eq=False, repr=False)
class HardTanh(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.hard_tanh(x)


@dataclass(frozen=True, eq=False, repr=False)
class Step(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.step(x)


@dataclass(frozen=True, eq=False, repr=False)
class Ramp(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.ramp(x)


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.gaussian(x)


@dataclass(frozen=True, eq=False, repr=False)
class Softplus(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.softplus(x)


@dataclass(frozen=True, eq=False, repr=False)
class Softsign(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return activations.softsign(x)


@dataclass(frozen=True, eq=False, repr=False)
class Softmax(Layer):
    axis: int = -1

    def forward(self, x: Tensor) -> Tensor:
        return activations.softmax(x, self.axis)


@dataclass(frozen=True, eq=False, repr=False)
class LogSoftmax(Layer):
    axis: int = -1

    def forward(self, x: Tensor) -> Tensor:
        return activations.log_softmax(x, self.axis)
