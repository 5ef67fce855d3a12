"""windows: an axis seen through windows that may overlap, as a view.

[..., n, ...]   becomes   [..., s0, s1, ..., ...]     place = start + i0 * step0 + i1 * step1 ...
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.dims import Size, is_nonnegative, total
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, i64
from bessemer.compiler.ops.check import require, require_axis
from bessemer.compiler.ops.example_arrays import integers


def _infer(
    x: TensorType, *, axis: int, start: Size, sizes: tuple[Size, ...], steps: tuple[int, ...]
) -> TensorType:
    """Bounds in symbols are the caller's promise; what is certain to be outside is an error."""
    require_axis("windows", axis, x)
    require(len(sizes) == len(steps), "windows wants a step for each of its sizes.")
    require(min(steps, default=0) >= 0, f"windows goes forwards, not by steps of {steps}.")
    last = start + total((size - 1) * step for size, step in zip(sizes, steps))
    inside = not is_nonnegative(-1 - start) and not is_nonnegative(last - x.shape[axis])
    require(inside, f"windows of {x}: the last place of axis {axis} is {last}.")
    return x.with_shape((*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


def _reference(
    x: Array, *, axis: int, start: int, sizes: tuple[int, ...], steps: tuple[int, ...]
) -> Array:
    places = np.full(sizes, start)
    for along, (size, step) in enumerate(zip(sizes, steps)):
        places += np.arange(size).reshape(-1, *(1 for _ in sizes[along + 1 :])) * step
    return np.asarray(np.take(x, places, axis=axis))


def _element(
    x: Operand, *, index: Index, axis: int, start: Size, sizes: tuple[Size, ...],
    steps: tuple[int, ...],
) -> Expression:  # fmt: skip
    end = axis + len(sizes)
    place = start + total(i * step for i, step in zip(index[axis:end], steps))
    return x[(*index[:axis], place, *index[end:])]


def _example(x: object, axis: int, start: int, *windows: tuple[int, int]) -> Example:
    sizes, steps = (tuple(entry[k] for entry in windows) for k in range(2))
    return Example((x,), {"axis": axis, "start": start, "sizes": sizes, "steps": steps})


register(
    Operator(
        "windows",
        _infer,
        _reference,
        _element,
        gradient=None,
        is_view=True,
        examples=(
            _example((3, 9, 4), 1, 0, (3, 1), (7, 1)),
            _example((2, 12), 1, 1, (4, 2), (3, 1)),
            _example((7, 2), 0, 2, (2, 0), (3, 2)),
            _example(integers((5,), i64), 0, 0, (1, 1), (2, 1), (2, 2)),
        ),
    )
)
