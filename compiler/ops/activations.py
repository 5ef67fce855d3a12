"""The functions that gates of recurrent networks may have, under ONNX's names in lower case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir.expr import Expression, binary, select, unary
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.check import require

Rule = Callable[[Expression, float, float], Expression]
Reference = Callable[[Array, float, float], Array]


@dataclass(frozen=True)
class Activation:
    """A function of x, alpha and beta, as expression and in NumPy; and what alpha and beta are
    where the model does not say."""

    rule: Rule
    reference: Reference
    alpha: float = 0.0
    beta: float = 0.0


def _clamp(x: Expression, low: float, high: float) -> Expression:
    return binary("min", binary("max", x, low), high)


def _softplus(x: Expression) -> Expression:
    """log(1 + exp(x)), which does not overflow on the way."""
    return binary("max", x, 0) + unary("log1p", unary("exp", -unary("abs", x)))


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(
        lambda x, a, b: unary("sigmoid", x), lambda x, a, b: 1 / (1 + np.exp(-x))
    ),
    "tanh": Activation(lambda x, a, b: unary("tanh", x), lambda x, a, b: np.tanh(x)),
    "relu": Activation(lambda x, a, b: binary("max", x, 0), lambda x, a, b: np.maximum(x, 0)),
    "affine": Activation(lambda x, a, b: x * a + b, lambda x, a, b: a * x + b, 1.0),
    "leakyrelu": Activation(
        lambda x, a, b: select(x < 0, x * a, x), lambda x, a, b: np.where(x < 0, a * x, x), 0.01
    ),
    "thresholdedrelu": Activation(
        lambda x, a, b: select(x > a, x, 0), lambda x, a, b: np.where(x > a, x, 0), 1.0
    ),
    "scaledtanh": Activation(
        lambda x, a, b: unary("tanh", x * b) * a, lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0
    ),
    "hardsigmoid": Activation(
        lambda x, a, b: _clamp(x * a + b, 0, 1), lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5
    ),
    "elu": Activation(
        lambda x, a, b: select(x < 0, unary("expm1", binary("min", x, 0)) * a, x),
        lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
        1.0,
    ),
    "softsign": Activation(
        lambda x, a, b: x / (unary("abs", x) + 1), lambda x, a, b: x / (1 + np.abs(x))
    ),
    "softplus": Activation(lambda x, a, b: _softplus(x), lambda x, a, b: np.logaddexp(0, x)),
}


@dataclass(frozen=True)
class Gate:
    """An activation with its parameters, its argument bounded to -clip..clip (0: not bounded)."""

    activation: Activation
    alpha: float
    beta: float
    clip: float

    def rule(self, x: Expression) -> Expression:
        """What the gate makes of an expression."""
        bounded = _clamp(x, -self.clip, self.clip) if self.clip else x
        return self.activation.rule(bounded, self.alpha, self.beta)

    def reference(self, x: Array) -> Array:
        """What the gate makes of an array."""
        bounded = np.clip(x, -self.clip, self.clip) if self.clip else x
        return np.asarray(self.activation.reference(bounded, self.alpha, self.beta))


def gates(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], clip: float
) -> tuple[Gate, ...]:
    """The gates of a cell. Without alphas or betas each has its own defaults."""
    known = [ACTIVATIONS[name] for name in names]
    return tuple(
        Gate(
            activation,
            alphas[i] if alphas else activation.alpha,
            betas[i] if betas else activation.beta,
            clip,
        )
        for i, activation in enumerate(known)
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
