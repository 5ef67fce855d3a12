"""Tensor maps: the rules of cuTensorMapEncode, the emulator's own 128 bytes, and where
a box's elements lie.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from bessemer.runtime.cuda.driver import Element, Im2colMap, Swizzle, TiledMap
from emulator.errors import BadTensorMap
from emulator.state.arrays import Array

BYTES = 128
_MAGIC = b"EMUTMAP1"
_FORMAT = struct.Struct("<8sBBBxQ5I4Q5H5B3h3hHH")

ELEMENT_BYTES = {
    Element.U8: 1,
    Element.U16: 2,
    Element.F16: 2,
    Element.BF16: 2,
    Element.U32: 4,
    Element.S32: 4,
    Element.F32: 4,
    Element.F32_FTZ: 4,
    Element.TF32_FTZ: 4,
    Element.U64: 8,
    Element.S64: 8,
    Element.F64: 8,
}
SPANS = {Swizzle.NONE: 0, Swizzle.BYTES_32: 32, Swizzle.BYTES_64: 64, Swizzle.BYTES_128: 128}


@dataclass(frozen=True)
class Box:
    """Elements of a box in the order of shared memory: addresses in global memory, and
    which lie in the tensor.
    """

    addresses: Array
    inside: Array
    element_bytes: int
    swizzle: Swizzle

    @property
    def bytes(self) -> int:
        return self.addresses.size * self.element_bytes


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise BadTensorMap(message)


def _check_tensor(tensor: TiledMap | Im2colMap) -> None:
    rank = len(tensor.sizes)
    _demand(1 <= rank <= 5, f"a tensor map of rank {rank}: 1 to 5")
    _demand(
        tensor.address % 16 == 0,
        f"the tensor's address {tensor.address:#x} is not a multiple of 16",
    )
    _demand(all(1 <= one <= 1 << 32 for one in tensor.sizes), f"sizes {tensor.sizes}")
    _demand(len(tensor.strides) == rank - 1, f"{len(tensor.strides)} strides for rank {rank}")
    _demand(
        all(one % 16 == 0 and 0 < one < 1 << 40 for one in tensor.strides),
        f"strides {tensor.strides}: multiples of 16 below 2^40",
    )
    _demand(len(tensor.steps) == rank, f"{len(tensor.steps)} steps for rank {rank}")
    _demand(all(1 <= one <= 8 for one in tensor.steps), f"steps {tensor.steps}: 1 to 8")


def _check_row(row_bytes: int, swizzle: Swizzle) -> None:
    _demand(row_bytes % 16 == 0, f"a box's row of {row_bytes} bytes is not a multiple of 16")
    span = SPANS[swizzle]
    _demand(
        not span or row_bytes <= span,
        f"a row of {row_bytes} bytes is longer than the swizzle's {span}",
    )
    # Hardware takes shorter rows as well, but where their parts go is not modelled.
    _demand(not span or row_bytes == span, f"a row of {row_bytes} bytes under a swizzle of {span}")


def encode_tiled(tensor: TiledMap) -> bytes:
    """Raises BadTensorMap where the driver would refuse."""
    _check_tensor(tensor)
    _demand(len(tensor.box) == len(tensor.sizes), f"box {tensor.box} for sizes {tensor.sizes}")
    _demand(all(1 <= one <= 256 for one in tensor.box), f"box {tensor.box}: 1 to 256 each")
    _check_row(tensor.box[0] * ELEMENT_BYTES[tensor.element], tensor.swizzle)
    return _pack(0, tensor, tensor.box, (), (), 0, 0)


def encode_im2col(tensor: Im2colMap) -> bytes:
    """Raises BadTensorMap where the driver would refuse."""
    _check_tensor(tensor)
    rank = len(tensor.sizes)
    _demand(3 <= rank <= 5, f"an im2col map of rank {rank}: 3 to 5")
    _demand(len(tensor.lower) == len(tensor.upper) == rank - 2, "corners have two axes fewer")
    most = {3: 1 << 15, 4: 1 << 7, 5: 1 << 4}[rank]
    _demand(all(-most <= one < most for one in (*tensor.lower, *tensor.upper)), "corners too far")
    _demand(1 <= tensor.channels <= 256, f"{tensor.channels} channels: 1 to 256")
    _demand(1 <= tensor.pixels <= 1024, f"{tensor.pixels} pixels: 1 to 1024")
    _check_row(tensor.channels * ELEMENT_BYTES[tensor.element], tensor.swizzle)
    return _pack(1, tensor, (), tensor.lower, tensor.upper, tensor.channels, tensor.pixels)


def _padded(values: tuple[int, ...], length: int) -> tuple[int, ...]:
    return values + (0,) * (length - len(values))


def _pack(
    mode: int,
    tensor: TiledMap | Im2colMap,
    box: tuple[int, ...],
    lower: tuple[int, ...],
    upper: tuple[int, ...],
    channels: int,
    pixels: int,
) -> bytes:
    kinds = mode << 4 | len(tensor.sizes), int(tensor.element), int(tensor.swizzle)
    sizes = tuple(one - 1 for one in tensor.sizes)
    return _FORMAT.pack(
        _MAGIC,
        *kinds,
        tensor.address,
        *_padded(sizes, 5),
        *_padded(tensor.strides, 4),
        *_padded(box, 5),
        *_padded(tensor.steps, 5),
        *_padded(lower, 3),
        *_padded(upper, 3),
        channels,
        pixels,
    ).ljust(BYTES, b"\0")


def decode(content: bytes) -> TiledMap | Im2colMap:
    fields = _FORMAT.unpack(content[: _FORMAT.size])
    if fields[0] != _MAGIC:
        raise BadTensorMap("these 128 bytes are not a tensor map")
    mode, rank = fields[1] >> 4, fields[1] & 15
    element, swizzle, address = Element(fields[2]), Swizzle(fields[3]), fields[4]
    sizes = tuple(one + 1 for one in fields[5 : 5 + rank])
    strides, box = fields[10 : 10 + rank - 1], fields[14 : 14 + rank]
    steps, lower, upper = fields[19 : 19 + rank], fields[24:27], fields[27:30]
    if mode == 0:
        return TiledMap(address, element, sizes, strides, box, steps, swizzle)
    return Im2colMap(
        address,
        element,
        sizes,
        strides,
        lower[: rank - 2],
        upper[: rank - 2],
        fields[30],
        fields[31],
        steps,
        swizzle,
    )


def tile(tensor: TiledMap, coordinates: list[int]) -> Box:
    """The box that starts at `coordinates`; with a step s an axis gives every s-th of
    its box's elements.
    """
    size = ELEMENT_BYTES[tensor.element]
    strides = (size, *tensor.strides)
    address = np.array(tensor.address, np.int64)
    inside = np.array(True)
    for axis, (start, box) in enumerate(zip(coordinates, tensor.box)):
        step = tensor.steps[axis] if axis else 1
        places = start + np.arange(0, box, step, dtype=np.int64)
        shape = (-1,) + (1,) * axis
        address = address + (places * strides[axis]).reshape(shape)
        inside = inside & ((places >= 0) & (places < tensor.sizes[axis])).reshape(shape)
    return Box(address, np.broadcast_to(inside, address.shape), size, tensor.swizzle)


def im2col(tensor: Im2colMap, coordinates: list[int], offsets: list[int]) -> Box:
    """`pixels` places of a filter tap: it moves over the bounding box along W, then H (D), then to
    the next image.

    `coordinates` (C, W, H, N) are where the filter's first tap stands, `offsets` (W, H) which tap
    is loaded.
    """
    size = ELEMENT_BYTES[tensor.element]
    axes = len(tensor.lower)
    spatial = coordinates[1 : 1 + axes]
    counts = []
    start = 0
    places = coordinates[-1]
    for axis in reversed(range(axes)):
        step = tensor.steps[1 + axis]
        low, high = tensor.lower[axis], tensor.sizes[1 + axis] - 1 + tensor.upper[axis]
        count = (high - low) // step + 1
        _demand(count > 0, f"the bounding box is empty along axis {1 + axis}")
        index, rest = divmod(spatial[axis] - low, step)
        _demand(
            rest == 0 and 0 <= index < count,
            f"coordinates {coordinates} are not in the bounding box",
        )
        places = places * count + index
        counts.append(count)
    start = places
    number = start + np.arange(tensor.pixels, dtype=np.int64)
    address = np.full(tensor.pixels, tensor.address, np.int64)
    inside = np.ones(tensor.pixels, np.bool_)
    for axis, count in enumerate(reversed(counts)):
        step = tensor.steps[1 + axis]
        place = tensor.lower[axis] + number % count * step + offsets[axis]
        number = number // count
        inside &= (place >= 0) & (place < tensor.sizes[1 + axis])
        address += place * tensor.strides[axis]
    inside &= (number >= 0) & (number < tensor.sizes[-1])
    address += number * tensor.strides[-1]
    channel = coordinates[0] + np.arange(tensor.channels, dtype=np.int64)
    there = inside[:, None] & ((channel >= 0) & (channel < tensor.sizes[0]))
    return Box(address[:, None] + channel * size, there, size, tensor.swizzle)


def swizzle(addresses: Array, mode: Swizzle) -> Array:
    """Where bytes go: the 16-byte part of a row is exchanged by the row's number (bits 7 and up of
    the address).
    """
    masks = {
        Swizzle.NONE: 0,
        Swizzle.BYTES_32: 0x10,
        Swizzle.BYTES_64: 0x30,
        Swizzle.BYTES_128: 0x70,
    }
    result: Array = addresses ^ ((addresses >> 3) & masks[mode])
    return result
