"""wgmma's matrix descriptors: where the elements of a tile lie in shared memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bessemer.runtime.cuda.driver import Swizzle
from emulator.errors import UnsupportedInstruction
from emulator.instructions.tensor_maps import SPANS, swizzle
from emulator.state.arrays import Array

_MODES = {0: Swizzle.NONE, 1: Swizzle.BYTES_128, 2: Swizzle.BYTES_64, 3: Swizzle.BYTES_32}


@dataclass(frozen=True)
class Descriptor:
    """All in bytes. `leading` and `stride` are the distances that the descriptor's two
    offset fields give.
    """

    start: int
    leading: int
    stride: int
    mode: Swizzle


def decode_descriptor(bits: int) -> Descriptor:
    if bits >> 49 & 7:
        raise UnsupportedInstruction("a matrix descriptor with a base offset")
    return Descriptor(
        (bits & 0x3FFF) << 4,
        (bits >> 16 & 0x3FFF) << 4,
        (bits >> 32 & 0x3FFF) << 4,
        _MODES[bits >> 62 & 3],
    )


def addresses(descriptor: Descriptor, extent: int, depth: int, size: int, by_depth: bool) -> Array:
    """The address of every element, shaped (extent, depth); `extent` is M or N, `depth` K, `size`
    an element's bytes.

    `by_depth`: neighbours in memory are neighbours in K (K-major), else in M or N. Memory is made
    of core matrices of 8 rows of 16 bytes; under a swizzle a row is as long as the swizzle's span.
    """
    outer = np.arange(extent, dtype=np.int64)[:, None]
    inner = np.arange(depth, dtype=np.int64)[None, :]
    span = SPANS[descriptor.mode]
    if by_depth:
        where = _along_depth(descriptor, outer, inner * size, span)
    elif size != 2:
        raise UnsupportedInstruction("only elements of 16 bits may lie along M or N")
    else:
        where = _along_extent(descriptor, outer * size, inner, span)
    return swizzle(descriptor.start + where, descriptor.mode)


def _along_depth(descriptor: Descriptor, row: Array, byte: Array, span: int) -> Array:
    if span:
        within = row % 8 * span + byte
    else:
        within = row % 8 * 16 + byte // 16 * descriptor.leading + byte % 16
    result: Array = row // 8 * descriptor.stride + within
    return result


def _along_extent(descriptor: Descriptor, byte: Array, row: Array, span: int) -> Array:
    if span:
        far = byte // span * descriptor.leading + row // 8 * descriptor.stride
    else:
        far = byte // 16 * descriptor.stride + row // 8 * descriptor.leading
    width = span or 16
    result: Array = far + row % 8 * width + byte % width
    return result
