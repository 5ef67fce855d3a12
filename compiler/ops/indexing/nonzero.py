"""nonzero: where a tensor is not zero; how many places that are is known only at run time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.dims import symbol as size_symbol
from bessemer.compiler.ir.expr import Buffer, Expression, constant, index_value, select
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, boolean, i64
from bessemer.compiler.ops.check import require


def _infer(x: TensorType, *, symbol: str) -> TensorType:
    require(x.rank > 0, "nonzero wants at least one axis. Reshape the scalar to one element.")
    return TensorType(i64, (x.rank, size_symbol(symbol)))


def _capacity(x: TensorType, *, symbol: str) -> tuple[Size]:
    return (x.rank * x.numel,)


def _reference(x: Array, *, symbol: str) -> Array:
    return np.array(np.nonzero(x), dtype=np.int64)


def _statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *, symbol: str
) -> None:
    (x,) = inputs
    (out,) = outputs
    count = builder.define(constant(0, i64), "count")
    with _rows(builder, x.shape) as row, builder.loop(x.shape[-1], "vector", 0, 4) as column:
        count.accumulate("add", _set(x[(*row, column)]))
    builder.set_dim(symbol, count.value)
    found = builder.define(constant(0, i64), "found")
    with _rows(builder, x.shape) as row:
        place = builder.define(constant(0, i64), "place")
        more = place.value < index_value(x.shape[-1])
        # Every place is written where the next one found belongs, until all are: nobody knows
        # which are set, and to branch on it costs more than to write.
        with builder.repeat_while(more & (found.value < count.value)):
            for axis, position in enumerate((*row, place.index)):
                # Rows are `count` apart, which the output's type cannot say before the run.
                flat = axis * count.index + found.index
                builder.store(out, (0, flat), index_value(position))
            found.set(found.value + _set(x[(*row, place.index)]))
            place.set(place.value + 1)


@contextmanager
def _rows(builder: KernelBuilder, shape: tuple[Size, ...]) -> Iterator[tuple[Size, ...]]:
    with ExitStack() as nest:
        yield tuple(nest.enter_context(builder.loop(size)) for size in shape[:-1])


def _set(value: Expression) -> Expression:
    return select(_is_set(value), constant(1, i64), 0)


def _is_set(value: Expression) -> Expression:
    return value if value.dtype is boolean else expr.binary("ne", value, 0)


register(
    Operator(
        "nonzero",
        _infer,
        _reference,
        statements=_statements,
        capacity=_capacity,
        gradient=None,
        examples=(
            Example((np.array([[1, 0, 3], [0, 0, -2]], np.float32),), {"symbol": "n"}),
            Example((np.array([True, False, True, True]),), {"symbol": "n"}),
            Example((np.zeros((2, 3), np.int64),), {"symbol": "n"}),
            Example((np.array([[[np.nan, -0.0]], [[0.0, 1e-30]]], np.float32),), {"symbol": "n"}),
            Example((np.ones((2, 0, 3), np.float32),), {"symbol": "n"}),
        ),
    )
)
