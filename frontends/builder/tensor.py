"""Tensors of a network being built: arithmetic on them adds nodes to its graph.

Shapes may hold symbols (`x.shape[0]` of a symbolic batch is one, and can be computed with).
Operands broadcast by NumPy's rules; a number takes the tensor's element type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, ClassVar, TypeAlias, Union

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Dim, Size, divide_exactly, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DTYPES, Array, DType, TensorType, dtype_of, f32, i64
from bessemer.compiler.ops.composite import composite, composite_reduce
from bessemer.frontends.builder.initializers import Fans, Initializer
from bessemer.frontends.builder.slicing import sliced
from bessemer.frontends.builder.trace import Trace

Operand: TypeAlias = Union["Tensor", float, int, bool, Dim, Array]
AnyDType: TypeAlias = DType | str | type[Any] | np.dtype[Any]
Axes: TypeAlias = int | Sequence[int] | None
Key: TypeAlias = Union[int, Dim, slice, EllipsisType, "Tensor", Array, list[int], None]


def as_dtype(dtype: AnyDType) -> DType:
    """An element type by any of its names: f32, "f32", "float32", np.float32."""
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    with suppress(TypeError):
        wanted = np.dtype(dtype)
        for known in DTYPES.values():
            if known.numpy == wanted:
                return known
    raise CompileError(f"{dtype!r} is not an element type; those are {', '.join(DTYPES)}.")


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """A value of the network being written. `==` compares identity; see `functions.equal`."""

    value: Value
    trace: Trace

    # NumPy then leaves `array + tensor` to us.
    __array_ufunc__: ClassVar[None] = None

    def __repr__(self) -> str:
        return f"Tensor({self.value.type})"

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.value.type.shape

    @property
    def rank(self) -> int:
        return self.value.type.rank

    @property
    def builder(self) -> GraphBuilder:
        return self.trace.builder

    @property
    def channel_axis(self) -> int:
        """Where the channels of images are, as the network was told."""
        return self.rank - 1 if self.trace.channels_last or self.rank < 3 else 1

    def with_value(self, value: Value) -> Tensor:
        """Another value of the same network."""
        return Tensor(value, self.trace)

    def parameter(
        self, name: str, shape: Sequence[Size], initializer: Initializer,
        *, trainable: bool = True, fans: Fans | None = None,
    ) -> Tensor:  # fmt: skip
        """A parameter of the layer that is being applied to this tensor, in its element type.

        (f32 if this is a tensor of integers.) Called again with the same name, it is the same
        parameter.
        """
        dtype = self.dtype if self.dtype.is_float else f32
        made = self.trace.parameter(name, shape, initializer, dtype, trainable=trainable, fans=fans)
        return self.with_value(made)

    def constant(self, array: Array | Sequence[Any]) -> Tensor:
        """An array as a tensor of the same network; training never changes it."""
        return self.with_value(self.builder.constant(np.asarray(array)))

    # Arithmetic

    def __add__(self, other: Operand) -> Tensor:
        return binary("add", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return binary("add", other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return binary("sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return binary("mul", self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return binary("mul", other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return binary("div", self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return binary("div", other, self)

    def __floordiv__(self, other: Operand) -> Tensor:
        quotient = binary("div", self, other)
        return unary("floor", quotient) if self.dtype.is_float else quotient

    def __mod__(self, other: Operand) -> Tensor:
        return binary("mod", self, other)

    def __pow__(self, other: Operand) -> Tensor:
        return self * self if isinstance(other, int) and other == 2 else binary("pow", self, other)

    def __rpow__(self, other: Operand) -> Tensor:
        return binary("pow", other, self)

    def __matmul__(self, other: Tensor | Array) -> Tensor:
        right = operand(other, self)
        if not isinstance(right, Value):
            raise CompileError("@ wants a tensor on both sides; use * with a number.")
        return self.with_value(composite.matmul(self.builder, self.value, right))

    def __rmatmul__(self, other: Array) -> Tensor:
        return self.constant(np.asarray(other).astype(self.dtype.numpy)) @ self

    def __neg__(self) -> Tensor:
        return unary("neg", self)

    def __abs__(self) -> Tensor:
        return unary("abs", self)

    # Comparison and logic

    def __lt__(self, other: Operand) -> Tensor:
        return binary("lt", self, other)

    def __le__(self, other: Operand) -> Tensor:
        return binary("le", self, other)

    def __gt__(self, other: Operand) -> Tensor:
        return binary("gt", self, other)

    def __ge__(self, other: Operand) -> Tensor:
        return binary("ge", self, other)

    def __and__(self, other: Operand) -> Tensor:
        return binary("and", self, other)

    def __or__(self, other: Operand) -> Tensor:
        return binary("or", self, other)

    def __xor__(self, other: Operand) -> Tensor:
        return binary("xor", self, other)

    def __invert__(self) -> Tensor:
        return unary("not", self)

    def __bool__(self) -> bool:
        raise TypeError(
            "A tensor has no truth while the network is written: its numbers come later. "
            "Choose between tensors with where(condition, then, otherwise)."
        )

    def __iter__(self) -> Any:
        raise TypeError("A tensor cannot be looped over. Use split(x, sizes, axis).")

    # Shape

    def __getitem__(self, key: Key | tuple[Key, ...]) -> Tensor:
        items = key if isinstance(key, tuple) else (key,)
        return self.with_value(sliced(self.builder, self.value, [self._item(k) for k in items]))

    def _item(self, key: Key) -> int | Dim | slice | EllipsisType | Value | None:
        match key:
            case Tensor():
                return key.value
            case np.integer():
                return int(key)
            case np.ndarray() | list():
                return self.builder.constant(np.asarray(key, dtype=i64.numpy))
            case _:
                return key

    def reshape(self, *shape: Size | Sequence[Size]) -> Tensor:
        """The same elements under another shape; one size may be -1: it follows from the others."""
        sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)
        wanted: list[Size] = [size for size in sizes if isinstance(size, (int, Dim))]
        if -1 in wanted:
            place = wanted.index(-1)
            known = product([*wanted[:place], *wanted[place + 1 :]])
            rest = divide_exactly(self.type.numel, known) if known != 0 else None
            if rest is None:
                raise CompileError(f"reshape of {self.type} to {sizes}: -1 stands for no size.")
            wanted[place] = rest
        return self.with_value(composite.reshape(self.builder, self.value, wanted))

    def transpose(self, *permutation: int) -> Tensor:
        """The axes in another order; without one, in reverse."""
        order = permutation or tuple(reversed(range(self.rank)))
        axes = [composite.normal_axis(axis, self.rank) for axis in order]
        return self.with_value(composite.transpose(self.builder, self.value, axes))

    def swap(self, first: int, second: int) -> Tensor:
        """Two axes exchanged."""
        order = list(range(self.rank))
        order[first], order[second] = order[second], order[first]
        return self.transpose(*order)

    def broadcast_to(self, *shape: Size) -> Tensor:
        """Repeated along axes by NumPy's rules."""
        return self.with_value(composite.broadcast_to(self.builder, self.value, shape))

    def flatten(self, axis: int = 1) -> Tensor:
        """All axes from `axis` on as one."""
        return self.reshape(*self.shape[:axis], product(self.shape[axis:]))

    def cast(self, dtype: AnyDType) -> Tensor:
        """In another element type; floats to integers are cut towards zero."""
        return self.with_value(composite.cast(self.builder, self.value, as_dtype(dtype)))

    # Reductions

    def _reduced(self, rule: Callable[..., Value], axes: Axes, keep: bool) -> Tensor:
        chosen = range(self.rank) if axes is None else [axes] if isinstance(axes, int) else axes
        return self.with_value(rule(self.builder, self.value, chosen, keep))

    def mean(self, axes: Axes = None, keep: bool = False) -> Tensor:
        """The mean over axes, all if none are named; `keep` leaves them with size 1."""
        return self._reduced(composite_reduce.mean, axes, keep)

    def variance(self, axes: Axes = None, keep: bool = False) -> Tensor:
        """The mean squared distance from the mean."""
        return self._reduced(composite_reduce.variance, axes, keep)

    def sum(self, axes: Axes = None, keep: bool = False) -> Tensor:
        """The sum over axes."""
        return self._reduced(_named("sum"), axes, keep)

    def max(self, axes: Axes = None, keep: bool = False) -> Tensor:
        """The greatest over axes."""
        return self._reduced(_named("max"), axes, keep)

    def min(self, axes: Axes = None, keep: bool = False) -> Tensor:
        """The least over axes."""
        return self._reduced(_named("min"), axes, keep)


