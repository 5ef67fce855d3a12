"""Expressions: what one element is. Shared by operators' element rules and by the loop language.

Every node is interned: equal expressions are the same object, so that identity finds common
subexpressions and hashing costs nothing. Build them with the functions and operators of this file,
which also check element types; never by the classes.

Meaning. Integer arithmetic wraps; integer `div` and `mod` round towards minus infinity (`trunc_div`
and `fmod` towards zero) and give 0 where the divisor is 0. Float arithmetic is IEEE; `min` and
`max` return NaN if one side is. Comparisons give `bool`. A guarded load reads 0 and touches no
memory where its guard is false; `select` evaluates both sides, so put loads that may be out of
bounds under a guard (see guard.py). f16 and bf16 arithmetic is done in f32 and rounded at each
store or cast. A cast from float to integer truncates and saturates; NaN gives 0. An element of a
storage type (see types.py) is only loaded, selected, stored, and looked at by its bits, as a u8.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias, TypeVar, Union, cast

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.functions import BINARY, COMPARISONS, FLOAT_UNARY, REDUCTIONS, UNARY
from bessemer.compiler.ir.index_functions import combine_indices, compare_indices
from bessemer.compiler.ir.strides import dense_strides
from bessemer.compiler.ir.types import DType, boolean, f32, i64

Index: TypeAlias = tuple[Size, ...]
Scalar: TypeAlias = Union["Expression", int, float, bool]


@dataclass(frozen=True)
class Buffer:
    """Memory of a kernel: a parameter or a local array. `strides` in elements; None is dense."""

    name: str
    dtype: DType
    shape: tuple[Size, ...]
    strides: tuple[Size, ...] | None = None

    def __hash__(self) -> int:
        return hash(self.name)

    def element_strides(self) -> tuple[Size, ...]:
        """The distance between neighbours along each axis, in elements."""
        return dense_strides(self.shape) if self.strides is None else self.strides

    def offset(self, indices: Index) -> Size:
        """The position of an element, in elements from the buffer's start."""
        return dims.total(i * s for i, s in zip(indices, self.element_strides(), strict=True))

    def __getitem__(self, indices: Scalar | Size | tuple[Any, ...]) -> Expression:
        """A load."""
        listed = indices if isinstance(indices, tuple) else (indices,)
        return load(self, tuple(as_index(index) for index in listed))


@dataclass(frozen=True, eq=False)
class Expression:
    """Any expression; `dtype` is the type of its value.

    `_key` is a digest of the node's structure, the same in every process: its name in texts.
    """

    dtype: DType
    _key: ClassVar[str]

    def __str__(self) -> str:
        return f"@{self._key}"

    __repr__ = __str__

    def __add__(self, other: Scalar) -> Expression:
        return binary("add", self, other)

    def __radd__(self, other: Scalar) -> Expression:
        return binary("add", other, self)

    def __sub__(self, other: Scalar) -> Expression:
        return binary("sub", self, other)

    def __rsub__(self, other: Scalar) -> Expression:
        return binary("sub", other, self)

    def __mul__(self, other: Scalar) -> Expression:
        return binary("mul", self, other)

    def __rmul__(self, other: Scalar) -> Expression:
        return binary("mul", other, self)

    def __truediv__(self, other: Scalar) -> Expression:
        return binary("div", self, other)

    def __rtruediv__(self, other: Scalar) -> Expression:
        return binary("div", other, self)

    def __floordiv__(self, other: Scalar) -> Expression:
        return binary("div", self, other)

    def __mod__(self, other: Scalar) -> Expression:
        return binary("mod", self, other)

    def __neg__(self) -> Expression:
        return unary("neg", self)

    def __lt__(self, other: Scalar) -> Expression:
        return binary("lt", self, other)

    def __le__(self, other: Scalar) -> Expression:
        return binary("le", self, other)

    def __gt__(self, other: Scalar) -> Expression:
        return binary("gt", self, other)

    def __ge__(self, other: Scalar) -> Expression:
        return binary("ge", self, other)

    def __and__(self, other: Scalar) -> Expression:
        return binary("and", self, other)

    def __or__(self, other: Scalar) -> Expression:
        return binary("or", self, other)

    def __xor__(self, other: Scalar) -> Expression:
        return binary("xor", self, other)

    def __invert__(self) -> Expression:
        return unary("not", self)


@dataclass(frozen=True, eq=False)
class Constant(Expression):
    """A number; a bool for `bool`, a Python float (rounded by its type) or int otherwise."""

    value: int | float | bool


@dataclass(frozen=True, eq=False)
class Given(Expression):
    """A number that the launch gives, in place of a constant: an f32 whose bits are the lowest of a
    dimension symbol. The code is the same for every number (see parameterize_constants.py)."""

    symbol: str


@dataclass(frozen=True, eq=False)
class IndexValue(Expression):
    """The value of index arithmetic, as i64."""

    size: Size


@dataclass(frozen=True, eq=False)
class Load(Expression):
    """An element of a buffer; 0 where the guard is false."""

    buffer: Buffer
    indices: Index
    guard: Expression | None


