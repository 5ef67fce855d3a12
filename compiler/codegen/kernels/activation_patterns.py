"""Recognizes activations that are one function of vector math, in whatever form a model writes
them.

    (x * (erf(x / 1.4142135) + 1)) * 0.5        is    gelu(x)
    x * sigmoid(x)                              is    silu(x)
    x * tanh(max(x, 0) + log1p(exp(-|x|)))      is    mish(x)
    max(x, 0) + log1p(exp(-|x|))                is    softplus(x)
    erf(y) + 1                                  is    one_plus_erf(y)
    0.5 d (1 + erf(x / 1.4142135))
      + 0.3989423 d x exp(-x * x / 2)           is    d * gelu_slope(x), GELU's derivative

The argument of erf or tanh is recognized by its values, not by its form, because models write the
cubic polynomial of GELU in many ways.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.expr import Binary, Constant, Expression, Unary
from bessemer.compiler.ir.types import f32

_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda a, b: a / b if b else math.nan,
    "pow": lambda a, b: a**b if b in (2, 3) else math.nan,  # no curve has other powers
}
_BELL = math.sqrt(2 / math.pi)
_MOST = 8
"""Products of more factors are not searched: repeated squaring makes exponentially many."""
_SAMPLES = (-4.25, -1.5, -0.375, 0.5, 2.0, 3.0)
"""Where arithmetic is compared with a curve: two cubes would agree everywhere after four."""


@dataclass(frozen=True)
class RecognizedFunction:
    """`function` of `operand`, times `factor` and the expressions in `times`. `inner` is the part
    of the original expression that is no longer needed."""

    function: str
    operand: Expression
    inner: Expression
    factor: float = 1.0
    times: tuple[Expression, ...] = ()


def recognized_function(node: Binary) -> RecognizedFunction | None:
    """The function that a sum or product is equal to; None if there is none."""
    if node.dtype is not f32:
        return None
    match node:
        case Binary(_, "add", Constant(_, 1), Unary(_, "erf", operand) as erf):
            return RecognizedFunction("one_plus_erf", operand, erf)
        case Binary(_, "add", Unary(_, "erf", operand) as erf, Constant(_, 1)):
            return RecognizedFunction("one_plus_erf", operand, erf)
        case Binary(_, "add", left, right):
            return _softplus(node) or _slope(left, right) or _slope(right, left)
        case Binary(_, "mul"):
            return _gated(node)
        case _:
            return None


def _gated(node: Binary) -> RecognizedFunction | None:
    """x times a gate of x, and possibly constants, in any order."""
    for factor, x, gate in _products(node):
        match gate:
            case Unary(_, "sigmoid", operand) if operand is x:
                return RecognizedFunction("silu", x, gate, factor)
            case Unary(_, "tanh", operand) if _is_softplus(operand, x):
                return RecognizedFunction("mish", x, gate, factor)
            case Binary(_, "add", Unary() as curve, Constant(_, 1)):
                name = _name_of_gelu(curve, x)
            case Binary(_, "add", Constant(_, 1), Unary() as curve):
                name = _name_of_gelu(curve, x)
            case _:
                continue
        if name is not None:
            return RecognizedFunction(name, x, curve, 2.0 * factor)
    return None


def _slope(first: Expression, second: Expression) -> RecognizedFunction | None:
    """GELU's derivative times anything. The `first` summand contains erf, the `second` the bell
    curve."""
    for erf in _factors(first, ())[1]:
        match erf:
            case Binary(_, "add", Unary(_, "erf", inner) as curve, Constant(_, 1)):
                pass
            case Binary(_, "add", Constant(_, 1), Unary(_, "erf", inner) as curve):
                pass
            case _:
                continue
        for x in _operands(inner):
            if not _agrees(inner, x, lambda v: v * math.sqrt(0.5)):
                continue
            factor, times = _factors(first, (x,))
            other, others = _factors(second, (x,))
            bells = [node for node in others if _is_bell(node, x)]
            if len(bells) != 1 or not math.isclose(other, factor * _BELL, rel_tol=1e-6):
                continue
            if Counter([*times, x, *bells]) == Counter([*others, erf]):
                times.remove(erf)
                return RecognizedFunction("gelu_slope", x, curve, 2.0 * factor, tuple(times))
    return None


def _operands(node: Expression) -> Iterator[Expression]:
    """The operands of a node that are multiplied by a number or divided."""
    match node:
        case Binary(_, "mul", left, right) if isinstance(left, Constant):
            yield right
        case Binary(_, "mul" | "div", left, Constant()):
            yield left


def _is_bell(node: Expression, x: Expression) -> bool:
    match node:
        case Unary(_, "exp", operand):
            return _agrees(operand, x, lambda v: -v * v / 2)
        case _:
            return False


def _factors(node: Expression, whole: Sequence[Expression]) -> tuple[float, list[Expression]]:
    """The number and the other factors that a product consists of. Factors that are `whole` are not
    split."""
    number, found, waiting = 1.0, list[Expression](), [node]
    while waiting:
        node = waiting.pop()
        match node:
            case Constant(_, value):
                number *= float(value)
            case Binary(_, "mul", left, right) if node not in whole and len(found) < _MOST:
                waiting += left, right
            case _:
                found.append(node)
    return number, found


def _products(node: Expression) -> Iterator[tuple[float, Expression, Expression]]:
    """Every (c, x, y) with c x y = node that results from taking constants out of the node and its
    operands."""
    for outer, product in _without_constant(node):
        match product:
            case Binary(_, "mul", left, right):
                for first, second in ((left, right), (right, left)):
                    for c, x in _without_constant(first):
                        for d, y in _without_constant(second):
                            yield outer * c * d, x, y


def _without_constant(node: Expression) -> Iterator[tuple[float, Expression]]:
    yield 1.0, node
    match node:
        case Binary(_, "mul", Constant(_, value), rest) | Binary(
            _, "mul", rest, Constant(_, value)
        ):
            yield float(value), rest


def _is_softplus(node: Expression, x: Expression) -> bool:
    found = _softplus(node)
    return found is not None and found.operand is x


def _softplus(node: Expression) -> RecognizedFunction | None:
    match node:
        case Binary(_, "add", a, b):
            return _sum_of_parts(a, b) or _sum_of_parts(b, a)
        case _:
            return None


def _sum_of_parts(positive: Expression, rest: Expression) -> RecognizedFunction | None:
    """Softplus, as the sum of the positive part of x and the rest."""
    match positive, rest:
        case (
            Binary(_, "max", x, Constant(_, 0)),
            Unary(_, "log1p", Unary(_, "exp", Unary(_, "neg", Unary(_, "abs", value)))),
        ) if value is x:
            return RecognizedFunction("softplus", x, rest)
        case _:
            return None


def _name_of_gelu(curve: Unary, x: Expression) -> str | None:
    if curve.name == "erf" and _agrees(curve.operand, x, lambda v: v * math.sqrt(0.5)):
        return "gelu"
    scale = math.sqrt(2 / math.pi)
    if curve.name == "tanh" and _agrees(curve.operand, x, lambda v: scale * (v + 0.044715 * v**3)):
        return "gelu_by_tanh"
    return None


def _agrees(node: Expression, x: Expression, function: Callable[[float], float]) -> bool:
    """Whether a node equals this function of x, apart from rounding."""
    for sample in _SAMPLES:
        value = _value_at(node, {x: sample})
        if value is None or not math.isclose(value, function(sample), rel_tol=1e-6):
            return False
    return True


def _value_at(node: Expression, known: dict[Expression, float | None]) -> float | None:
    """The value of arithmetic on constants and on what is `known`; None for other expressions. The
    results are added to `known`: expressions share their parts, and repeated squares would
    otherwise take exponential time."""
    if node not in known:
        known[node] = _computed(node, known)
    return known[node]


def _computed(node: Expression, known: dict[Expression, float | None]) -> float | None:
    match node:
        case Constant(_, value):
            return float(value)
        case Unary(_, "neg", operand):
            inner = _value_at(operand, known)
            return None if inner is None else -inner
        case Binary(_, name, left, right) if name in _ARITHMETIC:
            a, b = _value_at(left, known), _value_at(right, known)
            return None if a is None or b is None else _ARITHMETIC[name](a, b)
        case _:
            return None
