"""Reductions along axes, which they remove: sums, extremes and truth.

Reductions of f16 and bf16 accumulate in f32; integers wrap in their own type. Over no elements the
result is the neutral element (-inf for the maximum of floats).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bessemer.compiler.ir import expr, functions
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.element import Operand, reduction_symbols
from bessemer.compiler.ir.expr import (
    Expression,
    Index,
    convert,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    dtype_of,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
)
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.example_arrays import SPECIAL, booleans, integers, ramp
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.reductions.gradients_reduce import reduction_gradient

_NAMES = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}
"""The operators reduce_... and the reduction that each is."""


def accumulator(dtype: DType) -> DType:
    """The type in which sums over elements of `dtype` are kept."""
    return f32 if dtype in (f16, bf16) else dtype


def _infer(name: str) -> Callable[..., TensorType]:
    allowed = (boolean,) if name in ("any", "all") else (*FLOATS, *INTEGERS)

    def infer(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        require_dtype(f"reduce_{name}", x, allowed)
        for axis in axes:
            require_axis(f"reduce_{name}", axis, x)
        require(len(set(axes)) == len(axes), f"reduce_{name} names an axis twice: {axes}.")
        return x.with_shape(tuple(s for axis, s in enumerate(x.shape) if axis not in axes))

    return infer


def _reference(name: str) -> Callable[..., Array]:
    function = getattr(np, name)

    def reference(x: Array, *, axes: tuple[int, ...]) -> Array:
        with np.errstate(all="ignore"):
            if x.dtype == object:  # the builder follows sizes through sums and products
                return np.asarray(function(x, axis=tuple(axes)))
            if name in ("any", "all"):
                return np.asarray(function(x, axis=tuple(axes)))
            wide = widened(x)
            if name in ("max", "min"):
                initial: Any = np.asarray(functions.REDUCTIONS[name](dtype_of(x))).astype(
                    wide.dtype
                )
                return np.asarray(function(wide, axis=tuple(axes), initial=initial)).astype(x.dtype)
            return np.asarray(function(wide, axis=tuple(axes), dtype=wide.dtype)).astype(x.dtype)

    return reference


def _element(name: str) -> Callable[..., Expression]:
    def element(x: Operand, *, index: Index, axes: tuple[int, ...]) -> Expression:
        ordered = sorted(axes)
        over = reduction_symbols([x.shape[axis] for axis in ordered])
        inner: dict[int, Size] = {axis: atom(s) for axis, s in zip(ordered, over)}
        kept = iter(index)
        place = tuple(inner[axis] if axis in inner else next(kept) for axis in range(len(x.shape)))
        value = convert(x[place], accumulator(x.dtype))
        return convert(expr.reduce(_NAMES[name], over, value), x.dtype)

    return element


_AXES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 5), (1,)),
    ((3, 5), (0,)),
    ((2, 3, 17), (0, 2)),
    ((2, 3, 4), (2, 0, 1)),
    ((1, 7, 1), (0,)),
    ((4, 3), ()),
    ((), ()),
    ((0, 4), (1,)),
    ((4, 0), (1,)),
    ((33,), (0,)),
)
"""Shapes and the axes to reduce."""


def _examples(name: str) -> tuple[Example, ...]:
    if name in ("any", "all"):
        return (
            *(Example((booleans(shape),), {"axes": axes}) for shape, axes in _AXES),
            Example((np.ones((2, 3), bool),), {"axes": (0,)}),
        )
    plain = tuple(Example((shape,), {"axes": axes}) for shape, axes in _AXES)
    return (
        *plain,
        Example((SPECIAL,), {"axes": (0,)}),
        Example((SPECIAL[3:],), {"axes": (0,)}),
        Example((ramp((3, 4), f64),), {"axes": (0,)}, 1e-12),
        Example((ramp((5, 19), f16, 0.4, 1.6),), {"axes": (1,)}, 2e-3),
        Example((ramp((19, 5), bf16, 0.4, 1.6),), {"axes": (0,)}, 2e-2),
        Example((integers((3, 4), i32),), {"axes": (1,)}),
        Example((integers((3, 4), i64),), {"axes": (0, 1)}),
        Example((integers((40,), i8, -90, 100),), {"axes": (0,)}),
        Example((integers((2, 40), u8, 0, 100),), {"axes": (1,)}),
        Example((integers((2, 0), i8),), {"axes": (1,)}),
    )


for _name in _NAMES:
    register(
        Operator(
            f"reduce_{_name}",
            _infer(_name),
            _reference(_name),
            _element(_name),
            gradient=reduction_gradient(_name),
            examples=_examples(_name),
        )
    )
