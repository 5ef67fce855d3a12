"""Pointwise operators. ONNX broadcasts by itself: views that only broadcast are not written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import DType, boolean
from bessemer.compiler.ops.composite.composite import broadcast_shape
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported
from bessemer.frontends.onnx_writer.registry import RULES, rule
from bessemer.frontends.onnx_writer.storage import Order, Stored, identity, inverse

Formula = Callable[[Emitter, Node, list[str]], str]
"""Writes an operator on tensors that broadcast, and gives the result's name."""


def _pointwise(formula: Formula) -> Callable[[Emitter, Node], None]:
    def write(emitter: Emitter, node: Node) -> None:
        rank = node.output.type.rank
        order = _common_order(emitter, node.inputs, rank)
        operands = [_in_order(emitter, value, order) for value in node.inputs]
        name = formula(emitter, node, [operand.name for operand in operands])
        shape = broadcast_shape(*(operand.shape for operand in operands))
        if len(shape) == rank:
            emitter.put(node.output, Stored(name, shape, order))
        else:
            emitter.put(node.output, Stored(name, shape, identity(len(shape))))

    return write


def _common_order(emitter: Emitter, values: Sequence[Value], rank: int) -> Order:
    """The order in which the result is stored: that of the operands which lack nothing."""
    whole = {
        emitter.stored(value).order for value in values if emitter.stored(value).is_whole(value)
    }
    return whole.pop() if len(whole) == 1 else identity(rank)


def _in_order(emitter: Emitter, value: Value, order: Order) -> Stored:
    """An operand that broadcasts to a tensor whose axes are in the order."""
    stored = emitter.stored(value)
    if stored.order == order:
        return stored
    seen: list[Size] = [*stored.seen_shape]
    if order == identity(len(order)):
        return Stored(emitter.transposed(stored), tuple(seen), identity(len(seen)))
    if all(size == 1 for size in seen):
        return Stored(stored.name, stored.shape, identity(len(seen)))
    aligned = [*[1] * (len(order) - len(seen)), *seen]
    shape = tuple(aligned[axis] for axis in inverse(order))
    if sum(size != 1 for size in seen) == 1:
        return Stored(emitter.reshaped(stored.name, shape), shape, order)
    name = emitter.transposed(stored)
    if len(seen) != len(order):
        name = emitter.reshaped(name, aligned)
    whole = Stored(name, tuple(aligned), inverse(order))
    return Stored(emitter.transposed(whole), shape, order)


def _same(kind: str) -> Formula:
    return lambda emitter, node, names: emitter.one(kind, *names)


def _is_bool(node: Node) -> bool:
    return node.inputs[0].type.dtype is boolean


def _logic(name: str) -> Formula:
    kind = name.capitalize()
    return lambda e, node, names: e.one(kind if _is_bool(node) else f"Bitwise{kind}", *names)


def _dtype(node: Node) -> DType:
    return node.inputs[0].type.dtype


# Operators without an equivalent: formulas


def _rsqrt(e: Emitter, node: Node, names: list[str]) -> str:
    return e.one("Reciprocal", e.one("Sqrt", *names))


def _expm1(e: Emitter, node: Node, names: list[str]) -> str:
    """tanh(x / 2) * (exp(x) + 1): exact also where exp(x) - 1 loses everything."""
    dtype = _dtype(node)
    half = e.one("Tanh", e.one("Mul", names[0], e.number(0.5, dtype)))
    return e.one("Mul", half, e.one("Add", e.one("Exp", names[0]), e.number(1, dtype)))


def _log1p(e: Emitter, node: Node, names: list[str]) -> str:
    """log(1 + x), corrected by what rounding took from 1 + x where x is small."""
    dtype = _dtype(node)
    (x,), one = names, e.number(1, dtype)
    small = e.one("Min", x, one)
    rounded = e.one("Add", small, one)
    is_lost = e.one("Equal", rounded, one)
    taken = e.one("Where", is_lost, one, e.one("Sub", rounded, one))
    given = e.one("Where", is_lost, one, small)
    logarithm = e.one("Log", e.one("Add", x, one))
    corrected = e.one("Mul", logarithm, e.one("Div", given, taken))
    return e.one("Where", is_lost, x, corrected)


def _trunc(e: Emitter, node: Node, names: list[str]) -> str:
    whole = e.one("Floor", e.one("Abs", *names))
    return e.one("Mul", whole, e.one("Sign", *names))


def _neg(e: Emitter, node: Node, names: list[str]) -> str:
    if _dtype(node).kind == "u":
        return e.one("Sub", e.number(0, _dtype(node)), *names)
    return e.one("Neg", *names)


def _not(e: Emitter, node: Node, names: list[str]) -> str:
    return e.one("Not" if _is_bool(node) else "BitwiseNot", *names)


def _not_equal(e: Emitter, node: Node, names: list[str]) -> str:
    return e.one("Not", e.one("Equal", *names))


