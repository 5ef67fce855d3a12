"""The laws of arithmetic that simplify.py applies, one function per operator.

Sums of floats are only regrouped if nothing can cancel, and products if nothing can overflow. So
the magic numbers that models add and subtract to round stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ir.types import Array, DType, boolean
from bessemer.compiler.passes.known_values import known, spread, uniform
from bessemer.compiler.passes.simplification.nonnegative_values import is_nonnegative

Rule = Callable[[GraphRewriter, Node], Value | None]

MERGE_LIMIT = 65536
"""Known arrays with more elements are not merged."""


def _constant_right(rule: Rule) -> Rule:
    """A rule for a commutative operator that is called with a known operand on the right."""

    def ordered(rewriter: GraphRewriter, node: Node) -> Value | None:
        x, y = node.inputs
        if known(rewriter, x) is not None and known(rewriter, y) is None:
            return rewriter.emit(node.operator.name, y, x)
        return rule(rewriter, node)

    return ordered


def _merge(rewriter: GraphRewriter, node: Node) -> Value | None:
    """op(op(x, c), d) is op(x, op(c, d)) for sums and products."""
    x, y = node.inputs
    inner = rewriter.producer(x, node.operator.name)
    outer_array = known(rewriter, y)
    if inner is None or outer_array is None:
        return None
    inner_array = known(rewriter, inner.inputs[1])
    if inner_array is None or max(inner_array.size, outer_array.size) > MERGE_LIMIT:
        return None
    shape = np.broadcast_shapes(inner_array.shape, outer_array.shape)
    arrays = [np.broadcast_to(array, shape) for array in (inner_array, outer_array)]
    with np.errstate(all="ignore"):
        (joined,) = node.operator.compute(arrays, {})
    safe = _sum_is_safe if node.operator.name == "add" else _product_is_safe
    if y.type.dtype.is_float and not safe(arrays[0], arrays[1], joined):
        return None
    operand = spread(rewriter, joined, y.type)
    return rewriter.emit(node.operator.name, inner.inputs[0], operand, merged=(inner,))


def _sum_is_safe(a: Array, b: Array, joined: Array) -> bool:
    same_sign = ((a >= 0) & (b >= 0)) | ((a <= 0) & (b <= 0))
    return bool(same_sign.all() and np.isfinite(joined.astype(np.float64)).all())


def _product_is_safe(a: Array, b: Array, joined: Array) -> bool:
    """Whether the product of two constants is far from overflow and from denormals."""
    sizes = np.abs(np.stack([a, b, joined]).astype(np.float64))
    low, high = (1e-3, 1e3) if joined.dtype.itemsize == 2 else (1e-15, 1e15)
    return bool(((sizes == 0) | ((sizes > low) & (sizes < high))).all())


def _add(rewriter: GraphRewriter, node: Node) -> Value | None:
    x, y = node.inputs
    if uniform(rewriter, y) == 0:
        return x
    for one, other in ((x, y), (y, x)):
        negated = rewriter.producer(other, "neg")
        if negated is not None and _is_signed(x.type.dtype):
            return rewriter.emit("sub", one, negated.inputs[0], merged=(negated,))
    return _merge(rewriter, node)


def _sub(rewriter: GraphRewriter, node: Node) -> Value | None:
    x, y = node.inputs
    if uniform(rewriter, y) == 0:
        return x
    negated = rewriter.producer(y, "neg")
    if negated is not None:
        return rewriter.emit("add", x, negated.inputs[0], merged=(negated,))
    array = known(rewriter, y)
    if array is not None and _is_signed(x.type.dtype) and array.size <= MERGE_LIMIT:
        return rewriter.emit("add", x, spread(rewriter, np.negative(array), y.type))
    return None


def _mul(rewriter: GraphRewriter, node: Node) -> Value | None:
    return _by_one(rewriter, node) or _merge(rewriter, node)


def _by_one(rewriter: GraphRewriter, node: Node) -> Value | None:
    """A product with 1 or -1, or a quotient by it."""
    x, y = node.inputs
    number = uniform(rewriter, y)
    if number == 1:
        return x
    if number == -1 and _is_signed(x.type.dtype):
        return rewriter.emit("neg", x)
    return None


def _div(rewriter: GraphRewriter, node: Node) -> Value | None:
    x, y = node.inputs
    number = uniform(rewriter, y)
    if number in (1, -1):
        return _by_one(rewriter, node)
    if number is None or not x.type.dtype.is_float or not _has_exact_reciprocal(number, y):
        return None
    factor = rewriter.emit("full", shape=y.type.shape, value=1 / number, dtype=y.type.dtype)
    return rewriter.emit("mul", x, factor)


def _has_exact_reciprocal(number: float, value: Value) -> bool:
    """Whether it is a power of two whose reciprocal is a normal number of the type."""
    limit = 14 if value.type.dtype.name == "f16" else 100
    mantissa, exponent = math.frexp(number)
    return abs(mantissa) == 0.5 and abs(exponent) < limit


def _pow(rewriter: GraphRewriter, node: Node) -> Value | None:
    x, y = node.inputs
    match uniform(rewriter, y):
        case 1:
            return x
        case 2:
            return rewriter.emit("mul", x, x)
        case 3:
            return rewriter.emit("mul", rewriter.emit("mul", x, x), x)
        case 0.5 if x.type.dtype.is_float:
            return _root(rewriter, "sqrt", x)
        case 0.75 if x.type.dtype.is_float:
            root = _root(rewriter, "sqrt", x)
            return rewriter.emit("mul", root, rewriter.emit("sqrt", root))
        case -0.5 if x.type.dtype.is_float:
            return _root(rewriter, "rsqrt", x)
        case _:
            return None


def _root(rewriter: GraphRewriter, name: str, x: Value) -> Value:
    """sqrt or rsqrt of x that equals the power for all inputs. A fractional power of -inf is that
    of inf, and a power of -0 is that of 0; roots differ."""
    if is_nonnegative(rewriter, x):
        return rewriter.emit(name, x)
    low, high = (
        rewriter.emit("full", shape=x.type.shape, value=value, dtype=x.type.dtype)
        for value in (-math.inf, math.inf)
    )
    above = rewriter.emit("select", rewriter.emit("eq", x, low), high, x)
    return rewriter.emit("abs", rewriter.emit(name, above))


def _bound(rewriter: GraphRewriter, node: Node) -> Value | None:
    """max and min with a number, as clips."""
    x, y = node.inputs
    number = uniform(rewriter, y)
    if x is y:
        return x
    if number is None or not x.type.dtype.is_float:
        return None
    low, high = (number, math.inf) if node.operator.name == "max" else (-math.inf, number)
    return rewriter.emit("clip", x, minimum=float(low), maximum=float(high))


def _clip(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    low, high = node.attributes["minimum"], node.attributes["maximum"]
    if low == -math.inf and high == math.inf:
        return x
    if low == 0 and high == math.inf and _is_signed(x.type.dtype):
        return rewriter.emit("relu", x)
    inner = rewriter.producer(x)
    if inner is None or not x.type.dtype.is_float:
        return None
    match inner.operator.name:
        case "relu":
            first, last = 0.0, math.inf
        case "clip":
            first, last = inner.attributes["minimum"], inner.attributes["maximum"]
        case _:
            return None
    if first > last:
        return None
    # A clip is monotone: clipping an interval's ends gives the ends of the clipped interval.
    ends = {"minimum": min(max(first, low), high), "maximum": min(max(last, low), high)}
    return rewriter.emit("clip", inner.inputs[0], merged=(inner,), **ends)


def _relu(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    inner = rewriter.producer(x)
    if inner is None:
        return None
    if inner.operator.name in ("relu", "sigmoid", "exp", "abs") and x.type.dtype.is_float:
        return x
    if inner.operator.name == "clip" and x.type.dtype.is_float:
        if inner.attributes["minimum"] >= 0 and inner.attributes["maximum"] >= 0:
            return x
        low, high = (max(inner.attributes[end], 0.0) for end in ("minimum", "maximum"))
        bounds = {"minimum": low, "maximum": high}
        if inner.attributes["minimum"] <= inner.attributes["maximum"]:
            return rewriter.emit("clip", inner.inputs[0], merged=(inner,), **bounds)
    return None


def _twice(rewriter: GraphRewriter, node: Node) -> Value | None:
    """neg(neg(x)) and not(not(x)) are x."""
    inner = rewriter.producer(node.inputs[0], node.operator.name)
    return None if inner is None else inner.inputs[0]


def _not(rewriter: GraphRewriter, node: Node) -> Value | None:
    inner = rewriter.producer(node.inputs[0])
    opposite = {"eq": "ne", "ne": "eq"}.get(inner.operator.name, "") if inner else ""
    if inner is not None and opposite:
        return rewriter.emit(opposite, *inner.inputs, merged=(inner,))
    return _twice(rewriter, node)


def _abs(rewriter: GraphRewriter, node: Node) -> Value | None:
    inner = rewriter.producer(node.inputs[0])
    if inner is None or inner.operator.name not in ("abs", "neg"):
        return None
    if inner.operator.name == "abs":
        return node.inputs[0]
    return rewriter.emit("abs", inner.inputs[0], merged=(inner,))


def _logic(rewriter: GraphRewriter, node: Node) -> Value | None:
    """and, or with a constant, or with the same operand twice."""
    x, y = node.inputs
    if x is y:
        return x
    truth = uniform(rewriter, y)
    if x.type.dtype is not boolean or truth is None:
        return None
    return y if truth is (node.operator.name == "or") else x


def _select(rewriter: GraphRewriter, node: Node) -> Value | None:
    condition, then, otherwise = node.inputs
    if then is otherwise:
        return then
    truth = uniform(rewriter, condition)
    if truth is not None:
        return then if truth else otherwise
    inverted = rewriter.producer(condition, "not")
    if inverted is not None:
        return rewriter.emit("select", inverted.inputs[0], otherwise, then, merged=(inverted,))
    return None


def _cast(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    target: DType = node.attributes["dtype"]
    if x.type.dtype == target:
        return x
    inner = rewriter.producer(x, "cast")
    if inner is None:
        return None
    start = inner.inputs[0].type.dtype
    if not _is_lossless(start, x.type.dtype):
        return None
    # Casts from floats saturate, casts from integers wrap. For an integer that is cast by way of a
    # float, both are the same only if the target has every number of its type.
    through_float = x.type.dtype.is_float and target.is_integer and not start.is_float
    if through_float and not _is_lossless(start, target):
        return None
    return rewriter.emit("cast", inner.inputs[0], dtype=target, merged=(inner,))


_MANTISSA = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
_EXPONENT = {"f16": 5, "bf16": 8, "f32": 8, "f64": 11}


def _is_lossless(start: DType, end: DType) -> bool:
    """Whether every number of the first type is a number of the second."""
    if start == end or start is boolean:
        return True
    if end is boolean or (start.is_float and not end.is_float):
        return False
    if start.is_float:
        wide = _EXPONENT[start.name] <= _EXPONENT[end.name]
        return wide and _MANTISSA[start.name] <= _MANTISSA[end.name]
    digits = start.bits - (start.kind == "i")
    if end.is_float:
        return digits <= _MANTISSA[end.name]
    if start.kind == "i" and end.kind == "u":
        return False
    return digits <= end.bits - (end.kind == "i")


def _is_signed(dtype: DType) -> bool:
    return dtype.kind in "fi"


ARITHMETIC: dict[str, Rule] = {
    "add": _constant_right(_add),
    "sub": _sub,
    "mul": _constant_right(_mul),
    "div": _div,
    "pow": _pow,
    "max": _constant_right(_bound),
    "min": _constant_right(_bound),
    "clip": _clip,
    "relu": _relu,
    "neg": _twice,
    "not": _not,
    "abs": _abs,
    "and": _constant_right(_logic),
    "or": _constant_right(_logic),
    "select": _select,
    "cast": _cast,
}
"""What each operator becomes, or None where it stays."""
