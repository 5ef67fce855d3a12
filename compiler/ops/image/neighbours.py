"""mix_neighbours: along one axis, the elements at places that a table holds, or weighted sums of
neighbours there. It resizes an axis whose sizes only the run knows (passes/tabulate_resizes.py)."""

from __future__ import annotations

from functools import reduce as fold

import numpy as np

from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, as_index
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, i64
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.image.interpolate import clamped


def _infer(x: TensorType, places: TensorType, *weights: TensorType, axis: int) -> TensorType:
    """(x, places i64 [n], for each tap its weights [n], if any) -> x with n elements along `axis`.

    A place is that of the first tap; taps beyond an end of the axis are the element at the end.
    """
    require_axis("mix_neighbours", axis, x)
    require_dtype("mix_neighbours' places", places, (i64,))
    require(
        all(given.shape == places.shape and given.rank == 1 for given in (places, *weights)),
        f"mix_neighbours wants a place and each weight of every element, not {places}, {weights}.",
    )
    for given in weights:
        require_dtype("mix_neighbours' weights", given, FLOATS)
        require(given.dtype is x.dtype, f"mix_neighbours wants weights of the type of {x}.")
    return x.with_shape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _element(x: Operand, places: Operand, *weights: Operand, index: Index, axis: int) -> Expression:
    at = index[axis]
    place = as_index(places[(at,)])

    def tap(number: int) -> Expression:
        inside = clamped(place + number, x.shape[axis])
        return x[(*index[:axis], inside, *index[axis + 1 :])]

    if not weights:
        return tap(0)
    terms = [weight[(at,)] * tap(number) for number, weight in enumerate(weights)]
    return fold(lambda a, b: a + b, terms)


def _reference(x: Array, places: Array, *weights: Array, axis: int) -> Array:
    last = x.shape[axis] - 1

    def tap(number: int) -> Array:
        return np.asarray(np.take(x, np.clip(places + number, 0, last), axis=axis))

    if not weights:
        return tap(0)
    behind = (-1, *[1] * (x.ndim - axis - 1))
    total = np.zeros_like(tap(0), np.float64)
    for number, weight in enumerate(weights):
        total += weight.reshape(behind).astype(np.float64) * tap(number)
    return total.astype(x.dtype)


register(
    Operator(
        "mix_neighbours",
        _infer,
        _reference,
        _element,
        gradient=None,
        examples=(
            Example(((2, 5, 3), np.array([4, 0, -1, 9])), {"axis": 1}),
            Example(((2, 5), np.array([3, 0, 4]), (3,), (3,)), {"axis": 1}),
            Example(((5, 4, 2), np.array([-1, 3]), (2,), (2,), (2,), (2,)), {"axis": 0}),
        ),
    )
)