@dataclass(frozen=True, eq=False)
class Unary(Expression):
    """A function of one operand; `name` is one of UNARY."""

    name: str
    operand: Expression


@dataclass(frozen=True, eq=False)
class Binary(Expression):
    """A function of two operands of one type; `name` is one of BINARY."""

    name: str
    left: Expression
    right: Expression


@dataclass(frozen=True, eq=False)
class Select(Expression):
    """`then` where the condition holds, `otherwise` elsewhere; both are evaluated."""

    condition: Expression
    then: Expression
    otherwise: Expression


@dataclass(frozen=True, eq=False)
class Cast(Expression):
    """A conversion to `dtype`."""

    operand: Expression


@dataclass(frozen=True, eq=False)
class Bits(Expression):
    """The operand's bits as an element of `dtype`, which is as wide. No bools."""

    operand: Expression


@dataclass(frozen=True, eq=False)
class Checked(Expression):
    """An i64 index read from data, made safe: below zero it counts from `extent`, and if it is
    then outside 0..extent-1 it is clamped and the run fails with "index out of range"."""

    operand: Expression
    extent: Size


@dataclass(frozen=True, eq=False)
class Reduce(Expression):
    """A sum, product, maximum, ... of `body` over all values of `over` (symbols with extents).

    `name` is one of REDUCTIONS. Over nothing it is the reduction's neutral element.
    Only in element rules: the loop language spells it out with a local and loops.
    """

    name: str
    over: tuple[Symbol, ...]
    body: Expression


@dataclass(frozen=True, eq=False)
class Read(Expression):
    """The value of a kernel's local variable (see loops.Define)."""

    local: str


@dataclass(frozen=True, eq=False)
class FragmentElement(Expression):
    """An element of a fragment (see loops.FragmentStore): the row is fixed, the column runs."""

    fragment: str
    row: int


_INTERNED: dict[tuple[Any, ...], Expression] = {}
_E = TypeVar("_E", bound=Expression)


def _intern(kind: type[_E], *arguments: Any) -> _E:
    # A bool equals an int and -0.0 equals 0.0, but they are not the same constant.
    key = (kind, *arguments)
    if kind is Constant:
        key = (*key, type(arguments[1]), math.copysign(1.0, arguments[1]))
    found = _INTERNED.get(key)
    if found is None:
        found = _INTERNED[key] = kind(*arguments)
        text = f"{kind.__name__}{[str(argument) for argument in arguments]}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        object.__setattr__(found, "_key", digest)
    return cast(_E, found)


def forget_interned() -> None:
    """Drops all interned expressions; called between compilations, never during one."""
    _INTERNED.clear()


def neutral(name: str, dtype: DType) -> Expression:
    """The neutral element of a reduction."""
    return constant(REDUCTIONS[name](dtype), dtype)


def constant(value: int | float | bool, dtype: DType) -> Expression:
    """A number of the given type; integers wrap into it."""
    if dtype is boolean:
        return _intern(Constant, dtype, bool(value))
    if dtype.is_float:
        return _intern(Constant, dtype, float(value))
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    if dtype.kind == "i" and wrapped >> (dtype.bits - 1):
        wrapped -= 1 << dtype.bits
    return _intern(Constant, dtype, wrapped)


def given(symbol: str) -> Expression:
    """The f32 with the bits of a dimension symbol."""
    return _intern(Given, f32, symbol)


def index_value(size: Size) -> Expression:
    """Index arithmetic as an i64 value."""
    if isinstance(size, int):
        return constant(size, i64)
    leaf = dims.as_atom(size)
    if isinstance(leaf, Expression):
        return leaf
    return _intern(IndexValue, i64, size)


def as_index(value: Scalar | Size) -> Size:
    """An i64 expression (or an int, or a Size) as a Size, for use in indices."""
    if isinstance(value, Expression):
        if value.dtype != i64:
            raise InternalError(f"an index is i64, not {value.dtype}")
        if isinstance(value, Constant):
            return int(value.value)
        if isinstance(value, IndexValue):
            return value.size
        return dims.atom(value)
    if isinstance(value, float):
        raise InternalError(f"an index is an integer, not {value}")
    return value


def load(buffer: Buffer, indices: Index, guard: Expression | None = None) -> Expression:
    """The element of `buffer` at `indices`, one index an axis."""
    if len(indices) != len(buffer.shape):
        raise InternalError(
            f"{len(indices)} indices into {buffer.name} of rank {len(buffer.shape)}"
        )
    return _intern(Load, buffer.dtype, buffer, tuple(indices), guard)


def lift(value: Scalar, dtype: DType) -> Expression:
    """A Python number as a constant of `dtype`; an expression as it is."""
    return value if isinstance(value, Expression) else constant(value, dtype)


def unary(name: str, operand: Expression) -> Expression:
    """A function of one operand by name."""
    if name not in UNARY:
        raise InternalError(f"no unary function {name}")
    if name in FLOAT_UNARY and not operand.dtype.is_float:
        raise InternalError(f"{name} wants a float, not {operand.dtype}")
    result = boolean if name in ("isnan", "isinf") else operand.dtype
    if name == "not" and isinstance(operand, Constant) and operand.dtype is boolean:
        return constant(not operand.value, boolean)
    if name == "neg" and isinstance(operand, Constant):
        return constant(-operand.value, operand.dtype)
    return _intern(Unary, result, name, operand)


