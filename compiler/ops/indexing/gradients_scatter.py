"""Gradients of the scatters: what was put in reads at its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import (
    along_axis,
    broadcast_to,
    cast,
    scalar_like,
    size_as,
)


@dataclass(frozen=True, eq=False)
class _Places:
    """The indices of a scatter: reading at them, and writing to them."""

    d: Differential
    read: Callable[[Value], Value]
    write: Callable[[Value, Value, str], Value]


def scatter_elements_gradient(d: Differential) -> Cotangents:
    """(x, indices, updates)"""
    axis, indices = d["axis"], d.inputs[1]
    return _gradient(
        _Places(
            d,
            lambda x: d.apply("gather_elements", x, indices, axis=axis),
            lambda x, updates, reduction: d.apply(
                "scatter_elements", x, indices, updates, axis=axis, reduction=reduction
            ),
        )
    )


def scatter_nd_gradient(d: Differential) -> Cotangents:
    """(x, indices, updates)"""
    indices = d.inputs[1]
    return _gradient(
        _Places(
            d,
            lambda x: d.apply("gather_nd", x, indices, batch_dims=0),
            lambda x, updates, reduction: d.apply(
                "scatter_nd", x, indices, updates, reduction=reduction
            ),
        )
    )


def tensor_scatter_gradient(d: Differential) -> Cotangents:
    """(x, positions, updates)"""
    b, axis, size = d.builder, d["axis"], d["size"]
    x, positions, updates = d.inputs
    shape = updates.type.shape
    zeros = scalar_like(b, updates, 0)
    kept = d.apply("tensor_scatter", d.dy, positions, zeros, **d.attributes)
    dx = d.apply("slice", kept, starts=(0,) * x.type.rank, shape=x.type.shape,
                 steps=(1,) * x.type.rank)  # fmt: skip
    first = along_axis(b, cast(b, positions, i64), 0, x.type.rank)
    places = d.apply("iota", shape=shape, axis=axis, dtype=i64)
    places = d.apply("add", places, broadcast_to(b, first, shape))
    if d.attributes.get("mode") == "circular":
        places = d.apply("mod", places, size_as(b, size, i64, shape))
    return dx, None, d.apply("gather_elements", d.dy, places, axis=axis)


def _gradient(places: _Places) -> Cotangents:
    match places.d.attributes.get("reduction", "none"):
        case "add":
            return places.d.dy, None, places.read(places.d.dy)
        case "mul":
            return _product(places)
        case "none":
            # What was replaced has no part. Of several updates that replace each other all are
            # taken for the last, as ONNX leaves open which one stays.
            zeros = scalar_like(places.d.builder, places.d.inputs[2], 0)
            return places.write(places.d.dy, zeros, "none"), None, places.read(places.d.dy)
        case _:
            return _extreme(places)


def _extreme(places: _Places) -> Cotangents:
    """All that are equal to the result share the cotangent."""
    d, updates = places.d, places.d.inputs[2]
    is_kept = d.apply("eq", d.x, d.y)
    is_taken = d.apply("eq", updates, places.read(d.y))
    kept, taken = (cast(d.builder, value, d.x.type.dtype) for value in (is_kept, is_taken))
    share = d.apply("div", d.dy, places.write(kept, taken, "add"))
    zero, no_update = (scalar_like(d.builder, value, 0) for value in (d.x, updates))
    return (
        d.apply("select", is_kept, share, zero),
        None,
        d.apply("select", is_taken, places.read(share), no_update),
    )


def _product(places: _Places) -> Cotangents:
    """Times the product of the others, right where some of them are 0 too."""
    d, b, updates = places.d, places.d.builder, places.d.inputs[2]
    ones = scalar_like(b, d.x, 1)
    dx = d.apply("mul", d.dy, places.write(ones, updates, "mul"))
    is_zero = [d.apply("eq", value, scalar_like(b, value, 0)) for value in (d.x, updates)]
    safe = [
        d.apply("select", zero, scalar_like(b, value, 1), value)
        for zero, value in zip(is_zero, (d.x, updates), strict=True)
    ]
    kept, own = (cast(b, zero, d.x.type.dtype) for zero in is_zero)
    count = places.read(places.write(kept, own, "add"))
    whole = places.read(places.write(safe[0], safe[1], "mul"))
    others = d.apply("select", d.apply("eq", count, own), d.apply("div", whole, safe[1]),
                     scalar_like(b, whole, 0))  # fmt: skip
    return dx, None, d.apply("mul", places.read(d.dy), others)
