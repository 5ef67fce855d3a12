"""The functions that gates of recurrent networks may have, under ONNX's names in lower case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.expr import Expression, binary, constant, select, unary
from bessemer.compiler.ir.types import Array, DType, f64
from bessemer.compiler.ops.check import require

Rule = Callable[[Expression, float, float], Expression]
Reference = Callable[[Array, float, float], Array]


@dataclass(frozen=True)
class Activation:
    """A function of x, alpha and beta, as expression and in NumPy; its slope by its result y, in
    both ways; and what alpha and beta are where the model does not say."""

    rule: Rule
    reference: Reference
    slope: Rule
    slope_reference: Reference
    alpha: float = 0.0
    beta: float = 0.0


def _clamp(x: Expression, low: float, high: float) -> Expression:
    return binary("min", binary("max", x, low), high)


def _where(condition: Expression, then: float, otherwise: float, like: Expression) -> Expression:
    return select(condition, constant(then, like.dtype), constant(otherwise, like.dtype))


def _softplus(x: Expression) -> Expression:
    """log(1 + exp(x)), which does not overflow on the way."""
    return binary("max", x, 0) + unary("log1p", unary("exp", -unary("abs", x)))


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(
        lambda x, a, b: unary("sigmoid", x),
        lambda x, a, b: 1 / (1 + np.exp(-x)),
        lambda y, a, b: y * (1 - y),
        lambda y, a, b: y * (1 - y),
    ),
    "tanh": Activation(
        lambda x, a, b: unary("tanh", x),
        lambda x, a, b: np.tanh(x),
        lambda y, a, b: 1 - y * y,
        lambda y, a, b: 1 - y * y,
    ),
    "relu": Activation(
        lambda x, a, b: binary("max", x, 0),
        lambda x, a, b: np.maximum(x, 0),
        lambda y, a, b: _where(y > 0, 1, 0, y),
        lambda y, a, b: np.where(y > 0, 1.0, 0.0),
    ),
    "affine": Activation(
        lambda x, a, b: x * a + b,
        lambda x, a, b: a * x + b,
        lambda y, a, b: constant(a, y.dtype),
        lambda y, a, b: np.full_like(y, a),
        1.0,
    ),
    "leakyrelu": Activation(
        lambda x, a, b: select(x < 0, x * a, x),
        lambda x, a, b: np.where(x < 0, a * x, x),
        lambda y, a, b: _where(y < 0, a, 1, y),
        lambda y, a, b: np.where(y < 0, a, 1.0),
        0.01,
    ),
    "thresholdedrelu": Activation(
        lambda x, a, b: select(x > a, x, 0),
        lambda x, a, b: np.where(x > a, x, 0),
        lambda y, a, b: _where(y > 0, 1, 0, y),
        lambda y, a, b: np.where(y > 0, 1.0, 0.0),
        1.0,
    ),
    "scaledtanh": Activation(
        lambda x, a, b: unary("tanh", x * b) * a,
        lambda x, a, b: a * np.tanh(b * x),
        lambda y, a, b: a * b - y * y * (b / a),
        lambda y, a, b: a * b * (1 - (y / a) ** 2),
        1.0,
        1.0,
    ),
    "hardsigmoid": Activation(
        lambda x, a, b: _clamp(x * a + b, 0, 1),
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda y, a, b: _where((y > 0) & (y < 1), a, 0, y),
        lambda y, a, b: np.where((y > 0) & (y < 1), a, 0.0),
        0.2,
        0.5,
    ),
    "elu": Activation(
        lambda x, a, b: select(x < 0, unary("expm1", binary("min", x, 0)) * a, x),
        lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
        lambda y, a, b: select(y < 0, y + a, constant(1, y.dtype)),
        lambda y, a, b: np.where(y < 0, y + a, 1.0),
        1.0,
    ),
    "softsign": Activation(
        lambda x, a, b: x / (unary("abs", x) + 1),
        lambda x, a, b: x / (1 + np.abs(x)),
        lambda y, a, b: (1 - unary("abs", y)) * (1 - unary("abs", y)),
        lambda y, a, b: np.square(1 - np.abs(y)),
    ),
    "softplus": Activation(
        lambda x, a, b: _softplus(x),
        lambda x, a, b: np.logaddexp(0, x),
        lambda y, a, b: 1 - unary("exp", -y),
        lambda y, a, b: -np.expm1(-y),
    ),
}
_INVERTIBLE = {"leakyrelu": 0.0, "elu": 0.0, "scaledtanh": 0.0, "thresholdedrelu": -1e-300}
"""Activations whose result says where it came from only if alpha is above this."""


@dataclass(frozen=True)
class Gate:
    """An activation with its parameters, its argument bounded to -clip..clip (0: not bounded).

    `rounding` is how much, in relation to it, a result may be off by the time its slope is asked
    for: one that is so near to that of a bound counts as bounded.
    """

    activation: Activation
    alpha: float
    beta: float
    clip: float
    rounding: float = 0.0

    def rule(self, x: Expression) -> Expression:
        """What the gate makes of an expression."""
        bounded = _clamp(x, -self.clip, self.clip) if self.clip else x
        return self.activation.rule(bounded, self.alpha, self.beta)

    def slope(self, y: Expression) -> Expression:
        """The derivative of a gate by what it gave; 0 where its argument was out of bounds."""
        found = self.activation.slope(y, self.alpha, self.beta)
        if not self.clip:
            return found
        low, high = self._ends()
        return select((y > low) & (y < high), found, 0)

    def slope_reference(self, y: Array) -> Array:
        """As `slope`, for arrays: the definition."""
        found = np.asarray(self.activation.slope_reference(y, self.alpha, self.beta))
        if not self.clip:
            return found
        low, high = self._ends()
        return np.where((y > low) & (y < high), found, 0.0)

    def _ends(self) -> tuple[float, float]:
        """What is given at the bounds: every activation rises all the way, or falls."""
        ends = self.activation.reference(np.array([-self.clip, self.clip]), self.alpha, self.beta)
        low, high = sorted(map(float, ends))
        return low + abs(low) * self.rounding, high - abs(high) * self.rounding

    def reference(self, x: Array) -> Array:
        """What the gate makes of an array."""
        bounded = np.clip(x, -self.clip, self.clip) if self.clip else x
        return np.asarray(self.activation.reference(bounded, self.alpha, self.beta))


def gates(
    names: Sequence[str],
    alphas: Sequence[float],
    betas: Sequence[float],
    clip: float,
    kept_as: DType = f64,
) -> tuple[Gate, ...]:
    """The gates of a cell. Without alphas or betas each has its own defaults. `kept_as` is the type
    in which their results are kept until their slopes are asked for."""
    known = [ACTIVATIONS[name] for name in names]
    return tuple(
        Gate(
            activation,
            alphas[i] if alphas else activation.alpha,
            betas[i] if betas else activation.beta,
            clip,
            _rounding(kept_as),
        )
        for i, activation in enumerate(known)
    )


_FRACTION_BITS = {"f64": 52, "f32": 23, "f16": 10, "bf16": 7}


def _rounding(kept_as: DType) -> float:
    """Of a result that is computed to a few units in the last place, then kept."""
    computed = np.finfo(np.float64 if kept_as is f64 else np.float32).eps
    return 8 * float(computed) + 2.0 ** -_FRACTION_BITS[kept_as.name]


def require_slopes(operator: str, names: Sequence[str], alphas: Sequence[float]) -> None:
    """Raises UnsupportedError where what the gates gave does not tell their slopes."""
    for number, name in enumerate(names):
        alpha = alphas[number] if alphas else ACTIVATIONS[name].alpha
        if alpha <= _INVERTIBLE.get(name, -np.inf):
            raise UnsupportedError(
                f"No gradient is known for {operator} with the activation {name} and alpha {alpha}."
            )


def require_gates(
    operator: str,
    count: int,
    names: Sequence[str],
    alphas: Sequence[float],
    betas: Sequence[float],
) -> None:
    """Raises CompileError unless there are `count` known activations with their parameters."""
    for name in names:
        require(
            name in ACTIVATIONS,
            f"{operator} has the activation {name!r}; it knows {', '.join(ACTIVATIONS)}.",
        )
    require(
        len(names) == count and len(alphas) in (0, count) and len(betas) in (0, count),
        f"{operator} wants {count} activations, each with an alpha and a beta if any has, but got "
        f"{tuple(names)}, {tuple(alphas)} and {tuple(betas)}.",
    )