def binary(name: str, left: Scalar, right: Scalar) -> Expression:
    """A function of two operands by name; a Python number takes the other's type."""
    if name not in BINARY:
        raise InternalError(f"no binary function {name}")
    model = left if isinstance(left, Expression) else right
    if not isinstance(model, Expression):
        raise InternalError(f"{name} of two Python numbers")
    a, b = lift(left, model.dtype), lift(right, model.dtype)
    if a.dtype != b.dtype:
        raise InternalError(f"{name} of {a.dtype} and {b.dtype}")
    folded = _fold(name, a, b)
    if folded is not None:
        return folded
    result = boolean if name in COMPARISONS else a.dtype
    return _intern(Binary, result, name, a, b)


def _fold(name: str, a: Expression, b: Expression) -> Expression | None:
    """The identities that hold for every operand of the type, index arithmetic above all."""
    if (
        a.dtype == i64
        and isinstance(a, (Constant, IndexValue))
        and isinstance(b, (Constant, IndexValue))
    ):
        if name in COMPARISONS:
            decided = compare_indices(name, as_index(a), as_index(b))
            return None if decided is None else constant(decided, boolean)
        found = combine_indices(name, as_index(a), as_index(b))
        return None if found is None else index_value(found)
    if a.dtype is boolean and name in ("and", "or"):
        absorbing = name == "or"
        for one, other in ((a, b), (b, a)):
            if isinstance(one, Constant):
                return one if one.value is absorbing else other
    if a.dtype.is_integer and isinstance(b, Constant):
        if name in ("add", "sub", "or", "xor", "shl", "shr") and b.value == 0:
            return a
        if name in ("mul", "div", "trunc_div") and b.value == 1:
            return a
    return None


def select(condition: Expression, then: Scalar, otherwise: Scalar) -> Expression:
    """`then` where `condition` holds, else `otherwise`."""
    model = then if isinstance(then, Expression) else otherwise
    if not isinstance(model, Expression):
        raise InternalError("select between two Python numbers")
    a, b = lift(then, model.dtype), lift(otherwise, model.dtype)
    if condition.dtype is not boolean or a.dtype != b.dtype:
        raise InternalError(f"select({condition.dtype}, {a.dtype}, {b.dtype})")
    if isinstance(condition, Constant):
        return a if condition.value else b
    if a is b:
        return a
    return _intern(Select, a.dtype, condition, a, b)


def convert(operand: Expression, dtype: DType) -> Expression:
    """A cast, left out where the type is right already."""
    if operand.dtype == dtype:
        return operand
    if operand.dtype.is_storage or dtype.is_storage:
        raise InternalError(f"a cast of {operand.dtype} to {dtype}, which is an operator's work")
    if isinstance(operand, Constant) and not operand.dtype.is_float:
        return constant(operand.value, dtype)
    return _intern(Cast, dtype, operand)


def bits(operand: Expression, dtype: DType) -> Expression:
    """The same bits as another type of the same width; those of storage types are in a u8."""
    if operand.dtype == dtype:
        return operand
    if operand.dtype.bits != dtype.bits or boolean in (operand.dtype, dtype):
        raise InternalError(f"the bits of {operand.dtype} as {dtype}")
    if isinstance(operand, Bits):
        return bits(operand.operand, dtype)
    return _intern(Bits, dtype, operand)


def checked(operand: Expression, extent: Size) -> Size:
    """A data-dependent index as a Size that is safe to use on an axis of `extent`."""
    if isinstance(operand, IndexValue) and dims.is_within(operand.size, extent):
        return operand.size
    return dims.atom(_intern(Checked, i64, convert(operand, i64), extent))


def reduce(name: str, over: Sequence[Symbol], body: Expression) -> Expression:
    """The reduction of `body` over symbols with extents."""
    return _intern(Reduce, body.dtype, name, tuple(over), body) if over else body


def read(local: str, dtype: DType) -> Expression:
    """The value of a local variable."""
    return _intern(Read, dtype, local)


def fragment_element(fragment: str, row: int, dtype: DType) -> Expression:
    """An element of a fragment, inside FragmentStore."""
    return _intern(FragmentElement, dtype, fragment, row)


def less(left: Size, right: Size) -> Expression:
    """left < right on index arithmetic, decided at once where possible."""
    return binary("lt", index_value(left), index_value(right))


def within(index: Size, extent: Size) -> Expression:
    """0 <= index < extent on index arithmetic."""
    return binary("ge", index_value(index), 0) & less(index, extent)


def describe(node: Expression) -> str:
    """The class and plain fields of a node, for messages."""
    plain = [
        str(getattr(node, f.name))
        for f in fields(node)
        if not isinstance(getattr(node, f.name), Expression)
    ]
    return f"{type(node).__name__}({', '.join(plain)})"