def _divide(e: Emitter, node: Node, names: list[str]) -> str:
    """Ours rounds integers down, ONNX's towards zero."""
    if _dtype(node).kind != "i":
        return e.one("Div", *names)
    x, y = names
    return e.one("Div", e.one("Sub", x, e.one("Mod", x, y)), y)


def _trunc_div(e: Emitter, node: Node, names: list[str]) -> str:
    quotient = e.one("Div", *names)
    if not _dtype(node).is_float:
        return quotient
    return _trunc(e, node, [quotient])


def _mod(e: Emitter, node: Node, names: list[str]) -> str:
    """The remainder has the divisor's sign; of floats, ONNX only knows that with the dividend's."""
    if not _dtype(node).is_float:
        return e.one("Mod", *names)
    _, y = names
    rest, zero = e.one("Mod", *names, fmod=1), e.number(0, _dtype(node))
    signs_differ = e.one("Less", e.one("Mul", e.one("Sign", rest), e.one("Sign", y)), zero)
    return e.one("Where", signs_differ, e.one("Add", rest, y), rest)


def _shift(direction: str) -> Formula:
    def write(e: Emitter, node: Node, names: list[str]) -> str:
        if _dtype(node).kind != "u":
            raise unsupported(node, "ONNX shifts unsigned integers only.")
        return e.one("BitShift", *names, direction=direction)

    return write


def _clip(e: Emitter, node: Node, names: list[str]) -> str:
    dtype = _dtype(node)
    low, high = node.attributes["minimum"], node.attributes["maximum"]
    # Without a bound, Clip has the largest finite number as one.
    if math.isinf(low):
        return names[0] if math.isinf(high) else e.one("Min", *names, _bound(e, high, dtype))
    if math.isinf(high):
        return e.one("Max", *names, _bound(e, low, dtype))
    return e.one("Clip", *names, _bound(e, low, dtype), _bound(e, high, dtype))


def _bound(e: Emitter, bound: float, dtype: DType) -> str:
    if dtype.is_float:
        return e.number(bound, dtype)
    limits = np.iinfo(dtype.numpy)
    return e.number(int(min(max(bound, limits.min), limits.max)), dtype)


def _leaky_relu(e: Emitter, node: Node, names: list[str]) -> str:
    return e.one("LeakyRelu", *names, alpha=float(node.attributes["slope"]))


def _cast(e: Emitter, node: Node, names: list[str]) -> str:
    dtype = node.attributes["dtype"]
    if dtype.is_storage or node.inputs[0].type.dtype.is_storage:
        raise unsupported(node, f"{dtype} is not in the operator set that is written.")
    return e.cast(names[0], dtype)


SAME = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos",
    "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh",
    "atanh": "Atanh", "sigmoid": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil",
    "round": "Round", "abs": "Abs", "isnan": "IsNaN",
    "isinf": "IsInf", "add": "Add", "sub": "Sub", "mul": "Mul", "pow": "Pow",
    "min": "Min", "max": "Max", "eq": "Equal",
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "relu": "Relu",
    "select": "Where",
}  # fmt: skip
"""Operators that ONNX has under another name."""

FORMULAS: dict[str, Formula] = {
    **{name: _same(kind) for name, kind in SAME.items()},
    **{name: _logic(name) for name in ("and", "or", "xor")},
    "rsqrt": _rsqrt,
    "expm1": _expm1,
    "log1p": _log1p,
    "trunc": _trunc,
    "neg": _neg,
    "not": _not,
    "ne": _not_equal,
    "div": _divide,
    "trunc_div": _trunc_div,
    "mod": _mod,
    "fmod": lambda e, node, names: e.one("Mod", *names, fmod=1),
    "shl": _shift("LEFT"),
    "shr": _shift("RIGHT"),
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "cast": _cast,
}
RULES.update({name: _pointwise(formula) for name, formula in FORMULAS.items()})


# Views that pointwise operators need not see


@rule("transpose")
def write_transpose(emitter: Emitter, node: Node) -> None:
    """Remembered, and written when it is needed."""
    (x,) = node.inputs
    stored = emitter.stored(x)
    if not stored.is_whole(x):
        missing = x.type.rank - len(stored.shape)
        if missing:
            shape = (*[1] * missing, *stored.seen_shape)
            name = emitter.reshaped(emitter.transposed(stored), shape)
            stored = Stored(name, shape, identity(x.type.rank))
    emitter.put(node.output, stored.reordered(node.attributes["permutation"]))


@rule("broadcast_to")
def write_broadcast(emitter: Emitter, node: Node) -> None:
    """Remembered, and written when it is needed."""
    emitter.put(node.output, emitter.stored(node.inputs[0]))


@rule("full")
def write_full(emitter: Emitter, node: Node) -> None:
    """A scalar, which broadcasts."""
    name = emitter.number(node.attributes["value"], node.attributes["dtype"])
    emitter.put(node.output, Stored(name, (), ()))
