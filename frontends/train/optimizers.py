"""Optimizers as graphs: what one step does to a parameter, given its gradient.

An optimizer is a frozen description. `slots` names the arrays that it keeps for each parameter, all
zeros at first; `update` writes the arithmetic of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import binary, broadcast_to, cast
from bessemer.frontends.given_sizes import is_number
from bessemer.frontends.settings import require_not_negative, require_share

Slots = dict[str, Value]


@dataclass(frozen=True, eq=False)
class Update:
    """A parameter in one step of training. `rate` is the learning rate of the step, a scalar, and
    `step` counts the steps from 1, both f64."""

    builder: GraphBuilder
    parameter: Value
    gradient: Value
    slots: Slots
    rate: Value
    step: Value

    def decayed(self, decay: float) -> Update:
        """L2 regularization: the derivative of decay / 2 * parameter^2 added."""
        if decay == 0:
            return self
        more = binary(self.builder, "mul", self.parameter, decay)
        return replace(self, gradient=self.builder.apply("add", self.gradient, more))

    def like(self, scalar: Value) -> Value:
        """A scalar in the parameter's type and shape."""
        type = self.parameter.type
        return broadcast_to(self.builder, cast(self.builder, scalar, type.dtype), type.shape)

    def moved(self, slot: str, value: Value, share: float) -> Value:
        """share * slot + (1 - share) * value"""
        kept = binary(self.builder, "mul", self.slots[slot], share)
        return self.builder.apply("add", kept, binary(self.builder, "mul", value, 1 - share))

    def square(self) -> Value:
        """The gradient's squares."""
        return self.builder.apply("mul", self.gradient, self.gradient)

    def down(self, direction: Value, rate: Value | None = None) -> Value:
        """The parameter after a step along a direction."""
        size = self.like(self.rate if rate is None else rate)
        distance = self.builder.apply("mul", size, direction)
        return self.builder.apply("sub", self.parameter, distance)

    def by_root(self, squares: Value, epsilon: float) -> tuple[Value, Slots]:
        """The gradient over the root of gathered squares, and these as the new slot."""
        scale = binary(self.builder, "add", self.builder.apply("sqrt", squares), epsilon)
        direction = self.builder.apply("div", self.gradient, scale)
        return self.down(direction), {"squares": squares}


class Optimizer(Protocol):
    """See the module."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def slots(self) -> tuple[str, ...]: ...

    def update(self, given: Update) -> tuple[Value, Slots]:
        """The parameter and its slots after the step."""
        ...


def check_optimizer(given: object) -> None:
    """Raises CompileError for what is not an optimizer, or learns at no rate."""
    if isinstance(given, type) or not hasattr(given, "update"):
        raise CompileError(f"The optimizer is {given!r}; make one, such as Adam(0.001).")
    rate = getattr(given, "learning_rate", None)
    if not is_number(rate) or not 0 <= rate < math.inf:
        raise CompileError(f"The optimizer's learning rate is {rate!r}, no number from 0 on.")


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

    def __post_init__(self) -> None:
        require_share(self, "momentum")
        require_not_negative(self, "weight_decay")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(self, given: Update) -> tuple[Value, Slots]:
        given = given.decayed(self.weight_decay)
        b, gradient = given.builder, given.gradient
        if not self.momentum:
            return given.down(gradient), {}
        if self.averaging:
            velocity = given.moved("velocity", gradient, self.momentum)
        else:
            before = binary(b, "mul", given.slots["velocity"], self.momentum)
            velocity = b.apply("add", before, gradient)
        direction = velocity
        if self.nesterov:
            direction = b.apply("add", gradient, binary(b, "mul", velocity, self.momentum))
        return given.down(direction), {"velocity": velocity}


@dataclass(frozen=True)
class Adagrad:
    """p -= rate * g / (sqrt(sum of g^2) + epsilon) (Duchi et al. 2011)."""

    learning_rate: float = 0.01
    epsilon: float = 1e-10
    weight_decay: float = 0.0
    slots: tuple[str, ...] = ("squares",)

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon", "weight_decay")

    def update(self, given: Update) -> tuple[Value, Slots]:
        given = given.decayed(self.weight_decay)
        squares = given.builder.apply("add", given.slots["squares"], given.square())
        return given.by_root(squares, self.epsilon)


@dataclass(frozen=True)
class RMSProp:
    """p -= rate * g / (sqrt(moving average of g^2) + epsilon) (Tieleman & Hinton 2012)."""

    learning_rate: float = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    slots: tuple[str, ...] = ("squares",)

    def __post_init__(self) -> None:
        require_share(self, "decay")
        require_not_negative(self, "epsilon", "weight_decay")

    def update(self, given: Update) -> tuple[Value, Slots]:
        given = given.decayed(self.weight_decay)
        return given.by_root(given.moved("squares", given.square(), self.decay), self.epsilon)


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

    def __post_init__(self) -> None:
        require_share(self, "beta1", below_one=True)
        require_share(self, "beta2", below_one=True)
        require_not_negative(self, "epsilon", "weight_decay")

    def update(self, given: Update) -> tuple[Value, Slots]:
        if not self.decoupled:
            given = given.decayed(self.weight_decay)
        b = given.builder
        mean = given.moved("mean", given.gradient, self.beta1)
        squares = given.moved("squares", given.square(), self.beta2)
        size = b.apply("div", given.rate, self._correction(b, self.beta1, given.step))
        root = b.apply("sqrt", self._correction(b, self.beta2, given.step))
        scale = b.apply("div", b.apply("sqrt", squares), given.like(root))
        direction = b.apply("div", mean, binary(b, "add", scale, self.epsilon))
        if self.decoupled and self.weight_decay:
            # Not the parameter times 1 - rate * decay: float32 would round that, and alike at every
            # step; one subtraction rounds once.
            share = given.like(binary(b, "mul", given.rate, self.weight_decay))
            shrinking = b.apply("mul", given.parameter, share)
            distance = b.apply("add", b.apply("mul", given.like(size), direction), shrinking)
            after = b.apply("sub", given.parameter, distance)
        else:
            after = given.down(direction, size)
        return after, {"mean": mean, "squares": squares}

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
