"""Reshape: the same elements, in row-major order, under another shape.

The element rule cuts both shapes into runs of axes with equal numbers of elements and goes through
a linear offset only inside each: (n, c, h, w) -> (n, c, h*w) divides the last index by w, no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from bessemer.compiler.ir.dims import Size, format_size, product, total
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, checked, constant, index_value
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.types import Array, TensorType, bf16, i64
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.example_arrays import booleans, integers, ramp
from bessemer.compiler.ops.movement.gradients_move import reshape_gradient

Run: TypeAlias = tuple[Sequence[int], Sequence[int]]
"""Neighbouring axes of the input, and those of the output that hold the same elements."""


def _infer(x: TensorType, *, shape: tuple[Size, ...]) -> TensorType:
    """Sizes that may be equal at run time are taken to be: reading is bounds-checked then."""
    result = x.with_shape(shape)
    require(
        all(not isinstance(size, int) or size >= 0 for size in shape),
        f"reshape to {result}: a size is negative.",
    )
    difference = x.numel - result.numel
    require(
        not isinstance(difference, int) or difference == 0,
        f"reshape of {x} to {result}: {format_size(x.numel)} elements do not fit into "
        f"{format_size(result.numel)}.",
    )
    return result


def _reference(x: Array, *, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def matched_runs(source: Sequence[Size], target: Sequence[Size]) -> Iterator[Run]:
    """The finest runs of axes that hold the same elements, from first to last.

    Axes of size 1 are in no run. Where the numbers of elements cannot be shown equal, the axes
    concerned form one run.
    """
    inner = [axis for axis, size in enumerate(source) if size != 1]
    outer = [axis for axis, size in enumerate(target) if size != 1]
    tails: list[Run] = []
    if product(source) != product(target):
        count = _common_tail([source[a] for a in inner], [target[a] for a in outer])
        tails = [((inner[-n],), (outer[-n],)) for n in range(count, 0, -1)]
        inner, outer = inner[: len(inner) - count], outer[: len(outer) - count]
    while inner or outer:
        i, o = _first_run([source[a] for a in inner], [target[a] for a in outer])
        yield inner[:i], outer[:o]
        inner, outer = inner[i:], outer[o:]
    yield from tails


def _common_tail(source: Sequence[Size], target: Sequence[Size]) -> int:
    """How many last sizes are equal, one by one."""
    count = 0
    while count < min(len(source), len(target)) and source[-1 - count] == target[-1 - count]:
        count += 1
    return count


def _first_run(source: Sequence[Size], target: Sequence[Size]) -> tuple[int, int]:
    """The smallest counts of leading axes with equal products; all axes if there are none."""
    products = [product(source[:count]) for count in range(1, len(source) + 1)]
    for o in range(1, len(target) + 1):
        reached = product(target[:o])
        if reached in products:
            return products.index(reached) + 1, o
    return len(source), len(target)


def _element(x: Operand, *, index: Index, shape: tuple[Size, ...]) -> Expression:
    source: list[Size] = [0] * len(x.shape)
    if 0 in x.shape or 0 in shape:
        return constant(0, x.dtype)  # there is no element that this could be
    for inner, outer in matched_runs(x.shape, shape):
        sizes = [x.shape[axis] for axis in inner]
        position = total(
            index[axis] * product(shape[later] for later in outer if later > axis) for axis in outer
        )
        if product(sizes) != product(shape[axis] for axis in outer):
            position = checked(index_value(position), product(sizes))
        for axis, place in zip(inner, unravel(position, sizes)):
            source[axis] = place
    return x[tuple(source)]


_SHAPES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3, 4, 5), (2, 3, 20)),
    ((2, 12, 5), (2, 3, 4, 5)),
    ((6, 4), (4, 6)),
    ((3, 5, 7), (105,)),
    ((105,), (3, 5, 7)),
    ((2, 6, 10), (4, 3, 5, 2)),
    ((1, 3, 1, 5), (3, 1, 1, 5, 1)),
    ((), (1, 1)),
    ((1,), ()),
    ((0, 3), (5, 0, 2)),
    ((4, 9, 2), (2, 2, 3, 6)),
)

register(
    Operator(
        "reshape",
        _infer,
        _reference,
        _element,
        gradient=reshape_gradient,
        is_view=True,
        examples=(
            *(Example((source,), {"shape": target}) for source, target in _SHAPES),
            Example((integers((2, 3), i64),), {"shape": (3, 2)}),
            Example((booleans((4,)),), {"shape": (2, 2)}),
            Example((ramp((4,), bf16),), {"shape": (2, 1, 2)}),
        ),
    )
)
