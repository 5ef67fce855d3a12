"""What is known of a value while the model is read: its elements, or exact formulas for them.

The builder follows integers. Exporters also compute sizes in floats, floor(float(height) * 2.0):
such chains are followed here, as exact fractions, on demand; and constant arithmetic of
any type is carried out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import CONTENT_LIMIT, GraphBuilder
from bessemer.compiler.ir.dims import Dim, Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import Array

_DEPTH = 64
"""How many nodes back a question goes."""


def known_array(builder: GraphBuilder, value: Value, depth: int = _DEPTH) -> Array | None:
    """The elements of a value that depends on constants only, if it is small or a constant, perhaps
    reshaped."""
    stored = builder.constants.get(value)
    if stored is not None:
        return stored
    content = builder.content(value)
    if content is not None:
        return None if content.dtype == object and _has_symbols(content) else _typed(content, value)
    node = builder.producer(value)
    size = value.type.numel
    if node is None or depth == 0 or not isinstance(size, int):
        return None
    if node.operator.name == "reshape":  # of the same elements, however many they are
        array = known_array(builder, node.inputs[0], depth - 1)
        return None if array is None else array.reshape(value.type.static_shape)
    if size > CONTENT_LIMIT:
        return None
    if node.regions or node.operator.is_random or node.has_symbols:
        return None
    inputs = []
    for item in node.inputs:
        count = item.type.numel
        if not isinstance(count, int) or count > 64 * CONTENT_LIMIT:
            return None
        array = known_array(builder, item, depth - 1)
        if array is None:
            return None
        inputs.append(array)
    if not node.outputs or node.operator.name == "bind":
        return None
    with np.errstate(all="ignore"):
        results = node.operator.compute(inputs, node.attributes)
    return np.asarray(results[node.outputs.index(value)])


def _typed(content: Array, value: Value) -> Array:
    return np.asarray(content).astype(value.type.dtype.numpy).reshape(value.type.static_shape)


def _has_symbols(content: Array) -> bool:
    return any(isinstance(entry, Dim) for entry in content.reshape(-1).tolist())


def known_sizes(builder: GraphBuilder, value: Value) -> tuple[Size, ...] | None:
    """The entries of an integer tensor as Sizes, also where they went through floats."""
    known = builder.known_sizes(value)
    if known is not None:
        return known
    array = known_array(builder, value)
    if array is not None and array.dtype.kind in "iu":
        return tuple(int(entry) for entry in array.reshape(-1))
    exact = _exact(builder, value, _DEPTH)
    if exact is None:
        return None
    entries = exact.reshape(-1).tolist()
    if any(entry.divisor != 1 for entry in entries):
        return None
    return tuple(entry.numerator for entry in entries)


@dataclass(frozen=True, eq=False)
class _Exact:
    """numerator / divisor; the divisor is positive."""

    numerator: Size
    divisor: int


def _exact(builder: GraphBuilder, value: Value, depth: int) -> Array | None:
    """Exact elements, as an object array of _Exact in the value's shape; None where unknown."""
    content = builder.content(value)
    if content is None:
        content = builder.constants.get(value)
    if content is not None:
        return _exact_content(content)
    node = builder.producer(value)
    if node is None or depth == 0 or node.operator.name not in _RULES:
        return None
    if node.has_symbols:
        return None
    inputs = [_exact(builder, item, depth - 1) for item in node.inputs]
    found = [item for item in inputs if item is not None]
    if len(found) != len(inputs):
        return None
    try:
        return _RULES[node.operator.name](node, found)
    except (_NotExact, InternalError):
        return None


class _NotExact(Exception):
    """The result is not an exact fraction that we can follow."""


def _exact_content(content: Array) -> Array | None:
    if content.size > CONTENT_LIMIT or content.dtype.kind not in "iufbO":
        return None
    result = np.empty(content.size, dtype=object)
    for at, entry in enumerate(content.reshape(-1).tolist()):
        if isinstance(entry, float):
            # Only factors that float32 multiplies sizes by without rounding.
            if not math.isfinite(entry) or abs(entry) > 1 << 24:
                return None
            fraction = Fraction(entry)
            if fraction.denominator > 1 << 10:
                return None
            result[at] = _Exact(fraction.numerator, fraction.denominator)
        else:
            result[at] = _Exact(entry if isinstance(entry, Dim) else int(entry), 1)
    return result.reshape(content.shape)


