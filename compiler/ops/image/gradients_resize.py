"""The gradient of resize, which is linear in its input and goes axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, i64
from bessemer.compiler.ops.composite.composite import cast, reshape, transpose
from bessemer.compiler.ops.image.resize_reference import reference


def resize_gradient(d: Differential) -> Cotangents:
    """Times the transpose of each axis's matrix of weights, which the reference gives."""
    found = d.dy
    for axis, (size, resized) in enumerate(zip(d.x.type.shape, d.y.type.shape)):
        if size == resized and not d.attributes.get("roi"):
            scales = d.attributes.get("scales") or ()
            if not scales or scales[axis] in (0.0, 1.0):
                continue
        found = _along(d, found, axis, _matrix(d, axis, size, resized))
    return (found,)


def _matrix(d: Differential, axis: int, size: Size, resized: Size) -> Value:
    """The weights; of sizes known at run time only, what resize makes of the identity."""
    dtype = d.x.type.dtype
    if isinstance(size, int) and isinstance(resized, int):
        return d.builder.constant(_weights(d, axis, size, resized).astype(dtype.numpy))
    places = [d.apply("iota", shape=(size, size), axis=k, dtype=i64) for k in (0, 1)]
    identity = cast(d.builder, d.apply("eq", *places), dtype)
    return d.apply("resize", identity, **_one_axis(d, axis, size, resized))


def _weights(d: Differential, axis: int, size: int, resized: int) -> Array:
    """What each element along an axis counts in each of the result: [resized, size]."""
    return np.asarray(reference(np.eye(size), **_one_axis(d, axis, size, resized)))


def _one_axis(d: Differential, axis: int, size: Size, resized: Size) -> dict[str, Any]:
    """The attributes that resize the rows of a matrix as this axis is."""
    rank = d.x.type.rank
    attributes = {**d.attributes, "shape": (resized, size), "extrapolation": 0.0}
    if scales := d.attributes.get("scales"):
        attributes["scales"] = (scales[axis], 1.0)
    if roi := d.attributes.get("roi"):
        attributes["roi"] = (roi[axis], 0.0, roi[rank + axis], 1.0)
    return attributes


def _along(d: Differential, x: Value, axis: int, weights: Value) -> Value:
    """x times a matrix along one axis."""
    b, rank = d.builder, x.type.rank
    order = [*(place for place in range(rank) if place != axis), axis]
    last = transpose(b, x, order)
    rows = last if rank > 1 else reshape(b, last, (1, *last.type.shape))
    product = d.apply("matmul", rows, weights)
    if rank == 1:
        product = reshape(b, product, product.type.shape[1:])
    return transpose(b, product, _inverse(order))


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(place) for place in range(len(order))]
