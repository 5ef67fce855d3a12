"""The gradient of resize, which is linear in its input and goes axis by axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.composite import reshape, transpose
from bessemer.compiler.ops.resize_reference import reference


def resize_gradient(d: Differential) -> Cotangents:
    """Times the transpose of each axis's matrix of weights, which the reference gives."""
    found = d.dy
    for axis, (size, resized) in enumerate(zip(d.x.type.shape, d.y.type.shape)):
        if size == resized and not d.attributes.get("roi"):
            scales = d.attributes.get("scales") or ()
            if not scales or scales[axis] in (0.0, 1.0):
                continue
        if not isinstance(size, int) or not isinstance(resized, int):
            text = "resize of an axis whose size is a symbol; fix it"
            raise UnsupportedError(text, [text])
        weights = _weights(d, axis, size, resized)
        found = _along(d, found, axis, weights.astype(d.x.type.dtype.numpy))
    return (found,)


def _weights(d: Differential, axis: int, size: int, resized: int) -> Array:
    """What each element along an axis counts in each of the result: [resized, size]."""
    rank = d.x.type.rank
    attributes = {**d.attributes, "shape": (resized, size), "extrapolation": 0.0}
    if scales := d.attributes.get("scales"):
        attributes["scales"] = (scales[axis], 1.0)
    if roi := d.attributes.get("roi"):
        attributes["roi"] = (roi[axis], 0.0, roi[rank + axis], 1.0)
    return np.asarray(reference(np.eye(size), **attributes))


def _along(d: Differential, x: Value, axis: int, weights: Array) -> Value:
    """x times a matrix along one axis."""
    b, rank = d.builder, x.type.rank
    order = [*(place for place in range(rank) if place != axis), axis]
    last = transpose(b, x, order)
    rows = last if rank > 1 else reshape(b, last, (1, *last.type.shape))
    product = d.apply("matmul", rows, b.constant(weights))
    if rank == 1:
        product = reshape(b, product, product.type.shape[1:])
    return transpose(b, product, _inverse(order))


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(place) for place in range(len(order))]
