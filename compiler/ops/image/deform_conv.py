"""deform_conv: a convolution whose taps are moved by offsets that are inputs.

Dai et al., "Deformable Convolutional Networks" (2017), with the mask of its second version (2019).
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, f32, f64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.image.deform_columns import between_elements, image_at, tap_positions
from bessemer.compiler.ops.image.gradients_deform import deform_conv_gradient
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.window import reduction_index, window_of


def _infer(
    x: TensorType, w: TensorType, offsets: TensorType, *mask: TensorType,
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[Size, ...],
    high: tuple[Size, ...], groups: int = 1, offset_groups: int = 1,
) -> TensorType:  # fmt: skip
    """(x [N, *S, C], w [*kernel, C / groups, O], offsets [N, *out, taps * rank of S]
    [, mask [N, *out, taps]]) -> [N, *out, O].

    Taps are ordered by group of input channels (of `offset_groups`), then as in the kernel; the
    axes of a tap's offset lie together. A tap between elements is interpolated linearly; what is
    outside is 0.
    """
    types = (x, w, offsets, *mask)
    require_dtype("deform_conv", x, FLOATS)
    require(
        all(type.dtype == x.dtype and type.rank == x.rank for type in types) and len(mask) <= 1,
        f"deform_conv wants tensors of one element type and rank, but got {listed(types)}.",
    )
    channels, features = w.shape[-2:]
    require(
        x.shape[-1] == channels * groups
        and not (isinstance(features, int) and features % groups)
        and not (isinstance(x.shape[-1], int) and x.shape[-1] % offset_groups),
        f"deform_conv of {x} by {w} does not divide into {groups} groups of channels and "
        f"{offset_groups} of offsets.",
    )
    window = window_of(w.shape[:-2], strides, dilations, low, high)
    window.check("deform_conv", x)
    place = (x.shape[0], *window.positions("deform_conv", x))
    taps = product(w.shape[:-2]) * offset_groups
    wanted = [
        x.with_shape((*place, taps * (x.rank - 2))),
        *[x.with_shape((*place, taps))] * len(mask),
    ]
    require(
        list(types[2:]) == wanted,
        f"deform_conv of {x} by {w} wants {listed(wanted)} as offsets and mask, but got "
        f"{listed(types[2:])}.",
    )
    return x.with_shape((*place, features))


def _element(
    x: Operand, w: Operand, offsets: Operand, *mask: Operand, index: Index,
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[Size, ...],
    high: tuple[Size, ...], groups: int = 1, offset_groups: int = 1,
) -> Expression:  # fmt: skip
    window = window_of(w.shape[:-2], strides, dilations, low, high)
    working = f64 if x.dtype is f64 else f32
    sample, *output, feature = index
    over, reduced = reduction_index(w.shape[:-1])
    taps, channel = reduced[:-1], reduced[-1]
    group = 0 if groups == 1 else feature // (w.shape[-1] // groups)
    source = group * w.shape[-2] + channel
    offset_group = 0 if offset_groups == 1 else source // (x.shape[-1] // offset_groups)
    tap: Size = 0
    for at, size in zip(taps, w.shape[:-2]):
        tap = tap * size + at
    number = offset_group * product(w.shape[:-2]) + tap
    place = (sample, *output)
    positions = tap_positions(window.source(output, taps), offsets, place, number)
    value = between_elements(x, sample, positions, source)
    if mask:
        value = value * convert(mask[0][(sample, *output, number)], working)
    term = value * convert(w[(*taps, channel, feature)], working)
    return convert(expr.reduce("add", over, term), x.dtype)


@rounded_once
def _reference(
    x: Array, w: Array, offsets: Array, *mask: Array,
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[int, ...],
    high: tuple[int, ...], groups: int = 1, offset_groups: int = 1,
) -> Array:  # fmt: skip
    kernel, features = w.shape[:-2], w.shape[-1]
    rank = len(kernel)
    moved = offsets.reshape(*offsets.shape[:-1], offset_groups, *kernel, rank)
    shape = (*offsets.shape[:-1], offset_groups, *kernel)
    shares = mask[0].reshape(shape) if mask else np.ones(shape)
    result = np.zeros((*offsets.shape[:-1], features))
    for place in np.ndindex(*offsets.shape[:-1]):
        for channel in range(x.shape[-1]):
            group, inner = divmod(channel, w.shape[-2])
            its_features = slice(group * (features // groups), (group + 1) * (features // groups))
            offset_group = channel // (x.shape[-1] // offset_groups)
            for tap in np.ndindex(*kernel):
                base = np.array(place[1:]) * strides - low + np.array(tap) * dilations
                at = base + moved[(*place, offset_group, *tap)]
                (value,) = image_at(x[place[0], ..., channel, None], at)
                share = shares[(*place, offset_group, *tap)]
                result[place][its_features] += value * share * w[(*tap, inner, its_features)]
    return result


def _example(
    x: tuple[int, ...], w: tuple[int, ...], out: tuple[int, ...], groups: int = 1,
    offset_groups: int = 1, stride: int = 1, dilation: int = 1, pad: int = 0, masked: bool = False,
) -> Example:  # fmt: skip
    rank = len(x) - 2
    taps = offset_groups * int(np.prod(w[:-2]))
    attributes = {
        "strides": (stride,) * rank,
        "dilations": (dilation,) * rank,
        "low": (pad,) * rank,
        "high": (pad,) * rank,
        "groups": groups,
        "offset_groups": offset_groups,
    }
    mask = ((x[0], *out, taps),) if masked else ()
    return Example((x, w, (x[0], *out, taps * rank), *mask), attributes)


register(
    Operator(
        "deform_conv",
        _infer,
        _reference,
        _element,
        gradient=deform_conv_gradient,
        examples=(
            _example((1, 3, 3, 1), (2, 2, 1, 1), (2, 2)),
            _example(
                (2, 5, 4, 4), (3, 2, 2, 6), (3, 3), groups=2, offset_groups=2, stride=2, pad=1
            ),
            _example((1, 6, 5, 2), (2, 2, 2, 3), (4, 3), dilation=2, masked=True),
            _example((3, 7, 3), (3, 3, 2), (5,), masked=True),
        ),
    )
)
