"""Evaluates an expression for all elements of an output at once: what element rules are run with.

An index is an array too: the symbol of output axis a is a range laid along axis a, and a Reduce
puts the ranges of its symbols on new axes in front. What functions mean is taken from
arithmetic.py, except where NumPy's function on a whole array is the same.

Loads outside of a buffer, which a rule must never do, are errors here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, functions
from bessemer.compiler.ir.dims import Atom, FloorDiv, Max, Min, Mod, Size, Symbol
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.interpreter import arithmetic
from bessemer.compiler.ir.op import Attributes, Operator
from bessemer.compiler.ir.types import Array, DType, TensorType, boolean, f64, type_of


def run_element_rule(
    operator: Operator,
    arrays: Sequence[Array],
    attributes: Attributes,
    types: Sequence[TensorType] | None = None,
    symbols: Mapping[str, int] | None = None,
) -> Array:
    """The output of an operator by its element rule.

    With `types` the rule sees these, symbols in their shapes included, instead of the arrays' own.
    Raises IndexError where an index from data is out of range.
    """
    assert operator.element is not None
    seen = [type_of(array) for array in arrays] if types is None else list(types)
    (result,) = operator.infer_types(seen, attributes)
    buffers = [Buffer(f"x{k}", type.dtype, type.shape) for k, type in enumerate(seen)]
    operands = [Operand(type, _loader(b)) for type, b in zip(seen, buffers)]
    axes = tuple(Symbol(f"i{axis}", size) for axis, size in enumerate(result.shape))
    index = tuple(dims.atom(axis) for axis in axes)
    node: Expression = operator.element(*operands, index=index, **attributes)
    if node.dtype != result.dtype:
        raise InternalError(f"{operator}: elements are {node.dtype}, the output {result.dtype}")
    memory = {buffer.name: array for buffer, array in zip(buffers, arrays)}
    return evaluate(node, axes, memory, symbols or {})


def _loader(buffer: Buffer) -> Callable[[expr.Index], Expression]:
    return lambda index: expr.load(buffer, index)


def evaluate(
    node: Expression,
    axes: Sequence[Symbol],
    memory: Mapping[str, Array],
    symbols: Mapping[str, int],
) -> Array:
    """The expression's value over all values of the axes' symbols, one array axis for each.

    `memory` holds the buffers' contents and `symbols` the dimensions, both by name.
    """
    scope = _Scope(memory, symbols, {}, 0).with_axes(axes)
    shape = tuple(len(scope.ranges[axis].reshape(-1)) for axis in axes)
    with np.errstate(all="ignore"):
        result = np.broadcast_to(scope.value(node), shape)
        if node.dtype.is_storage:
            return result.astype(np.uint8).view(node.dtype.numpy)
        return result.astype(node.dtype.numpy)


def _working(dtype: DType) -> Any:
    """The NumPy type that values are kept in: f16 and bf16 are computed in f32."""
    if dtype.is_storage:
        return np.uint8
    return np.float32 if dtype.is_float and dtype is not f64 else dtype.numpy


_WHOLE_ARRAYS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _each(function: Callable[..., Any], dtype: DType, *arrays: Array) -> Array:
    """A function of single values, on arrays."""
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays)).astype(_working(dtype))


def _rounded(value: Array, dtype: DType) -> Array:
    """A value as memory of its type would give it back."""
    return value.astype(dtype.numpy).astype(_working(dtype))


@dataclass(frozen=True)
class _Scope:
    """The ranges of index symbols that are known, over `rank` array axes."""

    memory: Mapping[str, Array]
    symbols: Mapping[str, int]
    ranges: Mapping[Symbol, Array]
    rank: int
    memo: dict[Expression, Array] = field(default_factory=dict)

    def with_axes(self, over: Sequence[Symbol]) -> _Scope:
        """A scope in which further symbols run, on new axes in front of the others."""
        ranges = dict(self.ranges)
        for place, symbol in enumerate(over):
            extent = int(self.size(cast(Size, symbol.extent)))
            ranges[symbol] = np.arange(extent).reshape(
                -1, *[1] * (len(over) - 1 - place + self.rank)
            )
        return _Scope(self.memory, self.symbols, ranges, self.rank + len(over))

    # Index arithmetic

    def size(self, size: Size) -> Array:
        """Index arithmetic as an array that broadcasts to the scope's axes."""
        if isinstance(size, int):
            return np.asarray(size)
        result = np.asarray(0)
        for monomial, coefficient in size.terms.items():
            term = np.asarray(coefficient)
            for factor, power in monomial:
                term = term * self._atom(factor) ** power
            result = result + term
        return result

    def _atom(self, factor: Atom) -> Array:
        match factor:
            case FloorDiv(a, b):
                return np.floor_divide(self.size(a), self.size(b))
            case Mod(a, b):
                return np.mod(self.size(a), self.size(b))
            case Min(a, b):
                return np.minimum(self.size(a), self.size(b))
            case Max(a, b):
                return np.maximum(self.size(a), self.size(b))
            case Symbol(name, None):
                return np.asarray(self.symbols[name])
            case Symbol():
                return self.ranges[factor]
            case Expression():
                return self.value(factor)
            case _:
                raise InternalError(f"no value for {factor}")

    # Expressions

    def value(self, node: Expression) -> Array:
        """An expression as an array that broadcasts to the scope's axes."""
        if node not in self.memo:
            self.memo[node] = self._compute(node)
        return self.memo[node]

    def _compute(self, node: Expression) -> Array:
        match node:
            case expr.Constant(dtype, value):
                if dtype.is_float:
                    return _rounded(np.asarray(value), dtype)
                return np.asarray(value, _working(dtype))
            case expr.IndexValue(_, size):
                return self.size(size).astype(np.int64)
            case expr.Load():
                return self._load(node)
            case expr.Unary(_, name, operand):
                source = operand.dtype
                one = partial(arithmetic.unary, name, source)
                return _each(one, node.dtype, self.value(operand))
            case expr.Binary(_, name, left, right):
                return _binary(name, left.dtype, self.value(left), self.value(right))
            case expr.Select(_, condition, then, otherwise):
                branches = self.value(then), self.value(otherwise)
                return np.where(self.value(condition), *branches)
            case expr.Cast(dtype, operand):
                return _cast(self.value(operand), operand.dtype, dtype)
            case expr.Bits(dtype, operand):
                return _bits(self.value(operand), operand.dtype, dtype)
            case expr.Checked(_, operand, extent):
                return _checked(self.value(operand), self.size(extent))
            case expr.Reduce(_, name, over, body):
                return self._reduce(name, over, body)
            case _:
                raise InternalError(f"no value for {expr.describe(node)}")

    def _load(self, node: expr.Load) -> Array:
        array = self.memory[node.buffer.name]
        allowed = np.asarray(True) if node.guard is None else self.value(node.guard)
        *indices, allowed = np.broadcast_arrays(*map(self.size, node.indices), allowed)
        for index, extent in zip(indices, array.shape, strict=True):
            if np.any(allowed & ((index < 0) | (index >= extent))):
                raise InternalError(f"a load outside of {node.buffer.name}, {array.shape}")
        result = np.zeros(allowed.shape, array.dtype)
        result[allowed] = array[tuple(index[allowed] for index in indices)]
        if node.dtype.is_storage:
            return result.view(np.uint8)
        return result.astype(_working(node.dtype))

    def _reduce(self, name: str, over: tuple[Symbol, ...], body: Expression) -> Array:
        inner = self.with_axes(over)
        value = inner.value(body)
        front = tuple(inner.ranges[symbol].shape[0] for symbol in over)
        value = value.reshape(*[1] * (inner.rank - value.ndim), *value.shape)
        value = np.broadcast_to(value, (*front, *value.shape[len(over) :]))
        wide = np.float64 if body.dtype.is_float else value.dtype
        initial = np.asarray(functions.REDUCTIONS[name](body.dtype)).astype(wide)
        total = _WHOLE_ARRAYS[name].reduce(  # type: ignore[attr-defined]
            value, axis=tuple(range(len(over))), dtype=wide, initial=initial
        )
        return np.asarray(total).astype(value.dtype)


