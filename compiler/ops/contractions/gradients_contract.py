"""Gradients of matrix products and convolutions, which are such products and convolutions again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import reshape, transpose
from bessemer.compiler.ops.movement.gradients_move import summed_to

_TILE, _ENOUGH = (14, 32), 32
"""A tile of sums, about, and how many of them keep a few threads busy."""


def _flipped(d: Differential, x: Value) -> Value:
    """The matrices transposed."""
    rank = x.type.rank
    return transpose(d.builder, x, [*range(rank - 2), rank - 1, rank - 2])


def matmul_gradient(d: Differential) -> Cotangents:
    """dA = dY B^T, dB = A^T dY, added up where a batch was repeated."""
    a, b = d.inputs
    da = summed_to(d, d.apply("matmul", d.dy, _flipped(d, b)), a.type.shape)
    if b.type.rank == 2 and a.type.rank > 2:
        # One weight for all: one product over everything that it was multiplied with.
        a, dy = (
            reshape(d.builder, x, (product(x.type.shape[:-1]), x.type.shape[-1])) for x in (a, d.dy)
        )
        return da, d.apply("matmul", _flipped(d, a), dy)
    return da, summed_to(d, d.apply("matmul", _flipped(d, a), d.dy), b.type.shape)


def conv_gradient(d: Differential) -> Cotangents:
    """The input's by the transposed convolution; the weight's by a convolution with dy."""
    x, w = d.inputs
    attributes = {name: d[name] for name in ("strides", "dilations", "low", "high", "groups")}
    dx = d.apply("conv_transpose", d.dy, w, **attributes, output_padding=_left_over(d, x, w))
    return dx, _weight_gradient(d, x, d.dy, w.type.shape)


def _left_over(d: Differential, x: Value, w: Value) -> tuple[Size, ...]:
    """Rows at the end of the input that no window reached."""
    found: list[Size] = []
    for axis, size in enumerate(x.type.shape[1:-1]):
        reach = (d.dy.type.shape[axis + 1] - 1) * d["strides"][axis] + 1
        reach = reach + (w.type.shape[axis] - 1) * d["dilations"][axis]
        found.append(size - (reach - d["low"][axis] - d["high"][axis]))
    return tuple(found)


def conv_transpose_gradient(d: Differential) -> Cotangents:
    """The adjoint of the adjoint: a convolution, and the weight's with the parts exchanged."""
    x, w = d.inputs
    high = tuple(before - more for before, more in zip(d["high"], d["output_padding"], strict=True))
    attributes: dict[str, Any] = {
        "strides": d["strides"],
        "dilations": d["dilations"],
        "low": d["low"],
        "groups": d["groups"],
    }
    dx = d.apply("conv", d.dy, w, **attributes, high=high)
    return dx, _weight_gradient(d, d.dy, x, w.type.shape)


def _weight_gradient(d: Differential, x: Value, dy: Value, shape: Sequence[Size]) -> Value:
    """dw[tap, c, o] = the sum over samples n, positions p of x[n, p * stride + tap, c] dy[n, p, o].

    That is a convolution of x, its channels as samples, with dy as the weight: the samples are the
    channels, and strides and dilations change places.
    """
    kernel, groups = shape[:-2], d["groups"]
    if kernel and groups > 1 and shape[-2] == 1 and shape[-1] == groups:
        given = {name: d[name] for name in ("strides", "dilations", "low")}
        return d.apply("depthwise_gradient", x, dy, kernel=tuple(kernel), **given)
    rank = x.type.rank
    spatial = list(range(1, rank - 1))
    outputs = dy.type.shape[-1]
    parts = _parts(shape, x.type.shape[0]) if groups == 1 else 1
    image = _exchanged(d, x, groups)
    weight = transpose(d.builder, dy, [*spatial, 0, rank - 1])
    if parts > 1:
        weight = _with_parts(d, dy, parts)
    high: list[Size] = []
    for axis, taps in enumerate(kernel):
        # Just as many positions as there are taps.
        reach = (taps - 1) * d["dilations"][axis] + 1
        reach = reach + (dy.type.shape[axis + 1] - 1) * d["strides"][axis]
        high.append(reach - x.type.shape[axis + 1] - d["low"][axis])
    found = d.apply(
        "conv",
        image,
        weight,
        strides=d["dilations"],
        dilations=d["strides"],
        low=d["low"],
        high=tuple(high),
        groups=groups * parts,
    )
    if parts > 1:
        found = reshape(d.builder, found, (*found.type.shape[:-1], parts, outputs))
        found = d.apply("reduce_sum", found, axes=(rank - 1,))
    assert found.type.shape[-1] == outputs
    return transpose(d.builder, found, [*spatial, 0, rank - 1])


def _exchanged(d: Differential, x: Value, groups: int) -> Value:
    """[n, *s, (g, c)] as [c, *s, (g, n)]: channels as samples, and samples as channels."""
    rank, samples, channels = x.type.rank, x.type.shape[0], x.type.shape[-1]
    spatial = range(1, rank - 1)
    if groups == 1:
        return transpose(d.builder, x, [rank - 1, *spatial, 0])
    split = reshape(d.builder, x, (*x.type.shape[:-1], groups, channels // groups))
    image = transpose(d.builder, split, [rank, *spatial, rank - 1, 0])
    shape = (channels // groups, *x.type.shape[1:-1], groups * samples)
    return reshape(d.builder, image, shape)


def _parts(shape: Sequence[Size], samples: Size) -> int:
    """How many parts of the batch have sums of their own: a small weight is too little for several
    threads, and its sums are long ones. A part of one sample would be a group of one channel, whose
    sums are not those of a product."""
    if not isinstance(samples, int) or not all(isinstance(size, int) for size in shape):
        return 1
    rows, columns = product(shape[:-1]), shape[-1]
    assert isinstance(rows, int) and isinstance(columns, int)
    tiles = -(-rows // _TILE[0]) * -(-columns // _TILE[1])
    for parts in (8, 4, 2):
        if samples % parts == 0 and samples > parts and tiles * parts <= _ENOUGH:
            return parts
    return 1


def _with_parts(d: Differential, dy: Value, parts: int) -> Value:
    """[(p, n), *s, o] as [*s, n, (p, o)]."""
    samples, *spatial, outputs = dy.type.shape
    assert isinstance(samples, int)
    split = reshape(d.builder, dy, (parts, samples // parts, *spatial, outputs))
    last = split.type.rank - 1
    moved = transpose(d.builder, split, [*range(2, last), 1, 0, last])
    return reshape(d.builder, moved, (*spatial, samples // parts, parts * outputs))
