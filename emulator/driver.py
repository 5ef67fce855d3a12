"""The CUDA driver's calls on top of the emulator: the same interface as the runtime's
`CudaDriver`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.runtime.cuda.driver import (
    Attribute,
    DeviceError,
    DeviceMemoryError,
    DriverTooOldError,
    Im2colMap,
    NoDeviceError,
    TiledMap,
    Triple,
)
from emulator.errors import BadTensorMap, PtxSyntaxError
from emulator.instructions import tensor_maps
from emulator.language.device_rules import (
    check_launch,
    check_module,
    invalid,
    most_shared,
    static_shared,
)
from emulator.language.parse import parse_module
from emulator.launch import LoadedModule, launch, load_module, unload_module
from emulator.schedule import Schedule
from emulator.state.device_memory import DeviceMemory
from emulator.state.machine import LaunchShape

_TENSOR_MAPS_FROM = 90
_FREE_SHARED = 48 << 10
"""Bytes of shared memory a block may have without `allow_shared`."""


@dataclass(frozen=True)
class EmulatedDevice:
    """What the device says of itself; `shared_optin` is the shared memory that a block may ask for,
    0 what devices of this capability have."""

    name: str = "emulated device"
    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132
    memory: int = 1 << 28
    newest_ptx: tuple[int, int] = (8, 8)
    shared_optin: int = 0

    @property
    def level(self) -> int:
        """The compute capability times ten."""
        return 10 * self.capability[0] + self.capability[1]

    @property
    def most_shared(self) -> int:
        """Bytes of a block's shared memory, at most."""
        return self.shared_optin or most_shared(self.level)


@dataclass
class _Function:
    module: LoadedModule
    name: str
    shared: int = 0


