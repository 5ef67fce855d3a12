"""NVIDIA GPUs: what differs between their levels, as far as code depends on it.

Code for sm_75 and sm_80 runs on every later GPU (the driver translates PTX); that for sm_90a on
that level only. The lowest PTX version that has the instructions is asked for, so that older
drivers can read it: 7.0 is CUDA 11.0's, 8.0 is CUDA 12.0's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bessemer.compiler.errors import CompileError
from bessemer.compiler.targets.machine import Target

TRIPLE = "nvptx64-nvidia-cuda"
PREFIX = "nvptx:"
EVERY_LEVEL = PREFIX.rstrip(":")
CUDA = "cuda"
"""The name of the target that is the GPU at hand."""


@dataclass(frozen=True)
class DeviceTarget(Target):
    """A GPU as data.

    `sm` is the level as a number, `ptx` the version of the instruction set's text (70 is 7.0).
    `processors` is the number of multiprocessors that schedules count on, `shared_bytes` the most
    shared memory of a block, `registers` what a multiprocessor has for all of its threads.
    `has_mma`: bf16, f16 and tf32 products of tiles by warps, and ldmatrix. `has_async_copy`: copies
    to shared memory beside the computation. `has_wgmma`: products of tiles by four warps from
    shared memory, and the copies by tensor maps that feed them.
    """

    sm: int = 75
    ptx: int = 70
    processors: int = 72
    shared_bytes: int = 64 << 10
    registers: int = 1 << 16
    has_mma: bool = False
    has_async_copy: bool = False
    has_wgmma: bool = False

    @property
    def description(self) -> str:
        """The level, for people."""
        return f"{self.name}, PTX {self.ptx // 10}.{self.ptx % 10}"

    @property
    def feature_text(self) -> str:
        """The features as LLVM's target machines want them."""
        return f"+ptx{self.ptx}"


SM75 = DeviceTarget(
    name="nvptx:sm_75",
    triple=TRIPLE,
    cpu="sm_75",
    features=(),
    vector_bits=128,
    vector_registers=64,
    has_fma=True,
    has_half_conversion=True,
)
SM80 = replace(
    SM75,
    name="nvptx:sm_80",
    cpu="sm_80",
    has_dot_bf16=True,
    sm=80,
    processors=108,
    shared_bytes=163 << 10,
    has_mma=True,
    has_async_copy=True,
)
SM90A = replace(
    SM80,
    name="nvptx:sm_90a",
    cpu="sm_90a",
    sm=90,
    ptx=80,
    processors=132,
    shared_bytes=227 << 10,
    has_wgmma=True,
)
DEVICES = {target.name: target for target in (SM75, SM80, SM90A)}


def device_named(name: str) -> DeviceTarget:
    """A GPU by its name, `nvptx:sm_80`; raises CompileError for one that there is not."""
    found = DEVICES.get(name)
    if found is None:
        known = ", ".join(DEVICES)
        raise CompileError(f"There is no target '{name}'. The GPU targets are {known}.")
    return found


def is_device(target: str) -> bool:
    """Whether a target's name is that of a GPU, of a level of them, or of all levels."""
    return target in (CUDA, EVERY_LEVEL) or target.startswith(PREFIX)


def device_of_capability(major: int, minor: int) -> DeviceTarget:
    """The widest level that a device of this compute capability runs.

    Raises CompileError for one older than 7.5.
    """
    if (major, minor) == (9, 0):
        return SM90A
    if major >= 8:
        return SM80
    if (major, minor) >= (7, 5):
        return SM75
    raise CompileError(
        f"The GPU has compute capability {major}.{minor}; Bessemer's code needs 7.5 or later."
    )
