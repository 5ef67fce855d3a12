"""What a model compiled for GPUs is: PTX, weights, and the steps of a run, all as plain data.

Sizes are numbers, or expressions over the model's symbols as in signatures (see ../shapes.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, Union

from bessemer.runtime.artifact import Signature

Entry: TypeAlias = int | str
"""A size: a number, or an expression over the symbols."""
Space: TypeAlias = Literal["arena", "weights", "input", "output"]
ALIGNMENT = 1024
"""Bytes that divide where values of known sizes begin, and inputs and outputs. Kernels and tensor
maps ask for 16; more makes a warp's accesses fall on fewer lines."""


@dataclass(frozen=True)
class WindowWalk:
    """How a tensor map walks the windows of a convolution (im2col); (width, height) first."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    channels: int
    pixels: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class TensorMap:
    """How a kernel sees one of its buffers through a tensor map (a 128-byte parameter).

    `offset` is in bytes from the buffer's start, `shape` innermost axis first, `strides` in bytes
    for all axes but the innermost. `dtype` is the element type's name. `box` is what one copy
    moves, `swizzle` 0, 32, 64 or 128.
    """

    buffer: int
    dtype: str
    offset: Entry
    shape: tuple[Entry, ...]
    strides: tuple[Entry, ...]
    box: tuple[int, ...]
    swizzle: int
    windows: WindowWalk | None = None


@dataclass(frozen=True)
class DeviceKernel:
    """An entry of the PTX. Its parameters: the buffers' addresses, the symbols (i64), the address
    of two fault cells (i32) if it has `messages`, that of a cell (i64) for every symbol if it
    `sets` any of them, then so many tensor maps. Code k in the first fault cell stands for
    messages[k - 1]."""

    name: str
    threads: int
    shared_bytes: int = 0
    messages: tuple[str, ...] = ()
    sets: bool = False
    tensor_maps: int = 0


@dataclass(frozen=True)
class Place:
    """Where a value is: at `offset` bytes in the arena or the weights, or an input or output by its
    number (then `offset` is 0)."""

    space: Space
    offset: Entry = 0
    number: int = 0


@dataclass(frozen=True)
class LaunchStep:
    """A launch of kernel `kernel` by `grid` blocks; none where that is 0.

    `sets` are (position among the kernel's symbols, name) of symbols that it gives values. `where`
    names the user's nodes. The tensor maps' sizes are in terms of the model's symbols.
    """

    kernel: int
    buffers: tuple[Place, ...]
    symbols: tuple[Entry, ...]
    grid: Entry
    where: str = ""
    sets: tuple[tuple[int, str], ...] = ()
    tensor_maps: tuple[TensorMap, ...] = ()


@dataclass(frozen=True)
class CopyStep:
    """Copies so many bytes."""

    source: Place
    target: Place
    size: Entry


@dataclass(frozen=True)
class BindStep:
    """Gives symbols the entries of an i64 vector; "" is skipped. The run fails where one is
    negative."""

    source: Place
    symbols: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True)
class FiniteStep:
    """The run fails where a float, one number of this dtype, is infinite or NaN."""

    source: Place
    dtype: str
    name: str


@dataclass(frozen=True)
class BranchStep:
    """Runs one of two lists, on a bool."""

    condition: Place
    then: tuple[DeviceStep, ...]
    otherwise: tuple[DeviceStep, ...]
    where: str = ""


@dataclass(frozen=True)
class RepeatStep:
    """Repeats while `condition` holds (if given) and fewer than `trips` (an i64, if given)
    iterations have run. `iteration` gets their number; at the end the symbol `count` does."""

    trips: Place | None
    condition: Place | None
    iteration: Place
    body: tuple[DeviceStep, ...]
    count: str = ""
    where: str = ""


DeviceStep: TypeAlias = Union[LaunchStep, CopyStep, BindStep, FiniteStep, BranchStep, RepeatStep]


@dataclass(frozen=True)
class Required:
    """A size that is negative where an input is too small, and the nodes that want it."""

    size: Entry
    where: str


@dataclass(frozen=True)
class DeviceProgram:
    """A model's code for one level of GPUs.

    `level` is the compute capability times ten that the code needs; code that is `exact` runs on
    that level only. `ends` are where the arena's parts end, in the order in which the symbols in
    them get values. `dependent_outputs` says where outputs are whose size the data decides, by
    their number. A run with a negative size among `required` ends with an error.
    """

    signature: Signature
    level: int
    exact: bool
    ptx: str
    kernels: tuple[DeviceKernel, ...]
    steps: tuple[DeviceStep, ...]
    ends: tuple[Entry, ...] = ()
    dependent_outputs: Mapping[int, Place] = field(default_factory=dict)
    required: tuple[Required, ...] = ()


def segments(steps: Sequence[DeviceStep]) -> tuple[tuple[DeviceStep, ...], ...]:
    """The steps cut where the host must know what the device has computed.

    A segment is nothing but launches and copies, which can be recorded once and replayed; or it is
    one step of another kind.
    """
    found: list[tuple[DeviceStep, ...]] = []
    straight: list[DeviceStep] = []
    for step in steps:
        if is_straight(step):
            straight.append(step)
            continue
        found += [tuple(straight), (step,)] if straight else [(step,)]
        straight = []
    return (*found, tuple(straight)) if straight else tuple(found)


def is_straight(step: DeviceStep) -> bool:
    """Whether a step needs nothing of what the device has computed before."""
    return isinstance(step, CopyStep) or (isinstance(step, LaunchStep) and not step.sets)