def _binary(name: str, dtype: DType, left: Array, right: Array) -> Array:
    result = boolean if name in functions.COMPARISONS else dtype
    whole = _WHOLE_ARRAYS.get(name)
    if dtype.is_float and name in ("div", "trunc_div"):
        quotient = left / right
        return np.asarray(quotient if name == "div" else np.trunc(quotient))
    if whole is not None:
        return np.asarray(whole(left, right))
    return _each(partial(arithmetic.binary, name, dtype), result, left, right)


def _cast(value: Array, source: DType, target: DType) -> Array:
    value = _rounded(value, source)
    if source.is_float and target.is_integer:
        return _each(lambda x: arithmetic.cast(x, source, target), target, value)
    if target is boolean:
        return np.asarray(value != 0)
    return value.astype(target.numpy).astype(_working(target))


def _bits(value: Array, source: DType, target: DType) -> Array:
    held = value.astype(_working(source) if source.is_storage else source.numpy)
    result = held.view(_working(target) if target.is_storage else target.numpy)
    return np.asarray(result.astype(_working(target)))


def _checked(index: Array, extent: Array) -> Array:
    counted = np.where(index < 0, index + extent, index)
    if np.any((counted < 0) | (counted >= extent)):
        raise IndexError("index out of range")
    return counted