def _reduced(numerator: Size, divisor: int) -> _Exact:
    if divisor < 0:
        numerator, divisor = -1 * numerator, -divisor
    if divisor == 0:
        raise _NotExact
    common = math.gcd(divisor, *_coefficients(numerator))
    whole = dims.divide_exactly(numerator, common)
    return _Exact(
        numerator if whole is None else whole, divisor if whole is None else divisor // common
    )


def _coefficients(size: Size) -> list[int]:
    return [size] if isinstance(size, int) else list(size.terms.values())


def _divided(a: _Exact, b: _Exact) -> _Exact:
    if isinstance(b.numerator, int):
        return _reduced(a.numerator * b.divisor, a.divisor * b.numerator)
    quotient = dims.divide_exactly(a.numerator * b.divisor, b.numerator)
    if quotient is None:
        raise _NotExact
    return _reduced(quotient, a.divisor)


def _truncated(a: _Exact) -> _Exact:
    if a.divisor != 1 and not dims.is_nonnegative(a.numerator):
        raise _NotExact
    return _Exact(dims.floordiv(a.numerator, a.divisor), 1)


def _rounded(a: _Exact) -> _Exact:
    if a.divisor != 1:
        raise _NotExact
    return a


def _common_divisor(choose: Callable[[Size, Size], Size]) -> Callable[[_Exact, _Exact], _Exact]:
    return lambda a, b: _reduced(
        choose(a.numerator * b.divisor, b.numerator * a.divisor), a.divisor * b.divisor
    )


_Rule = Callable[[Node, list[Array]], Array]


def _pointwise(function: Callable[..., _Exact]) -> _Rule:
    def apply(node: Node, inputs: list[Array]) -> Array:
        result = np.empty(inputs[0].size, dtype=object)
        result[:] = [function(*entries) for entries in zip(*(a.reshape(-1) for a in inputs))]
        return result.reshape(inputs[0].shape)

    return apply


def _moved(node: Node, inputs: list[Array]) -> Array:
    return np.asarray(node.operator.compute(inputs, node.attributes)[0])


def _cast(node: Node, inputs: list[Array]) -> Array:
    if node.attributes["dtype"].is_float:
        return inputs[0]
    return _pointwise(_truncated)(node, inputs)


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("reshape", "transpose", "slice", "concat", "broadcast_to"), _moved),
    "gather": lambda node, inputs: np.take(
        inputs[0],
        np.vectorize(lambda entry: entry.numerator, otypes=[np.int64])(inputs[1]),
        axis=node.attributes["axis"],
    ),
    "cast": _cast,
    "add": _pointwise(
        lambda a, b: _reduced(
            a.numerator * b.divisor + b.numerator * a.divisor, a.divisor * b.divisor
        )
    ),
    "sub": _pointwise(
        lambda a, b: _reduced(
            a.numerator * b.divisor - b.numerator * a.divisor, a.divisor * b.divisor
        )
    ),
    "mul": _pointwise(lambda a, b: _reduced(a.numerator * b.numerator, a.divisor * b.divisor)),
    "div": _pointwise(_divided),
    "trunc_div": _pointwise(lambda a, b: _truncated(_divided(a, b))),
    "neg": _pointwise(lambda a: _Exact(-1 * a.numerator, a.divisor)),
    "floor": _pointwise(lambda a: _Exact(dims.floordiv(a.numerator, a.divisor), 1)),
    "ceil": _pointwise(lambda a: _Exact(dims.ceildiv(a.numerator, a.divisor), 1)),
    "round": _pointwise(_rounded),
    "min": _pointwise(_common_divisor(dims.minimum)),
    "max": _pointwise(_common_divisor(dims.maximum)),
}
"""How exact elements go through an operator."""


def known_ratios(builder: GraphBuilder, value: Value) -> tuple[Fraction, ...] | None:
    """The entries of a tensor as fractions, where sizes that are not known cancel."""
    exact = _exact(builder, value, _DEPTH)
    if exact is None:
        return None
    entries = exact.reshape(-1).tolist()
    if any(isinstance(entry.numerator, Dim) for entry in entries):
        return None
    return tuple(Fraction(entry.numerator, entry.divisor) for entry in entries)
