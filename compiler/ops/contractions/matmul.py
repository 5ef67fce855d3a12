"""Matrix multiplication over leading batch axes that broadcast as NumPy's.

f16 and bf16 accumulate in f32, integers in their own type (they wrap). With `dtype`, sums are in
that type and stay in it (see sum_type.py).
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.dims import Size, atom, format_size
from bessemer.compiler.ir.element import Operand, reduction_symbols
from bessemer.compiler.ir.expr import Expression, Index, convert, reduce
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
)
from bessemer.compiler.ops.check import require, require_dtype
from bessemer.compiler.ops.contractions.gradients_contract import matmul_gradient
from bessemer.compiler.ops.contractions.sum_type import check_sum_type, summed
from bessemer.compiler.ops.example_arrays import integers, ramp
from bessemer.compiler.ops.reductions.reduce import accumulator


def _infer(a: TensorType, b: TensorType, *, dtype: DType | None = None) -> TensorType:
    """[..., m, k] and [..., k, n] give [..., m, n]."""
    check_sum_type("matmul", a, b, dtype)
    require_dtype("matmul", a, (*FLOATS, *INTEGERS))
    require(
        a.rank >= 2 and b.rank >= 2,
        f"matmul wants matrices, but its inputs are {a} and {b}. Reshape vectors first.",
    )
    require(
        a.shape[-1] == b.shape[-2],
        f"matmul of {a} and {b}: rows of {format_size(a.shape[-1])} elements meet columns of "
        f"{format_size(b.shape[-2])}.",
    )
    batch = _batch(a, b)
    return TensorType(dtype or a.dtype, (*batch, a.shape[-2], b.shape[-1]))


def _batch(a: TensorType, b: TensorType) -> tuple[Size, ...]:
    rank = max(a.rank, b.rank) - 2
    left = (1,) * (rank - a.rank + 2) + a.shape[:-2]
    right = (1,) * (rank - b.rank + 2) + b.shape[:-2]
    for x, y in zip(left, right):
        require(
            x == y or x == 1 or y == 1,
            f"matmul of {a} and {b}: batches of {format_size(x)} and {format_size(y)} do not "
            f"broadcast.",
        )
    return tuple(y if x == 1 else x for x, y in zip(left, right))


@summed
def _reference(a: Array, b: Array) -> Array:
    return np.asarray(np.matmul(a, b))


def _element(a: Operand, b: Operand, *, index: Index, dtype: DType | None = None) -> Expression:
    *batch, row, column = index
    (k,) = reduction_symbols((a.shape[-1],))
    total = dtype or accumulator(a.dtype)
    left = convert(a[(*broadcast_index(batch, a.shape[:-2]), row, atom(k))], total)
    right = convert(b[(*broadcast_index(batch, b.shape[:-2]), atom(k), column)], total)
    return convert(reduce("add", (k,), left * right), dtype or a.dtype)


_IN_I32 = {"dtype": i32}

register(
    Operator(
        "matmul",
        _infer,
        _reference,
        _element,
        gradient=matmul_gradient,
        examples=(
            Example(((3, 5), (5, 7))),
            Example(((1, 1), (1, 1))),
            Example(((17, 33), (33, 9))),
            Example(((2, 3, 5), (2, 5, 4))),
            Example(((2, 3, 5), (5, 4))),
            Example(((3, 5), (2, 1, 5, 4))),
            Example(((2, 1, 3, 5), (1, 4, 5, 2))),
            Example(((0, 3), (3, 2))),
            Example(((2, 0), (0, 3))),
            Example(((1, 64), (64, 31))),
            Example((ramp((3, 4), f64), ramp((4, 3), f64)), tolerance=1e-12),
            Example((ramp((3, 40), f16), ramp((40, 5), f16)), tolerance=2e-3),
            Example((ramp((5, 16), bf16), ramp((16, 5), bf16)), tolerance=2e-2),
            Example((integers((3, 5), i32), integers((5, 4), i32))),
            Example((integers((2, 5), i64), integers((5, 2), i64))),
            Example((integers((3, 40), i8, -90, 100), integers((40, 2), i8, -90, 100))),
            Example((integers((3, 9), u8, 0, 200), integers((9, 2), u8, 0, 200))),
            Example((integers((3, 9), u8, 0, 255), integers((9, 21), i8, -99, 99)), _IN_I32),
            Example((integers((2, 3, 5), i8, -99, 99), integers((5, 4), u8, 0, 255)), _IN_I32),
            Example((integers((7, 6), i8, -99, 99), integers((6, 5), i8, -99, 99)), _IN_I32),
            Example((integers((2, 7), u8, 0, 255), integers((7, 1), u8, 0, 255)), _IN_I32),
            Example((ramp((3, 41), bf16), ramp((41, 5), bf16)), {"dtype": f32}, 1e-5),
            Example((ramp((2, 3, 6), f16), ramp((6, 5), f16)), {"dtype": f32}, 1e-5),
        ),
    )
)
