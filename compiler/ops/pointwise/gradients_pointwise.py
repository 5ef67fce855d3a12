"""Gradients of the pointwise operators, of cast and of select."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from bessemer.compiler.ir.differential import Cotangents, Differential, GradientRule, no_flow
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import binary, scalar_like


def _mul(d: Differential, x: Value, y: Value) -> Value:
    return d.apply("mul", x, y)


def _times(d: Differential, x: Value, number: float) -> Value:
    return binary(d.builder, "mul", x, number)


def _plus(d: Differential, x: Value, number: float) -> Value:
    return binary(d.builder, "add", x, number)


def _less_than_one(d: Differential, x: Value) -> Value:
    return binary(d.builder, "sub", 1.0, x)


def _zero(d: Differential) -> Value:
    return scalar_like(d.builder, d.dy, 0)


def _abs(d: Differential) -> Value:
    zero = _zero(d)
    falling = d.apply("select", d.apply("lt", d.x, zero), d.apply("neg", d.dy), zero)
    return d.apply("select", d.apply("gt", d.x, zero), d.dy, falling)


def _acosh(d: Differential) -> Value:
    roots = (d.apply("sqrt", _plus(d, d.x, one)) for one in (-1.0, 1.0))
    return d.apply("div", d.dy, _mul(d, *roots))


def _erf(d: Differential) -> Value:
    bell = d.apply("exp", d.apply("neg", _mul(d, d.x, d.x)))
    return _mul(d, d.dy, _times(d, bell, 2 / math.sqrt(math.pi)))


def _sqrt(d: Differential) -> Value:
    """At 0, where the slope is infinite, 0: a norm, or a deviation, that is 0 is the smallest."""
    slope = d.apply("div", _times(d, d.dy, 0.5), d.y)
    return d.apply("select", d.apply("eq", d.y, _zero(d)), _zero(d), slope)


def _rsqrt(d: Differential) -> Value:
    return _mul(d, d.dy, _times(d, _mul(d, d.y, _mul(d, d.y, d.y)), -0.5))


def _over_root(sign: int, square: float) -> Callable[[Differential], Value]:
    """sign * dy / sqrt(square * x^2 + 1)"""

    def derivative(d: Differential) -> Value:
        inner = _plus(d, _times(d, _mul(d, d.x, d.x), square), 1)
        found = _mul(d, d.dy, d.apply("rsqrt", inner))
        return found if sign > 0 else d.apply("neg", found)

    return derivative


_DERIVATIVES: dict[str, Callable[[Differential], Value]] = {
    "exp": lambda d: _mul(d, d.dy, d.y),
    "log": lambda d: d.apply("div", d.dy, d.x),
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "sin": lambda d: _mul(d, d.dy, d.apply("cos", d.x)),
    "cos": lambda d: d.apply("neg", _mul(d, d.dy, d.apply("sin", d.x))),
    "tan": lambda d: _mul(d, d.dy, _plus(d, _mul(d, d.y, d.y), 1.0)),
    "asin": _over_root(1, -1),
    "acos": _over_root(-1, -1),
    "atan": lambda d: d.apply("div", d.dy, _plus(d, _mul(d, d.x, d.x), 1.0)),
    "sinh": lambda d: _mul(d, d.dy, d.apply("cosh", d.x)),
    "cosh": lambda d: _mul(d, d.dy, d.apply("sinh", d.x)),
    "tanh": lambda d: _mul(d, d.dy, _less_than_one(d, _mul(d, d.y, d.y))),
    "asinh": _over_root(1, 1),
    "acosh": _acosh,
    "atanh": lambda d: d.apply("div", d.dy, _less_than_one(d, _mul(d, d.x, d.x))),
    "erf": _erf,
    "sigmoid": lambda d: _mul(d, d.dy, _mul(d, d.y, _less_than_one(d, d.y))),
    "expm1": lambda d: _mul(d, d.dy, _plus(d, d.y, 1.0)),
    "log1p": lambda d: d.apply("div", d.dy, _plus(d, d.x, 1.0)),
    "neg": lambda d: d.apply("neg", d.dy),
    "abs": _abs,
    # By the output, not the input: that one is there for the next layer anyway.
    "relu": lambda d: _where(d, d.apply("gt", d.y, _zero(d))),
    "clip": lambda d: _where(d, d.apply("eq", d.x, d.y)),
}


def _where(d: Differential, condition: Value) -> Value:
    return d.apply("select", condition, d.dy, _zero(d))


def unary_gradient(name: str) -> GradientRule:
    """The rule of a function of one variable."""
    derivative = _DERIVATIVES.get(name)
    if derivative is None:
        return no_flow
    return lambda d: (derivative(d),)


_Pair: TypeAlias = "tuple[Value, Value]"


def _power(d: Differential) -> _Pair:
    x, y = d.inputs
    # To the power of 0 all is 1, also where x is 0 or infinite: 0 times a number that is finite.
    is_flat = d.apply("eq", y, _zero(d))
    less = d.apply("select", is_flat, _zero(d), _plus(d, y, -1.0))
    dx = _mul(d, d.dy, _mul(d, y, d.apply("pow", x, less)))
    positive = d.apply("gt", x, _zero(d))
    # Where x is 0 the power is 0 on both sides of y; below 0 only whole y mean anything.
    base = d.apply("select", positive, x, scalar_like(d.builder, x, 1))
    dy = _mul(d, d.dy, _mul(d, d.y, d.apply("log", base)))
    return dx, d.apply("select", positive, dy, _zero(d))


def _quotient(d: Differential) -> _Pair:
    dx = d.apply("div", d.dy, d.inputs[1])
    return dx, d.apply("neg", _mul(d, dx, d.y))


def _choice(comparison: str) -> Callable[[Differential], _Pair]:
    """Of equal ones, each gets half."""

    def pair(d: Differential) -> _Pair:
        x, y = d.inputs
        shared = d.apply("select", d.apply("eq", x, y), _times(d, d.dy, 0.5), _zero(d))
        first, second = d.apply(comparison, x, y), d.apply(comparison, y, x)
        return d.apply("select", first, d.dy, shared), d.apply("select", second, d.dy, shared)

    return pair


def _remainder(rounding: str) -> Callable[[Differential], _Pair]:
    def pair(d: Differential) -> _Pair:
        times = d.apply(rounding, d.apply("div", *d.inputs))
        return d.dy, d.apply("neg", _mul(d, d.dy, times))

    return pair


_PAIRS: dict[str, Callable[[Differential], _Pair]] = {
    "add": lambda d: (d.dy, d.dy),
    "sub": lambda d: (d.dy, d.apply("neg", d.dy)),
    "mul": lambda d: (_mul(d, d.dy, d.inputs[1]), _mul(d, d.dy, d.inputs[0])),
    "div": _quotient,
    "pow": _power,
    "mod": _remainder("floor"),
    "fmod": _remainder("trunc"),
    "min": _choice("lt"),
    "max": _choice("gt"),
}


def binary_gradient(name: str) -> GradientRule:
    """The rule of a function of two variables."""
    return _PAIRS.get(name, no_flow)


def leaky_relu_gradient(d: Differential) -> Cotangents:
    """dy on the right, slope * dy on the left and at 0."""
    rising = d.apply("gt", d.x, _zero(d))
    return (d.apply("select", rising, d.dy, _times(d, d.dy, d["slope"])),)


def cast_gradient(d: Differential) -> Cotangents:
    """Between floats, the cotangent goes back in the input's type."""
    if not d.y.type.dtype.is_float:
        return (None,)
    return (d.apply("cast", d.dy, dtype=d.x.type.dtype),)


def select_gradient(d: Differential) -> Cotangents:
    """To the branch that was taken."""
    condition, zero = d.inputs[0], _zero(d)
    return (
        None,
        d.apply("select", condition, d.dy, zero),
        d.apply("select", condition, zero, d.dy),
    )
