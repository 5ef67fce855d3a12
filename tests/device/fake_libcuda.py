"""A libcuda.so.1 without a GPU: C functions that hand every call to Python, onto the emulator.

To be used in a process of its own (run_device_library.py), for what opens libcuda by name
afterwards gets this one.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.runtime.cuda.driver import (
    Attribute,
    DeviceError,
    DeviceMemoryError,
    Element,
    Im2colMap,
    Swizzle,
    TiledMap,
)
from emulator.driver import EmulatedDevice, EmulatedDriver
from emulator.language.parse import parse_module

COUNTS = {
    "cuInit": 1, "cuDriverGetVersion": 1, "cuDeviceGetCount": 1, "cuDeviceGet": 2,
    "cuDeviceGetName": 3, "cuDeviceGetAttribute": 3, "cuDevicePrimaryCtxRetain": 2,
    "cuDevicePrimaryCtxRelease_v2": 1, "cuCtxPushCurrent_v2": 1, "cuCtxPopCurrent_v2": 1,
    "cuCtxSetCurrent": 1, "cuStreamCreate": 2, "cuStreamDestroy_v2": 1, "cuStreamSynchronize": 1,
    "cuStreamBeginCapture_v2": 2, "cuStreamEndCapture": 2, "cuGraphInstantiateWithFlags": 3,
    "cuGraphDestroy": 1, "cuGraphLaunch": 2, "cuGraphExecDestroy": 1, "cuMemAlloc_v2": 2,
    "cuMemFree_v2": 1, "cuMemcpyAsync": 4, "cuMemcpyHtoDAsync_v2": 4, "cuMemcpyDtoHAsync_v2": 4,
    "cuMemcpyDtoDAsync_v2": 4, "cuMemsetD8Async": 4, "cuModuleLoadDataEx": 5, "cuModuleUnload": 1,
    "cuModuleGetFunction": 3, "cuFuncSetAttribute": 3, "cuLaunchKernel": 11, "cuGetErrorName": 2,
    "cuTensorMapEncodeTiled": 12, "cuTensorMapEncodeIm2col": 15,
}  # fmt: skip
"""Every call, and how many parameters it has (cuda.h of CUDA 12)."""
NAMES = {
    2: "CUDA_ERROR_OUT_OF_MEMORY", 100: "CUDA_ERROR_NO_DEVICE", 1: "CUDA_ERROR_INVALID_VALUE",
    222: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", 719: "CUDA_ERROR_LAUNCH_FAILED",
}  # fmt: skip
INT = (1 << 32) - 1


def build_fake(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """Compiles the C part; `without` are calls that an old driver lacks."""
    lines = ["typedef unsigned long long word;"]
    for name, count in COUNTS.items():
        if name in without:
            continue
        words = ", ".join(f"word a{k}" for k in range(count))
        given = ", ".join(f"a{k}" for k in range(count))
        kinds = ", ".join(["word"] * count)
        lines.append(f"int (*to_{name})({kinds});")
        lines.append(f"int {name}({words}) {{ return to_{name}({given}); }}")
    (folder / "fake.c").write_text("\n".join(lines))
    path = folder / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "fake.c", "-o", path.name]
    subprocess.run(command, cwd=folder, check=True)
    return path


class FakeDriver:
    """The calls, by name; `log` has those that were made, and each launch."""

    def __init__(self, library: Path, settings: dict[str, Any]) -> None:
        self.settings = settings
        level = settings.get("level", 90)
        device = EmulatedDevice(
            capability=divmod(level, 10), memory=settings.get("memory", 1 << 28)
        )
        self.emulated = EmulatedDriver(device=device)
        self.log: list[str] = []
        self.contexts = 0
        self._sizes: dict[int, list[int]] = {}
        self._names: dict[int, str] = {}
        self._modules: dict[int, Any] = {}
        self._places: dict[int, int] = {}
        self._texts = {
            code: ctypes.create_string_buffer(name.encode()) for code, name in NAMES.items()
        }
        self._kept: list[object] = []
        loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for name, count in COUNTS.items():
            if name in settings.get("without", ()):
                continue
            kind = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * count)
            callback = kind(self._guarded(name, getattr(self, name)))
            self._kept.append(callback)
            ctypes.c_void_p.in_dll(loaded, f"to_{name}").value = ctypes.cast(
                callback, ctypes.c_void_p
            ).value

    def _guarded(self, name: str, work: Callable[..., int | None]) -> Callable[..., int]:
        def call(*words: int) -> int:
            self.log.append(name)
            failing = self.settings.get("fail", {})
            if name in failing:
                return int(failing[name])
            try:
                return work(*words) or 0
            except DeviceMemoryError:
                return 2
            except DeviceError as error:
                self.log.append(f"DeviceError: {error}")
                return next((code for code, text in NAMES.items() if text == error.code), 1)
            except Exception as error:
                self.log.append(f"{type(error).__name__}: {error}")
                return 719

        return call

    # Devices and contexts

    def cuInit(self, flags: int) -> None: ...

    def cuDriverGetVersion(self, out: int) -> None:
        ctypes.c_int.from_address(out).value = 12090

    def cuDeviceGetCount(self, out: int) -> None:
        ctypes.c_int.from_address(out).value = self.settings.get("devices", 1)

    def cuDeviceGet(self, out: int, number: int) -> None:
        ctypes.c_int.from_address(out).value = number & INT

    def cuDeviceGetName(self, out: int, size: int, device: int) -> None:
        text = self.emulated.device_name(0).encode()[: (size & INT) - 1] + b"\0"
        ctypes.memmove(out, text, len(text))

    def cuDeviceGetAttribute(self, out: int, attribute: int, device: int) -> None:
        found = self.emulated.attribute(0, Attribute(attribute & INT))
        ctypes.c_int.from_address(out).value = found

    def cuDevicePrimaryCtxRetain(self, out: int, device: int) -> None:
        self.contexts += 1
        ctypes.c_uint64.from_address(out).value = 77

    def cuDevicePrimaryCtxRelease_v2(self, device: int) -> None:
        self.contexts -= 1

    def cuCtxPushCurrent_v2(self, context: int) -> None:
        assert context == 77

    def cuCtxPopCurrent_v2(self, out: int) -> None: ...

    def cuCtxSetCurrent(self, context: int) -> None: ...

    def cuGetErrorName(self, code: int, out: int) -> int:
        found = self._texts.get(code & INT)
        ctypes.c_uint64.from_address(out).value = ctypes.addressof(found) if found else 0
        return 0 if found else 1

    # Streams and graphs

    def cuStreamCreate(self, out: int, flags: int) -> None:
        ctypes.c_uint64.from_address(out).value = self.emulated.create_stream()

    def cuStreamDestroy_v2(self, stream: int) -> None:
        self.emulated.destroy_stream(stream)

    def cuStreamSynchronize(self, stream: int) -> None:
        self.emulated.synchronize(stream)

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self.emulated.begin_capture(stream)

    def cuStreamEndCapture(self, stream: int, out: int) -> None:
        ctypes.c_uint64.from_address(out).value = self.emulated.end_capture(stream)

    def cuGraphInstantiateWithFlags(self, out: int, graph: int, flags: int) -> None:
        ctypes.c_uint64.from_address(out).value = graph

    def cuGraphDestroy(self, graph: int) -> None: ...

    def cuGraphLaunch(self, graph: int, stream: int) -> None:
        self.emulated.replay(graph, stream)

    def cuGraphExecDestroy(self, graph: int) -> None:
        self.emulated.destroy_graph(graph)

    # Memory

    def cuMemAlloc_v2(self, out: int, size: int) -> None:
        found = self.emulated.allocate(size)
        self._places[found] = size
        ctypes.c_uint64.from_address(out).value = found

    def cuMemFree_v2(self, place: int) -> None:
        del self._places[place]
        self.emulated.free(place)

    def _is_device(self, place: int) -> bool:
        return any(start <= place < start + size for start, size in self._places.items())

    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> None:
        if self._is_device(target) and self._is_device(source):
            self.emulated.copy(target, source, size, stream)
        elif self._is_device(target):
            self.cuMemcpyHtoDAsync_v2(target, source, size, stream)
        else:
            self.cuMemcpyDtoHAsync_v2(target, source, size, stream)

    def cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.emulated.copy_in(target, _host(source, size), stream)

    def cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.emulated.copy_out(_host(target, size), source, stream)

    def cuMemcpyDtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.emulated.copy(target, source, size, stream)

    def cuMemsetD8Async(self, place: int, value: int, size: int, stream: int) -> None:
        self.emulated.fill(place, value & 255, size, stream)

    # Code

    def cuModuleLoadDataEx(self, out: int, image: int, *log: int) -> int:
        if ctypes.string_at(image, 4) == b"\x7fELF":
            return 209
        text = ctypes.string_at(image)
        module = self.emulated.load_module(text)
        self._modules[module] = parse_module(text.decode())
        ctypes.c_uint64.from_address(out).value = module
        return 0

    def cuModuleUnload(self, module: int) -> None:
        self.emulated.unload_module(module)

    def cuModuleGetFunction(self, out: int, module: int, name: int) -> None:
        text = ctypes.string_at(name).decode()
        found = self.emulated.function(module, text)
        kernel = self._modules[module].kernels[text]
        self._sizes[found] = [one.size for one in kernel.parameters]
        self._names[found] = text
        ctypes.c_uint64.from_address(out).value = found

    def cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> None:
        assert attribute & INT == 8
        self.emulated.allow_shared(function, value & INT)

    def cuLaunchKernel(self, function: int, *words: int) -> None:
        gx, gy, gz, bx, by, bz, shared = (word & INT for word in words[:7])
        stream, parameters = words[7:9]
        sizes = self._sizes[function]
        places = (ctypes.c_uint64 * len(sizes)).from_address(parameters)
        given = [ctypes.string_at(place, size) for place, size in zip(places, sizes, strict=True)]
        self.log.append(f"launch {self._names[function]} {gx} {bx} {shared}")
        self.emulated.launch(function, (gx, gy, gz), (bx, by, bz), shared, stream, given)

    def cuTensorMapEncodeTiled(self, out: int, *words: int) -> None:
        element, rank, place, sizes, strides, box, steps, _, swizzle, *_ = words
        rank &= INT
        made = self.emulated.encode_tiled(
            TiledMap(
                place, Element(element & INT), _numbers(sizes, rank, 8),
                _numbers(strides, rank - 1, 8), _numbers(box, rank, 4), _numbers(steps, rank, 4),
                Swizzle(swizzle & INT),
            )
        )  # fmt: skip
        ctypes.memmove(out, made, len(made))

    def cuTensorMapEncodeIm2col(self, out: int, *words: int) -> None:
        element, rank, place, sizes, strides, lower, upper, channels, pixels, steps, *rest = words
        rank &= INT
        made = self.emulated.encode_im2col(
            Im2colMap(
                place, Element(element & INT), _numbers(sizes, rank, 8),
                _numbers(strides, rank - 1, 8), _numbers(lower, rank - 2, 4, True),
                _numbers(upper, rank - 2, 4, True), channels & INT, pixels & INT,
                _numbers(steps, rank, 4), Swizzle(rest[1] & INT),
            )
        )  # fmt: skip
        ctypes.memmove(out, made, len(made))


def _host(place: int, size: int) -> np.ndarray[Any, Any]:
    held: Any = (ctypes.c_ubyte * size).from_address(place)
    found: np.ndarray[Any, Any] = np.frombuffer(held, np.uint8)
    return found


def _numbers(place: int, count: int, size: int, is_signed: bool = False) -> tuple[int, ...]:
    kind: np.dtype[Any] = np.dtype(f"{'i' if is_signed else 'u'}{size}")
    return tuple(int(n) for n in np.frombuffer(ctypes.string_at(place, count * size), kind))
