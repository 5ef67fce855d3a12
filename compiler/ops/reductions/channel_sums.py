"""Sums over all but the last axis, the channels: what batch normalization is made of.

channel_moments    x -> mean and variance of each channel
normalize_channels x, mean, scale, bias -> (x - mean) * scale + bias
channel_products   dy, x, mean -> the sums of dy, and of dy * (x - mean), in one pass

The variance is that about the mean: a sum of squares minus the square of the sum would cancel. On
a machine both sums are made of the sums of blocks of rows (channel_sum_parts.py; see
passes/sums/block_channel_sums.py), whatever the number of threads.
(Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Buffer, Expression, Index, constant, convert, index_value
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.types import FLOATS, Array, DType, TensorType, f32, f64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.composite.composite import binary, broadcast_to, size_as
from bessemer.compiler.ops.example_arrays import ramp
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.reductions.reduce import accumulator


def require_channels(name: str, x: TensorType, *others: TensorType) -> TensorType:
    """The type of a number for each channel; raises CompileError unless `others` are such."""
    require_dtype(name, x, FLOATS)
    require(x.rank >= 2, f"{name} wants a batch [*, channels], not {x}.")
    each = x.with_shape(x.shape[-1:])
    fits = all(other == each for other in others)
    require(fits, f"{name} of {x} wants one {x.dtype} a channel, not {listed(others)}.")
    return each


def _wide(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1]).astype(np.float64)


def _spread(d: Differential, each: Value, like: Value) -> Value:
    return broadcast_to(d.builder, each, like.type.shape)


# channel_moments


def _moments_infer(x: TensorType) -> tuple[TensorType, ...]:
    each = require_channels("channel_moments", x)
    return each, each


def _moments_reference(x: Array) -> tuple[Array, ...]:
    wide = _wide(x)
    return wide.mean(axis=0).astype(x.dtype), wide.var(axis=0).astype(x.dtype)


def _moments_gradient(d: Differential) -> Cotangents:
    """dx = (dmean + 2 (x - mean) dvariance) / count; the variance does not depend on the mean."""
    count = size_as(d.builder, product(d.x.type.shape[:-1]), d.x.type.dtype, d.y.type.shape)
    found: Value | None = None
    center, spread = d.cotangents
    if center is not None:
        found = _spread(d, d.apply("div", center, count), d.x)
    if spread is not None:
        factor = d.apply("div", binary(d.builder, "mul", spread, 2), count)
        distance = d.apply("sub", d.x, _spread(d, d.y, d.x))
        part = d.apply("mul", distance, _spread(d, factor, d.x))
        found = part if found is None else d.apply("add", found, part)
    return (found,)


def _total(
    builder: KernelBuilder, rows: Size, total: DType, term: Callable[[Size], Expression]
) -> Expression:
    """The sum of a term over rows."""
    local = builder.define(constant(0, total), "total")
    with builder.loop(rows) as row:
        local.set(local.value + term(row))
    return local.value


def _moments_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer]
) -> None:
    (x,) = inputs
    leading = x.shape[:-1]
    rows = product(leading)
    count = convert(index_value(rows), f64)
    with builder.loop(x.shape[-1], "vector", lanes=0) as channel:

        def element(row: Size) -> Expression:
            return convert(x[(*unravel(row, leading), channel)], f64)

        def square(row: Size) -> Expression:
            distance = builder.define(element(row) - mean, "distance").value
            return distance * distance

        mean = builder.define(_total(builder, rows, f64, element) / count, "mean").value
        builder.store(outputs[0], (channel,), mean)
        squares = _total(builder, rows, f64, square)
        builder.store(outputs[1], (channel,), squares / count)


register(
    Operator(
        "channel_moments",
        _moments_infer,
        _moments_reference,
        statements=_moments_statements,
        gradient=_moments_gradient,
        examples=(
            Example(((2, 3, 5, 4),)),
            Example(((40, 19),)),
            Example((1000 + ramp((3, 7, 33), f32),), {}, 1e-4),
            Example((ramp((4, 5, 3), f64),), {}, 1e-12),
        ),
    )
)


# normalize_channels


def _normalize_infer(
    x: TensorType, mean: TensorType, scale: TensorType, bias: TensorType
) -> TensorType:
    require_channels("normalize_channels", x, mean, scale, bias)
    return x


@rounded_once
def _normalize_reference(x: Array, mean: Array, scale: Array, bias: Array) -> Array:
    return (x - mean) * scale + bias


def _normalize_element(
    x: Operand, mean: Operand, scale: Operand, bias: Operand, *, index: Index
) -> Expression:
    total = accumulator(x.dtype)
    each = [convert(operand[index[-1:]], total) for operand in (mean, scale, bias)]
    return convert((convert(x[index], total) - each[0]) * each[1] + each[2], x.dtype)


def _normalize_gradient(d: Differential) -> Cotangents:
    x, mean, scale, _ = d.inputs
    total, products = d.builder.apply_many("channel_products", d.dy, x, mean)
    dx = d.apply("mul", d.dy, _spread(d, scale, x))
    return dx, d.apply("neg", d.apply("mul", scale, total)), products, total


register(
    Operator(
        "normalize_channels",
        _normalize_infer,
        _normalize_reference,
        _normalize_element,
        gradient=_normalize_gradient,
        examples=(
            Example(((2, 3, 5, 4), (4,), (4,), (4,))),
            Example(((40, 19), (19,), (19,), (19,))),
            Example(tuple(ramp(shape, f64) for shape in ((4, 5, 3), (3,), (3,), (3,))), {}, 1e-12),
        ),
    )
)

# channel_products


def _products_infer(dy: TensorType, x: TensorType, mean: TensorType) -> tuple[TensorType, ...]:
    each = require_channels("channel_products", x, mean)
    require(dy == x, f"channel_products wants two tensors of one type, not {dy} and {x}.")
    return each, each


def _products_reference(dy: Array, x: Array, mean: Array) -> tuple[Array, ...]:
    wide = _wide(dy)
    found = (wide.sum(axis=0), (wide * (_wide(x) - mean.astype(np.float64))).sum(axis=0))
    return tuple(array.astype(x.dtype) for array in found)


def _products_gradient(d: Differential) -> Cotangents:
    """Both sums are linear in dy, the second one also in the distances."""
    dy, x, mean = d.inputs
    of_sum, of_products = d.cotangents
    found: Value | None = None if of_sum is None else _spread(d, of_sum, x)
    if of_products is None:
        return found, None, None
    factor = _spread(d, of_products, x)
    part = d.apply("mul", d.apply("sub", x, _spread(d, mean, x)), factor)
    total = d.apply("neg", d.apply("mul", d.outputs[0], of_products))
    ddy = part if found is None else d.apply("add", found, part)
    return ddy, d.apply("mul", dy, factor), total


def products_of(
    builder: KernelBuilder, dy: Expression, x: Expression, mean: Expression
) -> tuple[Expression, Expression]:
    """dy, and dy * (x - mean), in the type of the mean."""
    given = builder.define(convert(dy, mean.dtype), "given").value
    return given, given * (convert(x, mean.dtype) - mean)


def _products_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer]
) -> None:
    dy, x, mean = inputs
    leading = x.shape[:-1]
    with builder.loop(x.shape[-1], "vector", lanes=0) as channel:
        center = builder.define(convert(mean[channel], f64), "mean").value
        totals = [builder.define(constant(0, f64), "total") for _ in outputs]
        with builder.loop(product(leading)) as row:
            at = (*unravel(row, leading), channel)
            for total, term in zip(
                totals, products_of(builder, dy[at], x[at], center), strict=True
            ):
                total.set(total.value + term)
        for output, total in zip(outputs, totals, strict=True):
            builder.store(output, (channel,), total.value)


register(
    Operator(
        "channel_products",
        _products_infer,
        _products_reference,
        statements=_products_statements,
        gradient=_products_gradient,
        examples=(
            Example(((2, 3, 5, 4), (2, 3, 5, 4), (4,))),
            Example(((40, 19), (40, 19), (19,))),
            Example(tuple(ramp(shape, f64) for shape in ((4, 5, 3), (4, 5, 3), (3,))), {}, 1e-12),
        ),
    )
)
