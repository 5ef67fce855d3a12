"""The real CUDA driver: libcuda.so.1 through ctypes, nothing else needed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

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

LIBRARY = "libcuda.so.1"
_LOG_BYTES = 1 << 14
_MAX_DYNAMIC_SHARED = 8
_NON_BLOCKING = 1
_THREAD_LOCAL_CAPTURE = 1
_L2_PROMOTION_128 = 2
_MAP_BYTES = 128

_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "no CUDA device is there: check nvidia-smi and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_INVALID_DEVICE": "no device has this number",
    "CUDA_ERROR_OUT_OF_MEMORY": "free memory of other processes, or run a smaller batch",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the PTX: install a newer one",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "compile for this device's architecture",
    "CUDA_ERROR_INVALID_PTX": "compile for this device's architecture, or report this kernel",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel left its buffers: run it under compute-sanitizer",
    "CUDA_ERROR_INVALID_VALUE": "an argument of the call breaks the driver's rules",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "the kernel wants more registers than there are",
}


def _error_kind(code: str) -> type[DeviceError]:
    match code:
        case "CUDA_ERROR_NO_DEVICE":
            return NoDeviceError
        case "CUDA_ERROR_OUT_OF_MEMORY":
            return DeviceMemoryError
        case "CUDA_ERROR_UNSUPPORTED_PTX_VERSION":
            return DriverTooOldError
    return DeviceError


class CudaDriver:
    """bessemer.runtime.cuda.driver.Driver over libcuda. Raises NoDeviceError where there is no
    library or device.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise NoDeviceError(
                f"no CUDA driver: {library} cannot be loaded ({error}). Install the NVIDIA "
                f"driver, or compile for "
                "the CPU."
            ) from None
        self._context = ctypes.c_void_p()
        self._device = ctypes.c_int(-1)
        self._call("cuInit", ctypes.c_uint(0))

    def _call(self, name: str, *arguments: object, detail: str = "") -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise DriverTooOldError(
                f"the CUDA driver has no {name}: install a newer NVIDIA driver"
            ) from None
        status = function(*arguments)
        if status:
            raise self._error(name, status, detail)

    def _error(self, name: str, status: int, detail: str) -> DeviceError:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(status, ctypes.byref(text))
        code = (text.value or b"CUDA_ERROR_UNKNOWN").decode()
        advice = _ADVICE.get(code)
        parts = [f"{name} failed: {code} ({status})", *filter(None, (detail.strip(), advice))]
        return _error_kind(code)("; ".join(parts), code)

    def _number(self, name: str, *arguments: object) -> int:
        result = ctypes.c_int()
        self._call(name, ctypes.byref(result), *arguments)
        return result.value

    def _handle(self, name: str, *arguments: object) -> int:
        result = ctypes.c_void_p()
        self._call(name, ctypes.byref(result), *arguments)
        return result.value or 0

    def version(self) -> tuple[int, int]:
        number = self._number("cuDriverGetVersion")
        return number // 1000, number % 1000 // 10

    def device_count(self) -> int:
        return self._number("cuDeviceGetCount")

    def device_name(self, device: int) -> str:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, self._number("cuDeviceGet", device))
        return name.value.decode()

    def attribute(self, device: int, attribute: Attribute) -> int:
        return self._number(
            "cuDeviceGetAttribute", int(attribute), self._number("cuDeviceGet", device)
        )

    def open(self, device: int) -> None:
        count = self.device_count()
        if not 0 <= device < count:
            raise NoDeviceError(f"there is no CUDA device {device}: the driver finds {count}")
        self._device = ctypes.c_int(self._number("cuDeviceGet", device))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.activate()

    def activate(self) -> None:
        self._call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self._context = ctypes.c_void_p()

    def memory(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        result = ctypes.c_void_p()
        self._call(
            "cuMemAlloc_v2",
            ctypes.byref(result),
            ctypes.c_size_t(max(size, 1)),
            detail=f"{size} bytes wanted",
        )
        return result.value or 0

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_void_p(address))

    def copy_in(self, address: int, source: NDArray[Any], stream: int) -> None:
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_void_p(address),
            ctypes.c_void_p(source.ctypes.data),
            ctypes.c_size_t(source.nbytes),
            ctypes.c_void_p(stream),
        )

    def copy_out(self, target: NDArray[Any], address: int, stream: int) -> None:
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(target.ctypes.data),
            ctypes.c_void_p(address),
            ctypes.c_size_t(target.nbytes),
            ctypes.c_void_p(stream),
        )

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call(
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        self._call(
            "cuMemsetD8Async",
            ctypes.c_void_p(address),
            ctypes.c_ubyte(value),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def load_module(self, image: bytes) -> int:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        # CU_JIT_ERROR_LOG_BUFFER and CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES.
        options = (ctypes.c_int * 2)(5, 6)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), _LOG_BYTES)
        module = ctypes.c_void_p()
        is_text = image[:4] != b"\x7fELF"
        status = self._library.cuModuleLoadDataEx(
            ctypes.byref(module), image + b"\0" if is_text else image, 2, options, values
        )
        if status:
            raise self._error("cuModuleLoadDataEx", status, log.value.decode(errors="replace"))
        return module.value or 0

    def unload_module(self, module: int) -> None:
        self._call("cuModuleUnload", ctypes.c_void_p(module))

    def function(self, module: int, name: str) -> int:
        result = ctypes.c_void_p()
        self._call(
            "cuModuleGetFunction",
            ctypes.byref(result),
            ctypes.c_void_p(module),
            name.encode(),
            detail=f"kernel {name}",
        )
        return result.value or 0

    def allow_shared(self, function: int, size: int) -> None:
        self._call(
            "cuFuncSetAttribute",
            ctypes.c_void_p(function),
            _MAX_DYNAMIC_SHARED,
            size,
            detail=f"{size} bytes of shared memory wanted",
        )

    def launch(
        self,
        function: int,
        grid: Triple,
        block: Triple,
        shared: int,
        stream: int,
        parameters: Sequence[bytes],
    ) -> None:
        holders = [ctypes.create_string_buffer(one, len(one)) for one in parameters]
        pointers = (ctypes.c_void_p * max(len(holders), 1))(*map(ctypes.addressof, holders))
        self._call(
            "cuLaunchKernel",
            ctypes.c_void_p(function),
            *map(ctypes.c_uint, (*grid, *block, shared)),
            ctypes.c_void_p(stream),
            pointers,
            None,
        )

    def create_stream(self) -> int:
        return self._handle("cuStreamCreate", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _THREAD_LOCAL_CAPTURE)

    def end_capture(self, stream: int) -> int:
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)
        return ready.value or 0

    def replay(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def create_event(self) -> int:
        return self._handle("cuEventCreate", 0)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed(self, start: int, end: int) -> float:
        self._call("cuEventSynchronize", ctypes.c_void_p(end))
        result = ctypes.c_float()
        self._call(
            "cuEventElapsedTime",
            ctypes.byref(result),
            ctypes.c_void_p(start),
            ctypes.c_void_p(end),
        )
        return result.value

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))

    def encode_tiled(self, tensor: TiledMap) -> bytes:
        rank = len(tensor.sizes)
        return self._encode(
            "cuTensorMapEncodeTiled",
            int(tensor.element),
            rank,
            ctypes.c_void_p(tensor.address),
            (ctypes.c_uint64 * rank)(*tensor.sizes),
            (ctypes.c_uint64 * max(rank - 1, 1))(*tensor.strides),
            (ctypes.c_uint32 * rank)(*tensor.box),
            (ctypes.c_uint32 * rank)(*tensor.steps),
            swizzle=int(tensor.swizzle),
        )

    def encode_im2col(self, tensor: Im2colMap) -> bytes:
        rank = len(tensor.sizes)
        return self._encode(
            "cuTensorMapEncodeIm2col",
            int(tensor.element),
            rank,
            ctypes.c_void_p(tensor.address),
            (ctypes.c_uint64 * rank)(*tensor.sizes),
            (ctypes.c_uint64 * (rank - 1))(*tensor.strides),
            (ctypes.c_int * (rank - 2))(*tensor.lower),
            (ctypes.c_int * (rank - 2))(*tensor.upper),
            ctypes.c_uint32(tensor.channels),
            ctypes.c_uint32(tensor.pixels),
            (ctypes.c_uint32 * rank)(*tensor.steps),
            swizzle=int(tensor.swizzle),
        )

    def _encode(self, name: str, *arguments: object, swizzle: int) -> bytes:
        room = ctypes.create_string_buffer(2 * _MAP_BYTES)
        shift = -ctypes.addressof(room) % _MAP_BYTES
        place = ctypes.c_void_p(ctypes.addressof(room) + shift)
        # Interleave: none. What lies outside is zero.
        self._call(name, place, *arguments, 0, swizzle, _L2_PROMOTION_128, 0)
        return room.raw[shift : shift + _MAP_BYTES]
