"""Activation functions of tensors; the layers of the same names are in layers_activation.py."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite_activation as compose
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.frontends.builder.functions import clip, exp, where
from bessemer.frontends.builder.tensor import Tensor, unary

Activation = Callable[[Tensor], Tensor]


def _composed(rule: Callable[..., Value], x: Tensor, *settings: float | bool) -> Tensor:
    return x.with_value(rule(x.builder, x.value, *settings))


def relu(x: Tensor) -> Tensor:
    """x where it is positive, else 0."""
    return unary("relu", x)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x where it is positive, else slope · x."""
    return x.with_value(x.builder.apply("leaky_relu", x.value, slope=slope))


def relu6(x: Tensor) -> Tensor:
    """x kept between 0 and 6."""
    return clip(x, 0.0, 6.0)


def sigmoid(x: Tensor, steepness: float = 1.0, center: float = 0.0) -> Tensor:
    """1 / (1 + exp(-steepness · (x - center)))."""
    shifted = x if center == 0.0 else x - center
    return unary("sigmoid", shifted if steepness == 1.0 else shifted * steepness)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return unary("tanh", x)


def step(x: Tensor) -> Tensor:
    """1 where x is not negative, else 0: the perceptron's unit."""
    return (x >= 0.0).cast(x.dtype)


def ramp(x: Tensor) -> Tensor:
    """x kept between 0 and 1."""
    return clip(x, 0.0, 1.0)


def gaussian(x: Tensor) -> Tensor:
    """exp(-x²)."""
    return exp(-(x * x))


def gelu(x: Tensor, approximate: bool = False) -> Tensor:
    """x · Φ(x), by erf, or approximately by tanh."""
    return _composed(compose.gelu, x, approximate)


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), also known as swish."""
    return _composed(compose.silu, x)


def hard_sigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1/2, kept between 0 and 1."""
    return _composed(compose.hard_sigmoid, x, 1 / 6, 0.5)


def hard_swish(x: Tensor) -> Tensor:
    """x · hard_sigmoid(x)."""
    return _composed(compose.hard_swish, x)


def hard_tanh(x: Tensor) -> Tensor:
    """x kept between -1 and 1."""
    return clip(x, -1.0, 1.0)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return _composed(compose.softplus, x)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return _composed(compose.softsign, x)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha · (exp(x) - 1)."""
    return _composed(compose.elu, x, alpha)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha · (exp(x / alpha) - 1)."""
    return _composed(compose.celu, x, alpha)


def selu(x: Tensor) -> Tensor:
    """elu, scaled so that means stay 0 and variances 1 from layer to layer."""
    return _composed(compose.selu, x)


def mish(x: Tensor) -> Tensor:
    """x · tanh(softplus(x))."""
    return _composed(compose.mish, x)


def thresholded_relu(x: Tensor, threshold: float = 1.0) -> Tensor:
    """x where it is above the threshold, else 0."""
    return _composed(compose.thresholded_relu, x, threshold)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where it is positive, else slope · x, with a slope that is trained."""
    return where(x < 0.0, x * slope, x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) divided by its sum along an axis."""
    return x.with_value(composite_reduce.softmax(x.builder, x.value, (axis,)))


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of softmax."""
    return x.with_value(composite_reduce.log_softmax(x.builder, x.value, (axis,)))
