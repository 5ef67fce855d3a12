"""What products are summed up in, where that is not the type of the operands.

matmul and conv with dtype=i32 take integers of 8 or 16 bits, each operand its own type; with
dtype=f32 they take f16 or bf16, or f32 and weights of these types. The sums are not rounded to the
operands' type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array, DType, TensorType, bf16, f16, f32, i8, i16, i32, u8
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.precise import widened

_OPERANDS: dict[DType, tuple[DType, ...]] = {i32: (i8, u8, i16), f32: (f16, bf16)}


def check_sum_type(name: str, left: TensorType, right: TensorType, dtype: DType | None) -> None:
    """Raises CompileError where operands of these types cannot be summed up in `dtype`."""
    if dtype is None:
        require(
            left.dtype == right.dtype,
            f"{name} wants one element type, but its inputs are {left} and {right}. Cast them "
            f"first.",
        )
        return
    if dtype not in _OPERANDS:
        known = " or ".join(str(one) for one in _OPERANDS)
        raise CompileError(f"{name} can sum up products in {known}, not in {dtype}.")
    allowed = _OPERANDS[dtype]
    pair = (left.dtype, right.dtype)
    fits = pair[0] in allowed and pair[1] in allowed and (dtype is i32 or pair[0] == pair[1])
    require(
        fits or (dtype is f32 is pair[0] and pair[1] in allowed),
        f"{name} with sums in {dtype} does not take inputs {left} and {right}.",
    )


def summed(function: Callable[..., Array]) -> Callable[..., Array]:
    """The reference `function`, on floats widened to float64 or on integers in the sums' type, its
    float result rounded once, to the type of the sums or else of the first array."""

    @wraps(function)
    def reference(*arrays: Array, dtype: DType | None = None, **attributes: object) -> Array:
        wanted = arrays[0].dtype if dtype is None else dtype.numpy
        if dtype is not None and dtype.is_integer:
            arrays = tuple(array.astype(wanted) for array in arrays)
        with np.errstate(all="ignore"):
            result = np.asarray(function(*map(widened, arrays), **attributes))
            return result.astype(wanted) if result.dtype.kind == "f" else result

    return reference
