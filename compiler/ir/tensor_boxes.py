"""Describes a contraction's operand as a tensor for a GPU's tensor copies (TMA), each of which
moves a box of it.

A tile of rows x depth is one box if the rows are one axis, and the depth of a tile lies within the
innermost one. The rows of a convolution are copied in another mode, which walks over the pixels of
images (im2col). Elements beyond the tensor and in borders are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.operands import Axis, Operand, Window

BOX_BYTES = 128
"""Bytes of a box along the depth."""
_UNIT = 16
"""Strides and addresses must be multiples of this many bytes."""
_MOST_AXES, _MOST_STEP, _MOST_CORNER = 5, 8, 128
"""What the driver's descriptors of tensors take: axes, strides of a window, and distances of its
corners from the image's."""
_PARTS = 3
"""bfloat16 numbers that a float32 is split into."""


@dataclass(frozen=True)
class Images:
    """The pixels that windows walk over: [n, height, width, channels], strides of the first three
    in elements. `channels` counts all that a pixel has, of groups too."""

    base: Size
    shape: tuple[Size, Size, Size, Size]
    strides: tuple[Size, Size, Size]
    window: tuple[Window, Window]
    kernel: tuple[int, int]


@dataclass(frozen=True)
class Boxes:
    """An operand as a tensor; `axes` innermost first: depth, rows, batches. The first of them is
    dense. `outer` is the position of the rows, `batch` that of each batch index (None: all use the
    same elements), `parts` that of an element's parts. Parts of images are images behind them."""

    base: Size
    axes: tuple[Axis, ...]
    outer: int
    batch: tuple[int | None, ...]
    images: Images | None = None
    parts: int | None = None


def depth_steps(contract: Contract) -> Size | None:
    """The boxes along the depth: those of the innermost axis, for all indices of the others."""
    left, right = contract.left.depth, contract.right.depth
    if not left or not right or left[-1].extent != right[-1].extent:
        return None
    box = BOX_BYTES // contract.left.buffer.dtype.bytes
    inner = left[-1].extent
    is_whole = contract.depth_begin == 0 and contract.depth_end == contract.left.depth_extent
    divides = isinstance(inner, int) and inner % box == 0
    if not (is_whole or divides or len(left) == len(right) == 1):
        return None
    outer = dims.product(axis.extent for axis in left[:-1])
    if not isinstance(outer, int) or contract.tile.depth != box:
        return None
    return outer * dims.ceildiv(inner, box)


def boxes_of(operand: Operand) -> Boxes | None:
    """The operand as a tensor of boxes; None where it is none."""
    bytes_ = operand.buffer.dtype.bytes
    if not operand.depth or operand.depth[-1].stride != 1:
        return None
    if operand.windows:
        return _windows(operand, bytes_)
    if len(operand.outer) != 1:
        return None
    axes = [*reversed(operand.depth), operand.outer[0]]
    batch: list[int | None] = []
    for axis in operand.batch:
        batch.append(None if axis.stride == 0 or axis.extent == 1 else len(axes))
        if batch[-1] is not None:
            axes.append(axis)
    # An axis of one element goes nowhere: any stride will do.
    unit = _UNIT // bytes_
    axes[1:] = [Axis(1, unit) if axis.extent == 1 else axis for axis in axes[1:]]
    parts = len(axes) if operand.parts != 0 else None
    if parts is not None:
        axes.append(Axis(_PARTS, operand.parts))
    strides = [axis.stride for axis in axes[1:]]
    if len(axes) > _MOST_AXES or not _aligned(operand.base, strides, bytes_):
        return None
    return Boxes(operand.base, tuple(axes), len(operand.depth), tuple(batch), None, parts)


