"""Gradients of the reductions."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.differential import Cotangents, Differential, GradientRule, no_flow
from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import broadcast_to, reshape, scalar_like, transpose


def _spread(d: Differential, y: Value) -> Value:
    """A value of the output's shape, repeated over what was reduced."""
    shape = d.x.type.shape
    kept = [1 if axis in d["axes"] else size for axis, size in enumerate(shape)]
    return broadcast_to(d.builder, reshape(d.builder, y, kept), shape)


def _sum(d: Differential) -> Cotangents:
    return (_spread(d, d.dy),)


def _extreme(d: Differential) -> Cotangents:
    """Elements that are equal to the result share the cotangent."""
    zero, one = (scalar_like(d.builder, d.x, number) for number in (0, 1))
    is_chosen = d.apply("select", d.apply("eq", d.x, _spread(d, d.y)), one, zero)
    count = d.apply("reduce_sum", is_chosen, axes=d["axes"])
    return (d.apply("mul", is_chosen, _spread(d, d.apply("div", d.dy, count))),)


def _product(d: Differential) -> Cotangents:
    """The product of the others: of those before times of those behind, so that zeros are right."""
    shape, rank = d.x.type.shape, d.x.type.rank
    axes = sorted(d["axes"])
    order = [*(axis for axis in range(rank) if axis not in axes), *axes]
    ordered = transpose(d.builder, d.x, order)
    kept = ordered.type.shape[: rank - len(axes)]
    rows = reshape(d.builder, ordered, (*kept, product(shape[axis] for axis in axes)))
    sides = [
        d.apply(
            "cumulative", rows, axis=len(kept), reduction="mul", exclusive=True, reverse=reverse
        )
        for reverse in (False, True)
    ]
    others = reshape(d.builder, d.apply("mul", *sides), ordered.type.shape)
    back = sorted(range(rank), key=order.__getitem__)
    return (d.apply("mul", _spread(d, d.dy), transpose(d.builder, others, back)),)


_RULES: dict[str, Callable[[Differential], Cotangents]] = {
    "sum": _sum,
    "prod": _product,
    "max": _extreme,
    "min": _extreme,
}


def reduction_gradient(name: str) -> GradientRule:
    """The rule of reduce_<name>."""
    return _RULES.get(name, no_flow)
