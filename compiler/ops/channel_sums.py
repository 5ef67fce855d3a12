"""Sums over all but the last axis, the channels: what batch normalization is made of.

channel_moments    x -> mean and variance of each channel
normalize_channels x, mean, scale, bias -> (x - mean) * scale + bias
channel_products   dy, x, mean -> the sums of dy, and of dy * (x - mean), in one pass

The variance is that about the mean: a sum of squares minus the square of the sum would cancel. On
a machine both sums are made of the sums of blocks of rows (channel_moment_parts,
channel_product_parts; see passes/block_channel_sums.py), whatever the number of threads.
(Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir import dims
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
from bessemer.compiler.ops.reduce import accumulator

_INTERLEAVE = 4
"""Vectors of channels at once: as many sums are under way."""
_ROWS = 4
"""Rows of a block that are added to its totals at once, if they are near: in the first-level cache,
or of fewer channels than `_WIDE`. Wide ones are read one after the other, as they lie: processors
foresee that. (25,088 rows of 256 channels from memory: 14 to 17 GB/s; a few channels of some or of
all rows, then the next channels: 8 to 9.)"""
_WIDE = 64

Terms: TypeAlias = Callable[[Size], Sequence[Expression]]
"""What a row adds to each total of a channel."""


def _require_channels(name: str, x: TensorType, *others: TensorType) -> TensorType:
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
    each = _require_channels("channel_moments", x)
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


@contextmanager
def _each_channel(builder: KernelBuilder, channels: Size) -> Iterator[Size]:
    """The channels, some vectors at once."""
    with builder.loop(channels, "vector", lanes=0, interleave=_INTERLEAVE) as channel:
        yield channel


def _add_rows(
    builder: KernelBuilder,
    parts: Buffer,
    block: Size,
    places: Sequence[int],
    rows: Size,
    together: int,
    terms: Callable[[Size], Terms],
) -> None:
    """Sets the totals of a block, those at `places`, to the sums of what its rows add to them, so
    many rows together."""
    channels = parts.shape[2]

    def add(first: Size, count: int) -> None:
        with _each_channel(builder, channels) as channel:
            of_row = terms(channel)
            totals = [builder.define(parts[block, place, channel], "total") for place in places]
            for row in range(count):
                for total, term in zip(totals, of_row(first + row), strict=True):
                    total.set(total.value + term)
            for place, total in zip(places, totals, strict=True):
                builder.store(parts, (block, place, channel), total.value)

    with _each_channel(builder, channels) as channel:
        for place in places:
            builder.store(parts, (block, place, channel), constant(0, parts.dtype))
    groups = dims.floordiv(rows, together)
    with builder.loop(groups) as group:
        add(group * together, together)
    with builder.loop(rows - groups * together) as row:
        add(groups * together + row, 1)


def _together(channels: Size) -> int:
    """How many rows that come from memory are added at once."""
    return _ROWS if isinstance(channels, int) and channels < _WIDE else 1


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


def _moment_parts_infer(x: TensorType) -> TensorType:
    """[blocks, rows, channels] -> [blocks, 2, channels]: the mean of each block's rows, and the sum
    of the squares of their distances to it."""
    require_dtype("channel_moment_parts", x, FLOATS)
    require(x.rank == 3, f"channel_moment_parts wants [blocks, rows, channels], not {x}.")
    return TensorType(accumulator(x.dtype), (x.shape[0], 2, x.shape[2]))


def _moment_parts_reference(x: Array) -> Array:
    wide = x.astype(np.float64)
    found = np.stack([wide.mean(axis=1), wide.var(axis=1) * x.shape[1]], axis=1)
    return found.astype(x.dtype if x.dtype.itemsize > 2 else np.float32)


def _moment_parts_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer]
) -> None:
    (x,), (parts,) = inputs, outputs
    blocks, rows, channels = x.shape

    def elements(channel: Size) -> Terms:
        return lambda row: [convert(x[block, row, channel], parts.dtype)]

    def squares(channel: Size) -> Terms:
        mean = builder.define(parts[block, 0, channel], "mean").value

        def of_row(row: Size) -> Sequence[Expression]:
            element = convert(x[block, row, channel], parts.dtype)
            distance = builder.define(element - mean, "distance").value
            return [distance * distance]

        return of_row

    with builder.loop(blocks, "parallel") as block:
        _add_rows(builder, parts, block, (0,), rows, _together(channels), elements)
        with _each_channel(builder, channels) as channel:
            mean = parts[block, 0, channel] / convert(index_value(rows), parts.dtype)
            builder.store(parts, (block, 0, channel), mean)
        _add_rows(builder, parts, block, (1,), rows, _ROWS, squares)


register(
    Operator(
        "channel_moment_parts",
        _moment_parts_infer,
        _moment_parts_reference,
        statements=_moment_parts_statements,
        examples=(
            Example(((3, 5, 4),)),
            Example(((2, 8, 67),)),
            Example((ramp((2, 5, 3), f64),), {}, 1e-12),
        ),
    )
)

# normalize_channels


def _normalize_infer(
    x: TensorType, mean: TensorType, scale: TensorType, bias: TensorType
) -> TensorType:
    _require_channels("normalize_channels", x, mean, scale, bias)
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
    each = _require_channels("channel_products", x, mean)
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


def _products_of(
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
                totals, _products_of(builder, dy[at], x[at], center), strict=True
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


def _product_parts_infer(dy: TensorType, x: TensorType, mean: TensorType) -> TensorType:
    """[blocks, rows, channels] of both -> [blocks, 2, channels], to be added up."""
    _require_channels("channel_product_parts", x, mean)
    fits = dy == x and x.rank == 3
    require(fits, f"channel_product_parts wants [blocks, rows, channels] twice, not {dy}, {x}.")
    return TensorType(accumulator(x.dtype), (x.shape[0], 2, x.shape[2]))


def _product_parts_reference(dy: Array, x: Array, mean: Array) -> Array:
    wide = dy.astype(np.float64)
    products = wide * (x.astype(np.float64) - mean.astype(np.float64))
    found = np.stack([wide.sum(axis=1), products.sum(axis=1)], axis=1)
    return found.astype(x.dtype if x.dtype.itemsize > 2 else np.float32)


def _product_parts_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer]
) -> None:
    dy, x, mean = inputs
    (parts,) = outputs
    blocks, rows, channels = x.shape

    def products(channel: Size) -> Terms:
        center = builder.define(convert(mean[channel], parts.dtype), "mean").value

        def of_row(row: Size) -> Sequence[Expression]:
            at = (block, row, channel)
            return _products_of(builder, dy[at], x[at], center)

        return of_row

    with builder.loop(blocks, "parallel") as block:
        _add_rows(builder, parts, block, (0, 1), rows, _together(channels), products)


register(
    Operator(
        "channel_product_parts",
        _product_parts_infer,
        _product_parts_reference,
        statements=_product_parts_statements,
        examples=(
            Example(((3, 5, 4), (3, 5, 4), (4,))),
            Example(((2, 8, 67), (2, 8, 67), (67,))),
            Example(tuple(ramp(shape, f64) for shape in ((2, 5, 3), (2, 5, 3), (3,))), {}, 1e-12),
        ),
    )
)