@dataclass
class EmulatedDriver:
    """bessemer.runtime.cuda.driver.Driver without a device; all work is done at once, on the
    calling thread.

    `schedule` may be changed between launches. `launches` counts the kernels run, `instructions`
    what their threads have executed. A fault in a kernel is raised by the launch (or the replay)
    itself, as one of emulator.errors.

    Events tell the time of a made-up clock, on which a thread's instruction takes `tick` seconds;
    0 is the time that the emulation takes.
    """

    schedule: Schedule = field(default_factory=Schedule)
    device: EmulatedDevice = field(default_factory=EmulatedDevice)
    tick: float = 0.0

    def __post_init__(self) -> None:
        self.device_memory = DeviceMemory(self.device.memory)
        self.launches = 0
        self.instructions = 0
        self._things: dict[int, Any] = {}
        self._recordings: dict[int, list[Callable[[], None]]] = {}
        self._next = 1

    def _keep(self, thing: object) -> int:
        self._next += 1
        self._things[self._next] = thing
        return self._next

    def _do(self, stream: int, work: Callable[[], None]) -> None:
        if stream in self._recordings:
            self._recordings[stream].append(work)
        else:
            work()

    def version(self) -> tuple[int, int]:
        return 12, 9

    def device_count(self) -> int:
        return 1

    def device_name(self, device: int) -> str:
        return self.device.name

    def attribute(self, device: int, attribute: Attribute) -> int:
        return {
            Attribute.MAX_SHARED_MEMORY_PER_BLOCK: _FREE_SHARED,
            Attribute.MULTIPROCESSORS: self.device.multiprocessors,
            Attribute.L2_CACHE_BYTES: 50 << 20,
            Attribute.MAX_THREADS_PER_MULTIPROCESSOR: 2048,
            Attribute.COMPUTE_CAPABILITY_MAJOR: self.device.capability[0],
            Attribute.COMPUTE_CAPABILITY_MINOR: self.device.capability[1],
            Attribute.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: self.device.most_shared + 1024,
            Attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: self.device.most_shared,
        }[attribute]

    def open(self, device: int) -> None:
        if device != 0:
            raise NoDeviceError(f"there is no CUDA device {device}: the driver finds 1")

    def activate(self) -> None:
        """Every thread sees the one device."""

    def close(self) -> None:
        self._things.clear()

    def memory(self) -> tuple[int, int]:
        return self.device.memory - self.device_memory.used(), self.device.memory

    def _check_idle(self, call: str) -> None:
        """Memory and code come and go between recordings only."""
        if self._recordings:
            raise DeviceError(
                f"{call} failed: a stream is recording", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
            )

    def allocate(self, size: int) -> int:
        self._check_idle("cuMemAlloc")
        address = self.device_memory.allocate(max(size, 1))
        if address is None:
            raise DeviceMemoryError(
                f"{size} bytes wanted, {self.memory()[0]} free", "CUDA_ERROR_OUT_OF_MEMORY"
            )
        return address

    def free(self, address: int) -> None:
        self._check_idle("cuMemFree")
        self.device_memory.free(address)

    def copy_in(self, address: int, source: NDArray[Any], stream: int) -> None:
        def work() -> None:
            self.device_memory.write(address, _bytes_of(source))

        self._do(stream, work)

    def copy_out(self, target: NDArray[Any], address: int, stream: int) -> None:
        def work() -> None:
            found = self.device_memory.read(address, target.nbytes)
            _bytes_of(target)[:] = found

        self._do(stream, work)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._do(stream, lambda: self.device_memory.copy(target, source, size))

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        self._do(stream, lambda: self.device_memory.fill(address, value, size))

    def load_module(self, image: bytes) -> int:
        if image[:4] == b"\x7fELF":
            raise DeviceError("the emulator reads PTX, no cubins", "CUDA_ERROR_NO_BINARY_FOR_GPU")
        self._check_idle("cuModuleLoadDataEx")
        try:
            module = parse_module(image.decode())
        except PtxSyntaxError as error:
            raise DeviceError(
                f"cuModuleLoadDataEx failed: {error}", "CUDA_ERROR_INVALID_PTX"
            ) from error
        if module.version > self.device.newest_ptx:
            raise DriverTooOldError(
                f"PTX {module.version} is newer than the driver's {self.device.newest_ptx}",
                "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            )
        check_module(module, self.device.level)
        return self._keep(load_module(module, self.device_memory))

    def unload_module(self, module: int) -> None:
        unload_module(self._things.pop(module), self.device_memory)

    def function(self, module: int, name: str) -> int:
        loaded: LoadedModule = self._things[module]
        if name not in loaded.module.kernels:
            raise DeviceError(f"the module has no kernel {name}", "CUDA_ERROR_NOT_FOUND")
        return self._keep(_Function(loaded, name))

    def allow_shared(self, function: int, size: int) -> None:
        found: _Function = self._things[function]
        module = found.module.module
        own = static_shared(module, module.kernels[found.name])
        most = self.device.most_shared
        if size + own > most:
            raise invalid(f"{size} bytes of shared memory wanted, {most - own} are there")
        found.shared = size

    def launch(
        self,
        function: int,
        grid: Triple,
        block: Triple,
        shared: int,
        stream: int,
        parameters: Sequence[bytes],
    ) -> None:
        found: _Function = self._things[function]
        module = found.module.module
        kernel = module.kernels[found.name]
        check_launch(module, kernel, grid, block, shared, found.shared)
        if len(parameters) != len(kernel.parameters):
            raise DeviceError(
                f"{found.name} takes {len(kernel.parameters)} parameters, not {len(parameters)}",
                "CUDA_ERROR_INVALID_VALUE",
            )
        packed = bytearray(kernel.parameter_bytes)
        for one, content in zip(kernel.parameters, parameters):
            if len(content) != one.size:
                raise DeviceError(
                    (
                        f"{found.name}: the parameter {one.name} has {one.size} bytes, not "
                        f"{len(content)}"
                    ),
                    "CUDA_ERROR_INVALID_VALUE",
                )
            packed[one.offset : one.offset + one.size] = content
        shape = LaunchShape(grid, block, shared, bytes(packed))
        self._do(stream, lambda: self._run(found, shape))

    def _run(self, function: _Function, shape: LaunchShape) -> None:
        self.launches += 1
        self.instructions += launch(
            function.module, function.name, shape, self.device_memory, self.schedule
        )

    def create_stream(self) -> int:
        return self._keep("stream")

    def destroy_stream(self, stream: int) -> None:
        del self._things[stream]

    def synchronize(self, stream: int) -> None:
        if stream in self._recordings:
            raise DeviceError(
                "a stream that records cannot be waited for",
                "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            )

    def begin_capture(self, stream: int) -> None:
        if stream == 0 or stream in self._recordings:
            raise DeviceError("this stream cannot record now", "CUDA_ERROR_ILLEGAL_STATE")
        self._recordings[stream] = []

    def end_capture(self, stream: int) -> int:
        if stream not in self._recordings:
            raise DeviceError("this stream records nothing", "CUDA_ERROR_ILLEGAL_STATE")
        return self._keep(self._recordings.pop(stream))

    def replay(self, graph: int, stream: int) -> None:
        for work in self._things[graph]:
            self._do(stream, work)

    def destroy_graph(self, graph: int) -> None:
        del self._things[graph]

    def create_event(self) -> int:
        return self._keep([None])

    def record(self, event: int, stream: int) -> None:
        def work() -> None:
            now = self.instructions * self.tick if self.tick else time.perf_counter()
            self._things[event][0] = now

        self._do(stream, work)

    def elapsed(self, start: int, end: int) -> float:
        times = [self._things[event][0] for event in (start, end)]
        if None in times:
            raise DeviceError("an event was never recorded", "CUDA_ERROR_INVALID_HANDLE")
        seconds: float = times[1] - times[0]
        return seconds * 1e3

    def destroy_event(self, event: int) -> None:
        del self._things[event]

    def encode_tiled(self, tensor: TiledMap) -> bytes:
        return self._encoded(lambda: tensor_maps.encode_tiled(tensor))

    def encode_im2col(self, tensor: Im2colMap) -> bytes:
        return self._encoded(lambda: tensor_maps.encode_im2col(tensor))

    def _encoded(self, encode: Callable[[], bytes]) -> bytes:
        if self.device.level < _TENSOR_MAPS_FROM:
            raise DeviceError("the device has no tensor maps", "CUDA_ERROR_NOT_SUPPORTED")
        try:
            return encode()
        except BadTensorMap as error:
            raise invalid(f"cuTensorMapEncode failed: {error}") from error


def _bytes_of(array: NDArray[Any]) -> memoryview:
    if not array.flags.c_contiguous:
        raise DeviceError("only contiguous arrays are copied", "CUDA_ERROR_INVALID_VALUE")
    return array.reshape(-1).view(np.uint8).data
