"""Optimizers as graphs: what one step does to a parameter, given its gradient.

An optimizer is a frozen description. `slots` names the arrays that it keeps for each parameter, all
zeros at first; `update` writes the arithmetic of a step. `rate` is the learning rate of the step, a
scalar, and `step` counts the steps from 1, both f64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import binary, broadcast_to, cast

Slots = dict[str, Value]


class Optimizer(Protocol):
    """See the module."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def slots(self) -> tuple[str, ...]: ...

    def update(
        self,
        b: GraphBuilder,
        parameter: Value,
        gradient: Value,
        slots: Slots,
        rate: Value,
        step: Value,
    ) -> tuple[Value, Slots]:
        """The parameter and its slots after the step."""
        ...


def _like(b: GraphBuilder, scalar: Value, parameter: Value) -> Value:
    return broadcast_to(b, cast(b, scalar, parameter.type.dtype), parameter.type.shape)


def _decayed(b: GraphBuilder, gradient: Value, parameter: Value, decay: float) -> Value:
    """L2 regularization: the derivative of decay / 2 * parameter^2 added."""
    if decay == 0:
        return gradient
    return b.apply("add", gradient, binary(b, "mul", parameter, decay))


def _moved(b: GraphBuilder, average: Value, value: Value, share: float) -> Value:
    """share * average + (1 - share) * value"""
    return b.apply("add", binary(b, "mul", average, share), binary(b, "mul", value, 1 - share))


def _down(b: GraphBuilder, parameter: Value, direction: Value, rate: Value) -> Value:
    return b.apply("sub", parameter, b.apply("mul", _like(b, rate, parameter), direction))


@dataclass(frozen=True)
class SGD:
    """p -= rate * g; with momentum, g is first replaced by a velocity.

    momentum: v = momentum * v + g, p -= rate * v (Polyak 1964, as torch has it);
    `nesterov`: p -= rate * (g + momentum * v); `averaging`, as in lectures:
    v = momentum * v + (1 - momentum) * g.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    averaging: bool = False
    weight_decay: float = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(
        self,
        b: GraphBuilder,
        parameter: Value,
        gradient: Value,
        slots: Slots,
        rate: Value,
        step: Value,
    ) -> tuple[Value, Slots]:
        gradient = _decayed(b, gradient, parameter, self.weight_decay)
        if not self.momentum:
            return _down(b, parameter, gradient, rate), {}
        if self.averaging:
            velocity = _moved(b, slots["velocity"], gradient, self.momentum)
        else:
            velocity = b.apply("add", binary(b, "mul", slots["velocity"], self.momentum), gradient)
        direction = velocity
        if self.nesterov:
            direction = b.apply("add", gradient, binary(b, "mul", velocity, self.momentum))
        return _down(b, parameter, direction, rate), {"velocity": velocity}


@dataclass(frozen=True)
class Adagrad:
    """p -= rate * g / (sqrt(sum of g^2) + epsilon) (Duchi et al. 2011)."""

    learning_rate: float = 0.01
    epsilon: float = 1e-10
    weight_decay: float = 0.0
    slots: tuple[str, ...] = ("squares",)

    def update(
        self,
        b: GraphBuilder,
        parameter: Value,
        gradient: Value,
        slots: Slots,
        rate: Value,
        step: Value,
    ) -> tuple[Value, Slots]:
        gradient = _decayed(b, gradient, parameter, self.weight_decay)
        squares = b.apply("add", slots["squares"], b.apply("mul", gradient, gradient))
        scale = binary(b, "add", b.apply("sqrt", squares), self.epsilon)
        direction = b.apply("div", gradient, scale)
        return _down(b, parameter, direction, rate), {"squares": squares}


@dataclass(frozen=True)
class RMSProp:
    """p -= rate * g / (sqrt(moving average of g^2) + epsilon) (Tieleman & Hinton 2012)."""

    learning_rate: float = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    slots: tuple[str, ...] = ("squares",)

    def update(
        self,
        b: GraphBuilder,
        parameter: Value,
        gradient: Value,
        slots: Slots,
        rate: Value,
        step: Value,
    ) -> tuple[Value, Slots]:
        gradient = _decayed(b, gradient, parameter, self.weight_decay)
        squares = _moved(b, slots["squares"], b.apply("mul", gradient, gradient), self.decay)
        scale = binary(b, "add", b.apply("sqrt", squares), self.epsilon)
        direction = b.apply("div", gradient, scale)
        return _down(b, parameter, direction, rate), {"squares": squares}


@dataclass(frozen=True)
class Adam:
    """Moving averages of g and g^2, both corrected for their start (Kingma & Ba 2015).

    `decoupled`: weight decay acts on the parameter itself (Loshchilov & Hutter 2019).
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    slots: tuple[str, ...] = ("mean", "squares")

    def update(
        self,
        b: GraphBuilder,
        parameter: Value,
        gradient: Value,
        slots: Slots,
        rate: Value,
        step: Value,
    ) -> tuple[Value, Slots]:
        if not self.decoupled:
            gradient = _decayed(b, gradient, parameter, self.weight_decay)
        mean = _moved(b, slots["mean"], gradient, self.beta1)
        squares = _moved(b, slots["squares"], b.apply("mul", gradient, gradient), self.beta2)
        size = b.apply("div", rate, self._correction(b, self.beta1, step))
        root = b.apply("sqrt", self._correction(b, self.beta2, step))
        scale = b.apply("div", b.apply("sqrt", squares), _like(b, root, parameter))
        direction = b.apply("div", mean, binary(b, "add", scale, self.epsilon))
        if self.decoupled and self.weight_decay:
            kept = binary(b, "sub", 1.0, binary(b, "mul", rate, self.weight_decay))
            parameter = b.apply("mul", parameter, _like(b, kept, parameter))
        new = _down(b, parameter, direction, size)
        return new, {"mean": mean, "squares": squares}

    def _correction(self, b: GraphBuilder, beta: float, step: Value) -> Value:
        """1 - beta^step"""
        return binary(b, "sub", 1.0, binary(b, "pow", beta, step))


def AdamW(
    learning_rate: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> Adam:
    """Adam with decoupled weight decay."""
    return Adam(learning_rate, beta1, beta2, epsilon, weight_decay, decoupled=True)
