"""Activation functions as compositions of pointwise operators. Inputs are floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.composite.composite import binary, where

_P = ParamSpec("_P")
_Function = Callable[Concatenate[GraphBuilder, Value, _P], Value]


def _in_float32(function: _Function[_P]) -> _Function[_P]:
    """The function, of 16-bit floats in float32: numbers such as 1/6 have more than 16 bits."""

    @wraps(function)
    def computed(b: GraphBuilder, x: Value, /, *args: _P.args, **kwargs: _P.kwargs) -> Value:
        dtype = x.type.dtype
        if not dtype.is_float or dtype.bits != 16:
            return function(b, x, *args, **kwargs)
        wide = b.apply("cast", x, dtype=f32)
        return b.apply("cast", function(b, wide, *args, **kwargs), dtype=dtype)

    return computed


@_in_float32
def gelu(b: GraphBuilder, x: Value, tanh: bool = False) -> Value:
    """x * Φ(x), by erf, or by the approximation with tanh."""
    half = binary(b, "mul", x, 0.5)
    if tanh:
        cube = binary(b, "mul", b.apply("mul", b.apply("mul", x, x), x), 0.044715)
        inner = binary(b, "mul", b.apply("add", x, cube), math.sqrt(2 / math.pi))
        curve = b.apply("tanh", inner)
    else:
        curve = b.apply("erf", binary(b, "mul", x, math.sqrt(0.5)))
    return b.apply("mul", half, binary(b, "add", curve, 1.0))


@_in_float32
def silu(b: GraphBuilder, x: Value, alpha: float = 1.0) -> Value:
    """x * sigmoid(alpha * x), also known as swish."""
    inner = x if alpha == 1.0 else binary(b, "mul", x, alpha)
    return b.apply("mul", x, b.apply("sigmoid", inner))


@_in_float32
def hard_sigmoid(b: GraphBuilder, x: Value, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """alpha * x + beta, kept within 0 and 1."""
    line = binary(b, "add", binary(b, "mul", x, alpha), beta)
    return b.apply("clip", line, minimum=0.0, maximum=1.0)


@_in_float32
def hard_swish(b: GraphBuilder, x: Value) -> Value:
    """x * hard_sigmoid(x) with a slope of one sixth."""
    return b.apply("mul", x, hard_sigmoid(b, x, 1 / 6, 0.5))


def softplus(b: GraphBuilder, x: Value) -> Value:
    """log(1 + exp(x)), without overflow.

    At 0, where |x| has no slope, that of the maximum is the whole function's 1/2; relu's is 0.
    """
    small = b.apply("exp", b.apply("neg", b.apply("abs", x)))
    return b.apply("add", binary(b, "max", x, 0.0), b.apply("log1p", small))


def softsign(b: GraphBuilder, x: Value) -> Value:
    """x / (1 + |x|)."""
    return b.apply("div", x, binary(b, "add", b.apply("abs", x), 1.0))


@_in_float32
def elu(b: GraphBuilder, x: Value, alpha: float = 1.0) -> Value:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    return _exponential(b, x, 1.0, alpha)


@_in_float32
def celu(b: GraphBuilder, x: Value, alpha: float = 1.0) -> Value:
    """x where it is positive, else alpha * (exp(x / alpha) - 1)."""
    return _exponential(b, x, alpha, alpha)


def _exponential(b: GraphBuilder, x: Value, width: float, height: float) -> Value:
    """x where it is positive, else height * (exp(x / width) - 1).

    A choice of one of the two would have no gradient on the right where exp(x) is infinite.
    """
    left = binary(b, "div", b.apply("clip", x, minimum=-math.inf, maximum=0.0), width)
    curve = binary(b, "mul", b.apply("expm1", left), height)
    return b.apply("add", b.apply("relu", x), curve)


SELU_ALPHA = 1.67326319217681884765625
SELU_GAMMA = 1.05070102214813232421875


@_in_float32
def selu(b: GraphBuilder, x: Value, alpha: float = SELU_ALPHA, gamma: float = SELU_GAMMA) -> Value:
    """gamma * elu(x)."""
    return binary(b, "mul", elu(b, x, alpha), gamma)


def mish(b: GraphBuilder, x: Value) -> Value:
    """x * tanh(softplus(x))."""
    return b.apply("mul", x, b.apply("tanh", softplus(b, x)))


def thresholded_relu(b: GraphBuilder, x: Value, alpha: float = 1.0) -> Value:
    """x where it is above alpha, else 0."""
    return where(b, binary(b, "gt", x, alpha), x, 0.0)


def prelu(b: GraphBuilder, x: Value, slope: Value) -> Value:
    """x where it is not negative, else slope * x; the slope broadcasts to x."""
    return where(b, binary(b, "lt", x, 0),
                 binary(b, "mul", x, slope), x)  # fmt: skip


def shrink(b: GraphBuilder, x: Value, bias: float = 0.0, limit: float = 0.5) -> Value:
    """x moved towards zero by bias where |x| > limit, else 0. x may be of integers."""
    low = where(b, binary(b, "lt", x, -limit), binary(b, "add", x, bias), 0)
    return where(b, binary(b, "gt", x, limit), binary(b, "sub", x, bias), low)