def _aligned(base: Size, strides: Sequence[Size], bytes_: int) -> bool:
    """Whether a tensor may begin there, and have these strides: forwards only."""
    count = _UNIT // bytes_
    if any(isinstance(stride, int) and stride <= 0 for stride in strides):
        return False
    sizes = (base, *strides)
    return all(
        size % count == 0 if isinstance(size, int) else dims.divide_exactly(size, count) is not None
        for size in sizes
    )


def _windows(operand: Operand, bytes_: int) -> Boxes | None:
    """A convolution over two axes of images."""
    if len(operand.outer) != 3 or len(operand.depth) != 3 or len(operand.windows) != 2:
        return None
    high, wide = operand.windows
    if (high.outer, high.depth, wide.outer, wide.depth) != (1, 0, 2, 1):
        return None
    kernel = operand.depth[0].extent, operand.depth[1].extent
    if not isinstance(kernel[0], int) or not isinstance(kernel[1], int):
        return None
    images = _images(operand, (high, wide), (kernel[0], kernel[1]), bytes_)
    if images is None or not _aligned(images.base, images.strides, bytes_):
        return None
    walks = zip((high, wide), images.kernel, operand.outer[1:], strict=True)
    if not all(_may_walk(window, size, axis.extent) for window, size, axis in walks):
        return None
    return Boxes(images.base, (), 0, (None,) * len(operand.batch), images)


def _images(
    operand: Operand, windows: tuple[Window, Window], kernel: tuple[int, int], bytes_: int
) -> Images | None:
    """The images of a convolution's operand; None if their pixels have no strides of their own, or
    a group's channels are no whole boxes."""
    high, wide = windows
    strides = _pixel_stride(operand, high), _pixel_stride(operand, wide)
    channels = _channels(operand, BOX_BYTES // bytes_)
    if not isinstance(high.extent, int) or not isinstance(wide.extent, int):
        return None
    if strides[0] is None or strides[1] is None or channels is None:
        return None
    # What is one image, row or pixel is at no distance from a next one: any will do.
    images = operand.outer[0]
    across = strides[1] if wide.extent > 1 else channels
    down = strides[0] if high.extent > 1 else wide.extent * across
    pitch = images.stride if images.extent != 1 else high.extent * down
    count = images.extent
    if operand.parts != 0:
        if operand.parts != count * pitch:
            return None
        count = count * _PARTS
    base = operand.base + high.low * strides[0] + wide.low * strides[1]
    shape = count, high.extent, wide.extent, channels
    return Images(base, shape, (pitch, down, across), windows, kernel)


def _channels(operand: Operand, box: int) -> Size | None:
    """The channels of a pixel, those of all groups; None if a group's are not whole boxes."""
    channels = operand.depth[2].extent
    if not operand.batch:
        return channels
    group = operand.batch[0]
    if len(operand.batch) > 1 or group.stride != channels:
        return None
    return group.extent * channels if isinstance(channels, int) and channels % box == 0 else None


def _pixel_stride(operand: Operand, window: Window) -> Size | None:
    """Elements from one position along a window's axis to the next."""
    by_depth, by_outer = operand.depth[window.depth], operand.outer[window.outer]
    if by_depth.extent != 1:
        return dims.divide_exactly(by_depth.stride, window.dilation)
    return dims.divide_exactly(by_outer.stride, window.step)


def _may_walk(window: Window, kernel: int, count: Size) -> bool:
    """Whether the machine's copies can make the steps of a window."""
    if not isinstance(count, int):
        return False
    inside = all(-_MOST_CORNER <= corner < _MOST_CORNER for corner in corners(window, count))
    return (
        inside and window.step <= _MOST_STEP and (kernel - 1) * window.dilation < 2 * _MOST_CORNER
    )


def corners(window: Window, count: int) -> tuple[int, int]:
    """Where the first of `count` windows begins, seen from the first position of its axis, and
    where the last one begins, seen from the last position."""
    if not isinstance(window.extent, int):
        raise InternalError(f"windows over an axis of {window.extent}")
    return -window.low, (count - 1) * window.step - window.low - (window.extent - 1)
