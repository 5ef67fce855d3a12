"""What the runtime needs of the CUDA driver, as a protocol: the real driver and the emulator both
have it.

Devices, streams, modules, functions, graphs and events are plain numbers, as in the driver's C
interface; addresses are device addresses. All calls raise DeviceError.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from bessemer.runtime.errors import RunError

Triple = tuple[int, int, int]


class DeviceError(RunError):
    """The driver refused; `code` is its name for the reason, "" where there was no call."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class NoDeviceError(DeviceError):
    """There is no driver, or it finds no device."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The device has too little free memory."""


class DriverTooOldError(DeviceError):
    """The driver does not know the PTX version or has no such function."""


class Attribute(enum.IntEnum):
    """CUdevice_attribute."""

    MAX_SHARED_MEMORY_PER_BLOCK = 8
    MULTIPROCESSORS = 16
    L2_CACHE_BYTES = 38
    MAX_THREADS_PER_MULTIPROCESSOR = 39
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76
    MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81
    MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97


class Element(enum.IntEnum):
    """CUtensorMapDataType."""

    U8 = 0
    U16 = 1
    U32 = 2
    S32 = 3
    U64 = 4
    S64 = 5
    F16 = 6
    F32 = 7
    F64 = 8
    BF16 = 9
    F32_FTZ = 10
    TF32_FTZ = 12


class Swizzle(enum.IntEnum):
    """CUtensorMapSwizzle: how the 16-byte parts of a box's rows change places in shared memory."""

    NONE = 0
    BYTES_32 = 1
    BYTES_64 = 2
    BYTES_128 = 3


@dataclass(frozen=True)
class TiledMap:
    """A box of a tensor for cuTensorMapEncodeTiled. The first axis is the one whose elements are
    neighbours.

    `strides` are in bytes and leave out the first axis; `box` and `steps` (element strides) are in
    elements. What lies outside of the tensor is read as zeros.
    """

    address: int
    element: Element
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    steps: tuple[int, ...]
    swizzle: Swizzle = Swizzle.NONE


@dataclass(frozen=True)
class Im2colMap:
    """Pixels of an NHWC tensor (sizes C, W, H, N) for cuTensorMapEncodeIm2col.

    `lower` and `upper` are the corners (W, H) of the box over which the filter's first tap moves,
    relative to the image's; a load brings `pixels` of them, `channels` each, `steps` (C, W, H, N)
    apart.
    """

    address: int
    element: Element
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    channels: int
    pixels: int
    steps: tuple[int, ...]
    swizzle: Swizzle = Swizzle.NONE


class Driver(Protocol):
    """The calls. `open` comes first and chooses the device; a second thread calls `activate`."""

    def version(self) -> tuple[int, int]:
        """The newest CUDA version that the driver serves, such as (12, 4)."""

    def device_count(self) -> int: ...

    def device_name(self, device: int) -> str: ...

    def attribute(self, device: int, attribute: Attribute) -> int: ...

    def open(self, device: int) -> None:
        """Takes the device's primary context and makes it this thread's."""

    def activate(self) -> None:
        """Makes the open device's context the calling thread's."""

    def close(self) -> None: ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device's memory."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, aligned to 256 at least. Raises DeviceMemoryError."""

    def free(self, address: int) -> None: ...

    def copy_in(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Host to device. `source` is contiguous and stays unchanged until the stream
        has come past.
        """

    def copy_out(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Device to host: `target` (contiguous) holds the bytes when the stream has come past."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None: ...

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        """Sets `size` bytes to `value`."""

    def load_module(self, image: bytes) -> int:
        """A PTX text or a cubin. Raises DeviceError with the compiler's log, or
        DriverTooOldError.
        """

    def unload_module(self, module: int) -> None: ...

    def function(self, module: int, name: str) -> int: ...

    def allow_shared(self, function: int, size: int) -> None:
        """Lets the function be launched with `size` bytes of dynamic shared memory
        (needed above 48 KiB).
        """

    def launch(
        self,
        function: int,
        grid: Triple,
        block: Triple,
        shared: int,
        stream: int,
        parameters: Sequence[bytes],
    ) -> None:
        """`parameters` are each parameter's bytes, in order."""

    def create_stream(self) -> int: ...

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Waits for the stream; raises what went wrong on the device since."""

    def begin_capture(self, stream: int) -> None:
        """From here on the stream's work is recorded, not done."""

    def end_capture(self, stream: int) -> int:
        """A graph of what was recorded, ready to be replayed."""

    def replay(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...

    def create_event(self) -> int: ...

    def record(self, event: int, stream: int) -> None: ...

    def elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two recorded events; waits for `end`."""

    def destroy_event(self, event: int) -> None: ...

    def encode_tiled(self, tensor: TiledMap) -> bytes:
        """The 128 bytes of a tensor map, for a kernel's byval parameter."""

    def encode_im2col(self, tensor: Im2colMap) -> bytes: ...


def pointer(address: int) -> bytes:
    """A kernel parameter: an address or a 64-bit number."""
    return (address & (1 << 64) - 1).to_bytes(8, "little")


def number(value: int, size: int = 8) -> bytes:
    """A kernel parameter: a whole number of `size` bytes."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")
