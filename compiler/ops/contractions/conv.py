"""Convolution and its transpose, of any number of spatial axes, channels last.

x is [N, *spatial, C]. conv's w is [*kernel, C / groups, O]; conv_transpose's is
[*kernel, O / groups, C]. f16 and bf16 accumulate in f32, integers in their own type.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size, format_size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, constant, convert, reduce
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i8,
    i32,
    u8,
)
from bessemer.compiler.ops.check import require, require_dtype, require_entries
from bessemer.compiler.ops.contractions.gradients_contract import (
    conv_gradient,
    conv_transpose_gradient,
)
from bessemer.compiler.ops.contractions.sum_type import check_sum_type, summed
from bessemer.compiler.ops.example_arrays import integers, ramp
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.reductions.reduce import accumulator
from bessemer.compiler.ops.window import reduction_index, tap_views, window_of


def is_depthwise(node: Node) -> bool:
    """Whether it is a convolution with one input channel a group: no sum worth a matrix unit."""
    if node.operator.name != "conv":
        return False
    return node.attributes["groups"] > 1 and node.inputs[1].type.shape[-2] == 1


def _check_operands(
    name: str, x: TensorType, w: TensorType, groups: int, dtype: DType | None = None
) -> None:
    check_sum_type(name, x, w, dtype)
    require_dtype(name, x, (*FLOATS, *INTEGERS))
    require(
        x.rank >= 2 and w.rank == x.rank,
        f"{name} wants an input [N, *spatial, C] and a weight with as many axes, but they are "
        f"{x} and {w}.",
    )
    require(groups >= 1, f"{name} has {groups} groups; there must be one at least.")


def _conv_infer(
    x: TensorType, w: TensorType, *, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...], groups: int, dtype: DType | None = None,
) -> TensorType:  # fmt: skip
    _check_operands("conv", x, w, groups, dtype)
    channels, outputs = w.shape[-2:]
    require(
        x.shape[-1] == channels * groups,
        f"conv wants {format_size(channels * groups)} input channels ({format_size(channels)} in "
        f"each of {groups} groups), but its input has {format_size(x.shape[-1])}: input {x}, "
        f"weight {w} as [*kernel, channels of a group, outputs].",
    )
    require(
        not isinstance(outputs, int) or outputs % groups == 0,
        f"conv cannot share {format_size(outputs)} output channels among {groups} groups: "
        f"weight {w}.",
    )
    window = window_of(w.shape[:-2], strides, dilations, low, high)
    window.check("conv", x)
    return TensorType(dtype or x.dtype, (x.shape[0], *window.positions("conv", x), outputs))


@summed
def _conv_reference(
    x: Array, w: Array, *, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[int, ...], high: tuple[int, ...], groups: int,
) -> Array:  # fmt: skip
    window = window_of(w.shape[:-2], strides, dilations, low, high)
    channels, outputs = w.shape[-2:]
    total: Array | None = None
    for tap, seen in tap_views(x, window, 0):
        grouped = seen.reshape(*seen.shape[:-1], groups, 1, channels)
        weight = w[tap].reshape(channels, groups, outputs // groups).transpose(1, 0, 2)
        part = np.matmul(grouped, weight).reshape(*seen.shape[:-1], outputs)
        total = part if total is None else total + part
    assert total is not None
    return total


def _conv_element(
    x: Operand, w: Operand, *, index: Index, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...], groups: int, dtype: DType | None = None,
) -> Expression:  # fmt: skip
    window = window_of(w.shape[:-2], strides, dilations, low, high)
    sample, *output, feature = index
    over, reduced = reduction_index(w.shape[:-1])
    taps, channel = reduced[:-1], reduced[-1]
    group = 0 if groups == 1 else feature // (w.shape[-1] // groups)
    place = window.source(output, taps)
    total = dtype or accumulator(x.dtype)
    left = convert(x[(sample, *place, group * w.shape[-2] + channel)], total)
    value = left * convert(w[(*taps, channel, feature)], total)
    inside = window.is_inside(place, x.shape[1:-1])
    return convert(reduce("add", over, guarded(inside, value, 0)), dtype or x.dtype)


def _case(
    x: Any, w: Any, stride: int | tuple[int, ...] = 1, low: int | tuple[int, ...] = 0,
    high: int | tuple[int, ...] | None = None, dilation: int | tuple[int, ...] = 1,
    groups: int = 1, tolerance: float = 1e-5, **more: Any,
) -> Example:  # fmt: skip
    shape = x if isinstance(x, tuple) else x.shape
    spatial = len(shape) - 2

    def each(entry: int | tuple[int, ...]) -> tuple[int, ...]:
        return entry if isinstance(entry, tuple) else (entry,) * spatial

    attributes = {
        "strides": each(stride),
        "dilations": each(dilation),
        "low": each(low),
        "high": each(low if high is None else high),
        "groups": groups,
        **more,
    }
    return Example((x, w), attributes, tolerance)


register(
    Operator(
        "conv",
        _conv_infer,
        _conv_reference,
        _conv_element,
        gradient=conv_gradient,
        examples=(
            _case((1, 5, 7, 3), (3, 3, 3, 4), low=1),
            _case((2, 7, 7, 3), (3, 3, 3, 5), stride=2, low=1),
            _case((1, 8, 9, 4), (3, 2, 2, 6), stride=(2, 1), low=(0, 1), high=(1, 0), groups=2),
            _case((1, 9, 9, 6), (3, 3, 1, 6), low=1, groups=6),
            _case((1, 6, 6, 3), (3, 3, 1, 6), low=1, groups=3),
            _case((1, 9, 9, 2), (3, 3, 2, 3), low=2, dilation=2),
            _case((2, 5, 5, 8), (1, 1, 8, 7)),
            _case((2, 11, 3), (4, 3, 5), stride=3, low=(2,), high=(0,)),
            _case((1, 4, 5, 6, 2), (2, 3, 2, 2, 3), stride=(1, 2, 1), low=(1, 0, 1)),
            _case((1, 6, 7, 2), (3, 3, 2, 2), low=(-1, 1), high=(1, -2)),
            _case((3, 4), (4, 5)),
            _case((0, 5, 5, 2), (3, 3, 2, 2)),
            _case((1, 12, 12, 3), (7, 7, 3, 4), stride=2, low=3),
            _case(ramp((1, 5, 5, 3), f64), ramp((3, 3, 3, 2), f64), low=1, tolerance=1e-12),
            _case(ramp((1, 5, 5, 9), f16), ramp((3, 3, 9, 2), f16), low=1, tolerance=2e-3),
            _case(ramp((1, 5, 5, 9), bf16), ramp((3, 3, 9, 2), bf16), tolerance=2e-2),
            _case(integers((1, 5, 5, 3), i32), integers((3, 3, 3, 2), i32), low=1),
            _case(integers((1, 5, 6, 3), u8), integers((3, 3, 3, 5), i8), low=1, dtype=i32),
            _case(integers((1, 6, 5, 4), i8), integers((3, 2, 2, 6), u8), groups=2, dtype=i32),
            _case(integers((1, 6, 5, 6), u8), integers((3, 3, 1, 6), u8), groups=6, dtype=i32),
            _case(ramp((1, 5, 5, 9), bf16), ramp((3, 3, 9, 2), bf16), low=1, dtype=f32),
            _case(ramp((1, 6, 5, 6), bf16), ramp((3, 3, 1, 6), bf16), groups=6, dtype=f32),
        ),
    )
)

# conv_transpose


def _transpose_infer(
    x: TensorType, w: TensorType, *, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...], output_padding: tuple[Size, ...], groups: int,
) -> TensorType:  # fmt: skip
    _check_operands("conv_transpose", x, w, groups)
    outputs, channels = w.shape[-2:]
    require(
        x.shape[-1] == channels and (not isinstance(channels, int) or channels % groups == 0),
        f"conv_transpose with {groups} groups: the input {x} and the weight {w} must have one "
        f"number of channels, at their ends, which the groups share.",
    )
    window = window_of(w.shape[:-2], strides, dilations, low, high)
    window.check("conv_transpose", x)
    require_entries("conv_transpose", "output pads", output_padding, x.rank - 2)
    shape: list[Size] = [x.shape[0]]
    for axis, size in enumerate(x.shape[1:-1]):
        full = (size - 1) * strides[axis] + window.reach(axis) + 1
        shape.append(full - low[axis] - high[axis] + output_padding[axis])
        require(
            not isinstance(shape[-1], int) or shape[-1] >= 0,
            f"conv_transpose of {x}: pads take away more than there is along axis {axis}.",
        )
    return x.with_shape((*shape, outputs * groups))


@rounded_once
def _transpose_reference(
    x: Array, w: Array, *, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[int, ...], high: tuple[int, ...], output_padding: tuple[int, ...], groups: int,
) -> Array:  # fmt: skip
    """Every input position adds its product with the whole kernel: the scatter form."""
    kernel, (outputs, channels) = w.shape[:-2], w.shape[-2:]
    shares = x.reshape(*x.shape[:-1], groups, 1, channels // groups)
    spatial = x.shape[1:-1]
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    extra = [max(p - h, 0) for p, h in zip(output_padding, high)]
    full = [(n - 1) * s + r + 1 + e for n, s, r, e in zip(spatial, strides, reach, extra)]
    total = np.zeros((x.shape[0], *full, outputs * groups), x.dtype)
    for tap in itertools.product(*map(range, kernel)):
        weight = w[tap].reshape(outputs, groups, channels // groups).transpose(1, 2, 0)
        part = np.matmul(shares, weight).reshape(*x.shape[:-1], outputs * groups)
        places = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(tap, dilations, spatial, strides)
        )
        total[(slice(None), *places)] += part
    for axis, (before, after, more) in enumerate(zip(low, high, output_padding)):
        size = (spatial[axis] - 1) * strides[axis] + reach[axis] + 1 - before - after + more
        wanted = before + np.arange(size)
        inside = (wanted >= 0) & (wanted < total.shape[axis + 1])
        total = np.take(total, np.where(inside, wanted, 0), axis + 1)
        total = total * inside.reshape(-1, *[1] * (total.ndim - axis - 2)).astype(total.dtype)
    return total


def _transpose_element(
    x: Operand, w: Operand, *, index: Index, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...], output_padding: tuple[Size, ...], groups: int,
) -> Expression:  # fmt: skip
    """What a position gathers: at each tap, the input position under it, if there is one."""
    sample, *output, feature = index
    outputs, channels = w.shape[-2:]
    over, reduced = reduction_index((*w.shape[:-2], channels // groups))
    taps, share = reduced[:-1], reduced[-1]
    group, member = (0, feature) if groups == 1 else (feature // outputs, feature % outputs)
    channel = group * (channels // groups) + share
    hit, place = constant(True, boolean), []
    for axis, (o, k) in enumerate(zip(output, taps)):
        stride = strides[axis]
        position = o + low[axis] - k * dilations[axis]
        aligned = expr.binary("eq", expr.index_value(position % stride), 0)
        hit = hit & aligned & expr.within(position // stride, x.shape[1 + axis])
        place.append(position // stride)
    total = accumulator(x.dtype)
    left = convert(x[(sample, *place, channel)], total)
    value = left * convert(w[(*taps, member, channel)], total)
    return convert(reduce("add", over, guarded(hit, value, 0)), x.dtype)


def _transpose_case(x: Any, w: Any, spatial: int, pad: int = 0, **more: Any) -> Example:
    return _case(x, w, output_padding=(pad,) * spatial, **more)


register(
    Operator(
        "conv_transpose",
        _transpose_infer,
        _transpose_reference,
        _transpose_element,
        gradient=conv_transpose_gradient,
        examples=(
            _transpose_case((1, 4, 5, 3), (3, 3, 4, 3), 2),
            _transpose_case((2, 4, 5, 3), (3, 2, 4, 3), 2, stride=2, low=1),
            _transpose_case((1, 3, 3, 4), (3, 3, 3, 4), 2, 1, stride=2, low=1, groups=2),
            _transpose_case((1, 5, 2), (3, 3, 2), 1, stride=3, dilation=2, low=(1,), high=(2,)),
            _transpose_case((1, 3, 4, 2, 2), (2, 2, 2, 3, 2), 3, stride=2),
            _transpose_case((1, 4, 4, 3), (4, 4, 1, 3), 2, stride=2, low=1, groups=3),
            _transpose_case((1, 3, 3, 2), (2, 2, 2, 2), 2, 2, stride=3, low=(0, -1), high=-1),
            _transpose_case((2, 3), (4, 3), 0),
            _transpose_case(ramp((1, 4, 9), bf16), ramp((3, 2, 9), bf16), 1, tolerance=2e-2),
            _transpose_case(integers((1, 4, 3), i32), integers((3, 2, 3), i32), 1, stride=2),
        ),
    )
)
