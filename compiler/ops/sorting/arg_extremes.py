"""arg_max and arg_min: where along an axis the extreme lies, the first or the last of equal ones.

NaN wins over every number, as in NumPy. Rows that lie side by side are compared lane by lane, each
lane with the best of its own row and its place. Long rows along memory are gone through twice: for
the extreme, and for the place of what equals it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.differential import no_flow
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.expr import (
    Buffer,
    Constant,
    Expression,
    convert,
    load,
    neutral,
    select,
    unary,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    i32,
    i64,
    u8,
)
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.example_arrays import integers, ramp
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.rows import Row, each_row, rows_side_by_side

LONG_ROW = 48
"""Elements of a row along memory from which on its own elements fill vectors."""
SIDE_BY_SIDE = 4
"""Vectors of neighbouring rows that are handled at once."""


def _infer(name: str) -> Callable[..., TensorType]:
    def infer(x: TensorType, *, axis: int, last: bool) -> TensorType:
        require_dtype(name, x, (*FLOATS, *INTEGERS))
        require_axis(name, axis, x)
        require(
            x.shape[axis] != 0,
            f"{name} along axis {axis} of {x}: there are no elements to choose from.",
        )
        return TensorType(i64, x.shape[:axis] + x.shape[axis + 1 :])

    return infer


def _reference(name: str) -> Callable[..., Array]:
    function = np.argmax if name == "arg_max" else np.argmin

    def reference(x: Array, *, axis: int, last: bool) -> Array:
        wide = widened(x)
        if not last:
            return np.asarray(function(wide, axis=axis)).astype(np.int64)
        place = function(np.flip(wide, axis), axis=axis)
        return np.asarray(x.shape[axis] - 1 - place).astype(np.int64)

    return reference


def _statements(name: str) -> Callable[..., None]:
    def statements(
        builder: KernelBuilder,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        *,
        axis: int,
        last: bool,
    ) -> None:
        (x,), (out,) = inputs, outputs

        def put(row: Row, place: Expression) -> None:
            index = row(0)
            builder.store(out, (*index[:axis], *index[axis + 1 :]), place)

        find_extremes(builder, x, name, axis, last, put)

    return statements


Put: TypeAlias = Callable[[Row, Expression], None]
"""What is written for a row, from the place of its extreme, an i64."""


def find_extremes(
    builder: KernelBuilder, x: Buffer, name: str, axis: int, last: bool, put: Put
) -> None:
    """Loops over all rows that find the place of each one's extreme."""
    extent = x.shape[axis]
    is_long = not isinstance(extent, int) or extent >= LONG_ROW
    if is_long and product(x.shape[axis + 1 :]) == 1:
        _along_memory(builder, x, name, axis, last, put)
    else:
        _side_by_side(builder, x, name, axis, last, put)


def _place_type(extent: Size) -> DType:
    """The type of places while they are compared: narrow ones fill vectors better."""
    return i32 if isinstance(extent, int) and extent < 1 << 31 else i64


def _place(position: Size, dtype: DType) -> Expression:
    return convert(expr.index_value(position), dtype)


def _side_by_side(
    builder: KernelBuilder, x: Buffer, name: str, axis: int, last: bool, put: Put
) -> None:
    extent = x.shape[axis]
    places = _place_type(extent)
    are_neighbours = product(x.shape[axis + 1 :]) != 1
    with rows_side_by_side(builder, x.shape, axis, SIDE_BY_SIDE if are_neighbours else 1) as row:
        filled = _fail_if_empty(builder, name, extent)
        best = builder.define(load(x, row(0), filled))
        where = builder.define(expr.constant(0, places))
        with builder.loop(extent - 1) as step:
            candidate = builder.define(x[row(step + 1)])
            better = builder.define(_is_better(name, candidate.value, best.value, last))
            best.set(select(better.value, candidate.value, best.value))
            where.set(select(better.value, _place(step + 1, places), where.value))
        put(row, convert(where.value, i64))


def _is_better(name: str, candidate: Expression, best: Expression, last: bool) -> Expression:
    if not candidate.dtype.is_float:
        beats = ("ge" if last else "gt") if name == "arg_max" else ("le" if last else "lt")
        return expr.binary(beats, candidate, best)
    if last:
        reaches = expr.binary("ge" if name == "arg_max" else "le", candidate, best)
        return reaches | unary("isnan", candidate)
    # No comparison with a NaN holds: what is not at most as good is better, or missing.
    loses = expr.binary("le" if name == "arg_max" else "ge", candidate, best)
    return ~loses & ~unary("isnan", best)


def _along_memory(
    builder: KernelBuilder, x: Buffer, name: str, axis: int, last: bool, put: Put
) -> None:
    extent = x.shape[axis]
    places = _place_type(extent)
    extreme, end = ("max" if name == "arg_max" else "min"), ("max" if last else "min")
    with each_row(builder, x.shape, axis) as row:
        filled = _fail_if_empty(builder, name, extent)
        best = builder.define(load(x, row(0), filled))
        with builder.loop(extent, "vector", 0, SIDE_BY_SIDE) as i:
            best.accumulate(extreme, x[row(i)])
        where = builder.define(neutral(end, places))
        with builder.loop(extent, "vector", 0, SIDE_BY_SIDE) as i:
            element = x[row(i)]
            hits = expr.binary("eq", element, best.value)
            if x.dtype.is_float:
                hits = hits | unary("isnan", element)
            where.accumulate(end, select(hits, _place(i, places), neutral(end, places)))
        put(row, convert(where.value, i64))


def _fail_if_empty(builder: KernelBuilder, name: str, extent: Size) -> Expression | None:
    """Whether there are elements, where that is not known; without any the run ends."""
    filled = expr.less(0, extent)
    if isinstance(filled, Constant):
        return None
    extreme = "largest" if name == "arg_max" else "smallest"
    builder.fail_if(~filled, f"an empty axis has no {extreme} element")
    return filled


_TIES = np.array([[3, 1, 3, 1], [2, 2, 2, 2], [0, 5, 4, 5]], np.float32)
_MISSING = np.array(
    [[1, np.nan, 3, np.nan], [np.nan, 1, 2, 3], [-np.inf, np.inf, 0, 1]], np.float32
)


def _examples() -> tuple[Example, ...]:
    cases: list[tuple[Any, int]] = [
        ((3, 5), 1),
        ((3, 5), 0),
        ((2, 7, 3), 1),
        ((9,), 0),
        ((0, 3), 1),
        ((4, 1), 1),
        (_TIES, 0),
        (_TIES, 1),
        (_MISSING, 1),
        (_MISSING, 0),
        (integers((4, 6), i32), 1),
        (integers((4, 6), u8), 0),
        (ramp((3, 4), bf16), 1),
    ]
    return tuple(
        Example((x,), {"axis": axis, "last": last}) for x, axis in cases for last in (False, True)
    )


for _name in ("arg_max", "arg_min"):
    register(
        Operator(
            _name,
            _infer(_name),
            _reference(_name),
            statements=_statements(_name),
            gradient=no_flow,
            examples=_examples(),
        )
    )
