"""deform_columns: what the moved taps of a deformable convolution read, for its matrix product."""

from __future__ import annotations

import itertools

import numpy as np

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import (
    Expression,
    Index,
    as_index,
    constant,
    convert,
    index_value,
    unary,
)
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, boolean, f32, f64, i64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.window import window_of


def _infer(
    x: TensorType, offsets: TensorType, *mask: TensorType, kernel: tuple[int, ...],
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[Size, ...],
    high: tuple[Size, ...], offset_groups: int = 1,
) -> TensorType:  # fmt: skip
    """(x [N, *S, (D, C)], offsets [N, *out, (D, taps, rank of S)] [, mask [N, *out, (D, taps)]])
    -> [N, *out, D, taps, C]: D is `offset_groups`, and taps are ordered as in the kernel.

    A tap between elements is interpolated linearly; what is outside is 0.
    """
    types = (x, offsets, *mask)
    require_dtype("deform_columns", x, FLOATS)
    require(
        all(type.dtype == x.dtype and type.rank == x.rank for type in types) and len(mask) <= 1,
        f"deform_columns wants tensors of one element type and rank, but got {listed(types)}.",
    )
    window = window_of(kernel, strides, dilations, low, high)
    window.check("deform_columns", x)
    place = (x.shape[0], *window.positions("deform_columns", x))
    taps = product(kernel)
    wanted = [
        x.with_shape((*place, offset_groups * taps * len(kernel))),
        *[x.with_shape((*place, offset_groups * taps))] * len(mask),
    ]
    channels = x.shape[-1]
    require(
        list(types[1:]) == wanted and not (isinstance(channels, int) and channels % offset_groups),
        f"deform_columns of {x} in {offset_groups} groups wants {listed(wanted)} as offsets and "
        f"mask, but got {listed(types[1:])}.",
    )
    return x.with_shape((*place, offset_groups, taps, channels // offset_groups))


def _element(
    x: Operand, offsets: Operand, *mask: Operand, index: Index, kernel: tuple[int, ...],
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[Size, ...],
    high: tuple[Size, ...], offset_groups: int = 1,
) -> Expression:  # fmt: skip
    *place, group, tap, channel = index
    taps = [tap // product(kernel[axis + 1 :]) % size for axis, size in enumerate(kernel)]
    each = x.shape[-1] // offset_groups
    number = group * product(kernel) + tap
    window = window_of(kernel, strides, dilations, low, high)
    positions = tap_positions(window.source(place[1:], taps), offsets, (*place,), number)
    value = between_elements(x, place[0], positions, group * each + channel)
    if mask:
        value = value * convert(mask[0][(*place, number)], value.dtype)
    return convert(value, x.dtype)


def tap_positions(source: Index, offsets: Operand, place: Index, number: Size) -> list[Expression]:
    """Where the tap of a number reads: f32 at least, an entry a spatial axis."""
    working = f64 if offsets.dtype is f64 else f32
    return [
        convert(index_value(at), working)
        + convert(offsets[(*place, number * len(source) + axis)], working)
        for axis, at in enumerate(source)
    ]


def between_elements(
    x: Operand, sample: Size, positions: list[Expression], channel: Size
) -> Expression:
    """The image [N, *S, C] between its elements, interpolated linearly; 0 outside."""
    working = positions[0].dtype
    floors = [unary("floor", position) for position in positions]
    total: Expression = constant(0, working)
    for corner in itertools.product((0, 1), repeat=len(positions)):
        weight: Expression = constant(1, working)
        inside: Expression = constant(True, boolean)
        place: list[Size] = []
        for axis, beyond in enumerate(corner):
            fraction = positions[axis] - floors[axis]
            weight = weight * (fraction if beyond else 1 - fraction)
            at = convert(floors[axis], i64) + beyond
            inside = inside & (at >= 0) & (at < index_value(x.shape[1 + axis]))
            place.append(as_index(at))
        value = convert(x[(sample, *place, channel)], working)
        total = total + guarded(inside, value, 0) * weight
    return total


@rounded_once
def _reference(
    x: Array, offsets: Array, *mask: Array, kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...],
    offset_groups: int = 1,
) -> Array:  # fmt: skip
    places, taps = offsets.shape[:-1], tuple(np.ndindex(*kernel))
    parts = x.reshape(*x.shape[:-1], offset_groups, x.shape[-1] // offset_groups)
    moved = offsets.reshape(*places, offset_groups, len(taps), len(kernel))
    result = np.zeros((*places, offset_groups, len(taps), parts.shape[-1]))
    for place in np.ndindex(*places):
        for group, (number, tap) in itertools.product(range(offset_groups), enumerate(taps)):
            base = np.array(place[1:]) * strides - low + np.array(tap) * dilations
            at = base + moved[(*place, group, number)]
            result[(*place, group, number)] = image_at(parts[place[0], ..., group, :], at)
    return result * mask[0].reshape(*result.shape[:-1], 1) if mask else result


def image_at(image: Array, at: Array) -> Array:
    """[*S, C] between its elements, as float64."""
    total = np.zeros(image.shape[-1])
    floor = np.floor(at).astype(int)
    for corner in itertools.product((0, 1), repeat=len(at)):
        place = floor + corner
        if np.all(place >= 0) and np.all(place < image.shape[:-1]):
            total = total + np.prod(1 - np.abs(at - place)) * image[tuple(place)]
    return total


def _example(
    x: tuple[int, ...], kernel: tuple[int, ...], out: tuple[int, ...], groups: int = 1,
    stride: int = 1, dilation: int = 1, pad: int = 0, masked: bool = False,
) -> Example:  # fmt: skip
    rank, taps = len(kernel), groups * int(np.prod(kernel))
    attributes = {
        "kernel": kernel,
        "strides": (stride,) * rank,
        "dilations": (dilation,) * rank,
        "low": (pad,) * rank,
        "high": (pad,) * rank,
        "offset_groups": groups,
    }
    mask = ((x[0], *out, taps),) if masked else ()
    return Example((x, (x[0], *out, taps * rank), *mask), attributes)


register(
    Operator(
        "deform_columns",
        _infer,
        _reference,
        _element,
        gradient=None,
        examples=(
            _example((1, 3, 3, 1), (2, 2), (2, 2)),
            _example((2, 5, 4, 4), (3, 2), (3, 3), groups=2, stride=2, pad=1),
            _example((1, 6, 5, 2), (2, 2), (4, 3), dilation=2, masked=True),
            _example((3, 7, 3), (3,), (5,), masked=True),
        ),
    )
)
