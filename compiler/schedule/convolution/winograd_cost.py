"""The cost model of Winograd's method (winograd.py): decides where it is faster than the direct
sum."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import DType, bf16, f32
from bessemer.compiler.schedule.convolution.winograd_taps import Taps, parts_of

FEWEST_PIXELS = 256
"""For this many pixels, transforming the weights takes half of the time that the method saves."""
_FEWEST_CHANNELS, _FEWEST_ALONG_ONE = 16, 24
"""The fewest channels for three taps along both axes, and along one, which save fewer products
(lines of 24 to 56 channels on Zen 5: 0.76 to 0.87 of the direct sum; of 16: 1.0)."""
_FEWEST_CHANNELS_BF16, _FEWEST_ALONG_ONE_BF16 = 32, 64
"""The same in bfloat16: products are twice as fast, so the transforms, which stay f32, are a larger
part."""
_PER_NUMBER, _PER_NUMBER_ACROSS = 6, 30
"""Transforming a number takes as long as this many multiply-adds; the second is for inputs whose
neighbouring channels are not neighbours in memory."""
MOST_OF_DIRECT = 0.95
"""The method is used if it takes at most this fraction of the direct sum's time (predicted and
measured on Zen 5: 9x1 0.92 and 0.93; 3x3 with dilation 4 of 18x18 0.92 and 0.96, with dilation 6 of
20x20 1.12 and 1.34, of 24x24 0.72 and 0.87)."""
_UNKNOWN = 64
"""Assumed for an unknown number of images, rows or columns."""
_FARTHEST = 8
"""Taps farther apart than this may be farther apart than an image of unknown size is long. Tiles
would then be mostly outside of it. (Signals, which have one column, are long.)"""
_FEWEST_TILES = 9
"""With fewer tiles, reading the larger transformed weights takes longer than the method saves. Of
an unknown number of images one is counted (DCGAN on Zen 5 with a free batch, 1, 3, 8 and 32 images:
0.69, 0.90, 0.84 and 1.06 of the method's time)."""


def is_profitable(
    outputs: Sequence[Size],
    channels: Size,
    columns: Size,
    dtype: DType,
    taps: tuple[Taps, Taps] = (Taps(), Taps()),
    constant: bool = True,
    planes: int = 1,
    left: float = 1.0,
) -> bool:
    """Whether the transforms cost less than the products that they save, for three taps along one
    axis or both. The transform of weights that are not `constant` counts, too.

    `outputs` is (images, rows, columns) of the result, `taps` those along rows and columns,
    `planes` the taps along the third axis of volumes. `left` is the fraction of its products that
    the direct sum computes, because the other taps see padding.
    """
    if dtype not in (f32, bf16) or not isinstance(channels, int) or not isinstance(columns, int):
        return False
    threes = [axis.count == 3 for axis in taps]
    fewest = _FEWEST_CHANNELS if all(threes) else _FEWEST_ALONG_ONE
    if dtype is bf16:
        fewest = _FEWEST_CHANNELS_BF16 if all(threes) else _FEWEST_ALONG_ONE_BF16
    if not any(threes) or min(channels, columns) < fewest or (dtype is bf16 and not constant):
        return False
    known = prod(size for size in outputs if isinstance(size, int))
    if not constant and known < FEWEST_PIXELS:
        return False
    if _may_be_outside(outputs, taps):
        return False
    for axis, size in zip(taps, outputs[1:]):
        if isinstance(size, int) and axis.count == 3:
            tiles = axis.tiles(size)
            assert isinstance(tiles, int)
            if (size < 6 and known < FEWEST_PIXELS) or tiles * 2 > 1.25 * size:
                return False
    share = _share(outputs, channels * planes, columns, taps, _PER_NUMBER)
    return left == 1 or share < MOST_OF_DIRECT * left


def share_in_segments(
    outputs: Sequence[Size],
    channels: Size,
    columns: Size,
    taps: tuple[Taps, Taps],
    is_across: bool,
    planes: int = 1,
) -> float:
    """The time for other numbers of taps, which are cut into segments, as a fraction of that of the
    whole direct sum, which it must be MOST_OF_DIRECT of at most; infinite where the method is not
    used. `is_across`: the input's channels are not neighbours in memory. (Volumes on Zen 5: 5x5x5
    32 -> 32 of 12x12x12 1456 -> 1040 us, 1x5x5 64 -> 64 of 4x28x28 2742 -> 1560; 5x5x5 8 -> 8
    even.)"""
    if not isinstance(channels, int) or not isinstance(columns, int) or min(channels, columns) < 8:
        return inf
    if _may_be_outside(outputs, taps):
        return inf
    fewest_images = outputs[0] if isinstance(outputs[0], int) else 1
    if _tiles((fewest_images, *outputs[1:]), taps) < _FEWEST_TILES:
        return inf
    per_input = _PER_NUMBER_ACROSS if is_across else _PER_NUMBER
    return _share(outputs, channels * planes, columns, taps, per_input)


def _share(
    outputs: Sequence[Size],
    channels: int,
    columns: int,
    taps: tuple[Taps, Taps],
    per_input: int,
) -> float:
    """The time of the products and of the transforms, which take `per_input` multiply-adds for a
    number of the input, as a fraction of that of all the direct sum's products."""
    direct = max(1, prod(map(_likely, outputs))) * prod(axis.count for axis in taps)
    transforms = per_input * channels + _PER_NUMBER * columns
    points = _tiles(outputs, taps) * parts_of(taps)[-1].end
    return points * (channels * columns + transforms) / (direct * channels * columns)


def _tiles(outputs: Sequence[Size], taps: tuple[Taps, Taps]) -> int:
    images, *sizes = map(_likely, outputs)
    return images * prod(dims.number(axis.tiles(size)) for axis, size in zip(taps, sizes))


def _likely(size: Size) -> int:
    return size if isinstance(size, int) else _UNKNOWN


def _may_be_outside(outputs: Sequence[Size], taps: tuple[Taps, Taps]) -> bool:
    """Whether many outputs of tiles may be outside of the image: a size is not known, and taps are
    far apart."""
    if not all(axis.count > 1 for axis in taps):
        return False
    axes = zip(taps, outputs[1:], strict=True)
    return any(not isinstance(size, int) and axis.dilation > _FARTHEST for axis, size in axes)
