"""plane_conv: a convolution of planes, [N, C, *spatial] with [O, C / groups, *kernel], whose
neighbouring sums are those of neighbouring pixels (passes/convolution/convolve_planes.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, convert, reduce
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import OPS, Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, f32, f64
from bessemer.compiler.ops.check import require, require_dtype
from bessemer.compiler.ops.example_arrays import ramp
from bessemer.compiler.ops.window import reduction_index, window_of


def _infer(
    x: TensorType, w: TensorType, *, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...], groups: int,
) -> TensorType:  # fmt: skip
    require_dtype("plane_conv", x, (f32, f64))
    require(
        x.rank >= 3 and w.rank == x.rank and w.dtype is x.dtype,
        f"plane_conv wants an input [N, C, *spatial] and a weight with as many axes, but they are "
        f"{x} and {w}.",
    )
    require(
        x.shape[1] == w.shape[1] * groups,
        f"plane_conv of {groups} groups wants their channels in its input {x}: weight {w}.",
    )
    window = window_of(w.shape[2:], strides, dilations, low, high)
    images = x.with_shape((x.shape[0], *x.shape[2:], x.shape[1]))
    window.check("plane_conv", images)
    return x.with_shape((x.shape[0], w.shape[0], *window.positions("plane_conv", images)))


def _reference(
    x: Array, w: Array, *, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[int, ...], high: tuple[int, ...], groups: int,
) -> Array:  # fmt: skip
    images, weight = np.moveaxis(x, 1, -1), np.moveaxis(w, (1, 0), (-2, -1))
    result = OPS["conv"].reference(
        images, weight, strides=strides, dilations=dilations, low=low, high=high, groups=groups
    )
    return np.ascontiguousarray(np.moveaxis(np.asarray(result), -1, 1))


def _element(
    x: Operand, w: Operand, *, index: Index, strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...], groups: int,
) -> Expression:  # fmt: skip
    window = window_of(w.shape[2:], strides, dilations, low, high)
    sample, feature, *output = index
    over, (channel, *taps) = reduction_index(w.shape[1:])
    group = 0 if groups == 1 else feature // (w.shape[0] // groups)
    place = window.source(output, taps)
    inside = window.is_inside(place, x.shape[2:])
    value = x[(sample, group * w.shape[1] + channel, *place)] * w[(feature, channel, *taps)]
    return convert(reduce("add", over, guarded(inside, value, 0)), x.dtype)


def _attributes(
    spatial: int, low: int = 0, stride: int = 1, dilation: int = 1, groups: int = 1
) -> dict[str, Any]:
    return {
        "strides": (stride,) * spatial,
        "dilations": (dilation,) * spatial,
        "low": (low,) * spatial,
        "high": (low,) * spatial,
        "groups": groups,
    }


register(
    Operator(
        "plane_conv",
        _infer,
        _reference,
        _element,
        gradient=None,
        examples=(
            Example(((2, 4, 9, 37), (2, 2, 3, 3)), _attributes(2, low=1, groups=2)),
            Example(((1, 6, 40), (3, 2, 5)), _attributes(1, low=2, groups=3, stride=2)),
            Example(((1, 4, 3, 5, 20), (4, 2, 1, 3, 3)), _attributes(3, groups=2, dilation=1)),
            Example(((1, 3, 11, 12), (5, 3, 2, 2)), _attributes(2, dilation=2, low=1)),
            Example(((1, 2, 5, 6), (2, 1, 1, 1)), _attributes(2, groups=2)),
            Example(
                (ramp((1, 4, 6, 7), f64), ramp((4, 2, 3, 3), f64)),
                _attributes(2, low=-1, groups=2),
                1e-12,
            ),
        ),
    )
)
