"""The code of a kernel for a GPU, and what the runtime must know to launch it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import DType


@dataclass(frozen=True, eq=False)
class WindowMap:
    """The windows of a tensor map in im2col mode. Corners and `steps` are given from the innermost
    spatial axis outwards (width, height), without channels and images."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    channels: int
    pixels: int
    steps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TensorMapPlan:
    """A tensor map of one of a kernel's buffers, which the runtime makes and passes to the kernel.

    The tensor begins `offset` elements behind the buffer's start. `shape` is in elements, the
    innermost axis first; `strides` are in bytes, without that of the innermost axis, which is
    contiguous. `box` is what one copy moves (empty for windows), `swizzle` is 0, 32, 64 or 128
    bytes.
    """

    buffer: int
    dtype: DType
    offset: Size
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    box: tuple[int, ...]
    swizzle: int = 128
    windows: WindowMap | None = None


@dataclass(frozen=True, eq=False)
class DeviceCode:
    """A kernel as LLVM IR: an entry whose parameters are its buffers, its symbols (i64), the fault
    cells if it has `messages`, the cells of all symbols if it `sets` some, and its tensor maps.

    `globals` are its own definitions at module scope. Fault code k stands for messages[k - 1].
    `shared_bytes` is the dynamic shared memory that a launch provides.
    """

    name: str
    text: str
    declarations: frozenset[str]
    functions: dict[str, str]
    mapping: ThreadMapping
    messages: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    shared_bytes: int = 0
    tensor_maps: tuple[TensorMapPlan, ...] = ()
    globals: tuple[str, ...] = field(default=())