def _named(reduction: str) -> Callable[..., Value]:
    def rule(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool) -> Value:
        return composite_reduce.reduce(b, reduction, x, axes, keep)

    return rule


def operand(x: Operand, like: Tensor) -> Value | float | int | bool:
    """What compositions take: a value or a number. Arrays of floats, and sizes that are symbols,
    take the tensor's type."""
    match x:
        case Dim():
            size = like.builder.scalar_size(x)
            return size if like.dtype is i64 else composite.cast(like.builder, size, like.dtype)
        case Tensor():
            if x.trace is not like.trace:
                raise CompileError("Two tensors come from two networks. Apply the layers again.")
            return x.value
        case bool() | int() | float():
            if isinstance(x, float) and not like.dtype.is_float and not math.isinf(x):
                raise CompileError(f"The number {x} meets {like.type}. Cast the tensor to floats.")
            return x
        case _:
            array = np.asarray(x)
            if array.dtype.kind in "OSUmMc":
                raise CompileError(f"{x!r} meets {like.type}; a tensor, a number or an array can.")
            same_kind = array.dtype.kind == "f" or array.dtype.kind in "iu"
            if same_kind and (like.dtype.is_float or array.dtype.kind != "f"):
                array = array.astype(like.dtype.numpy)
            dtype_of(array)
            return like.builder.constant(array)


def unary(name: str, x: Tensor) -> Tensor:
    """A pointwise operator of one operand."""
    return x.with_value(x.builder.apply(name, x.value))


def binary(name: str, x: Operand, y: Operand) -> Tensor:
    """A pointwise operator of two operands that broadcast; one is a tensor."""
    like = x if isinstance(x, Tensor) else y
    if not isinstance(like, Tensor):
        raise CompileError(f"{name} wants a tensor on one side at least.")
    result = composite.binary(like.builder, name, operand(x, like), operand(y, like))
    return like.with_value(result)
