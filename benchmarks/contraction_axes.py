"""Axes of contractions of dense operands, as benchmarks and tests take them (contraction.py)."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.schedule.contraction.contraction import DepthAxis, RowAxis


def product_axes(
    batch: Sequence[tuple[Size, Size, Size]], m: Size, k: Size
) -> tuple[tuple[RowAxis, ...], tuple[DepthAxis, ...]]:
    """Rows and depth of [..., m, k] x [..., k, n], for a dense left side.

    `batch` has the extent of each leading axis, and its strides in the left side (in elements) and
    in the packed right side (in matrices); a stride is 0 where that side is broadcast.
    """
    rows = [RowAxis(extent, a_stride, b_stride) for extent, a_stride, b_stride in batch]
    return (*rows, RowAxis(m, k)), (DepthAxis(k, 1),)


def window_axes(
    shape: Sequence[Size],
    kernel: Sequence[Size],
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int = 1,
) -> tuple[tuple[RowAxis, ...], tuple[DepthAxis, ...]]:
    """Rows ([groups], n, spatial...) and depth (taps..., channels of a group) of a convolution.

    `shape` is that of the dense channels-last input, with its padding: every window lies inside.
    With one group there is no row axis for it. The packed right side has one matrix a group.
    """
    count, *extents, channels = shape
    steps: list[Size] = [channels]
    for extent in reversed(extents):
        steps.insert(0, steps[0] * extent)
    whole, *steps = steps
    rows = [RowAxis(count, whole)]
    depth = []
    for extent, step, taps, stride, dilation in zip(extents, steps, kernel, strides, dilations):
        outputs = dims.floordiv(extent - (taps - 1) * dilation - 1, stride) + 1
        rows.append(RowAxis(outputs, stride * step))
        depth.append(DepthAxis(taps, dilation * step))
    of_group = dims.floordiv(channels, groups)
    if groups > 1:
        rows.insert(0, RowAxis(groups, of_group, 1))
    return tuple(rows), (*depth, DepthAxis(of_group, 1))
