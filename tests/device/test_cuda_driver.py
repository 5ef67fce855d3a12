"""The real CUDA driver's calls, on a library in Python that checks how it is called."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.runtime.cuda import libcuda
from bessemer.runtime.cuda.driver import (
    Attribute,
    DeviceError,
    DeviceMemoryError,
    Driver,
    DriverTooOldError,
    Element,
    Im2colMap,
    NoDeviceError,
    Swizzle,
    TiledMap,
    number,
    pointer,
)

NAMES = {
    1: b"CUDA_ERROR_INVALID_VALUE",
    2: b"CUDA_ERROR_OUT_OF_MEMORY",
    100: b"CUDA_ERROR_NO_DEVICE",
    218: b"CUDA_ERROR_INVALID_PTX",
    222: b"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    700: b"CUDA_ERROR_ILLEGAL_ADDRESS",
}


def _number(argument: Any) -> int:
    """A plain number of what ctypes would hand over."""
    value = getattr(argument, "value", argument)
    return 0 if value is None else int(value)


class Library:
    """Keeps the calls; `fails` says which of them give what status, `gives` what they
    write to their first.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fails: dict[str, int] = {}
        self.gives: dict[str, int] = {
            "cuDeviceGetCount": 1,
            "cuDriverGetVersion": 12040,
            "cuDeviceGetAttribute": 9,
            "cuMemAlloc_v2": 0x7F0000000000,
            "cuModuleGetFunction": 77,
            "cuStreamCreate": 5,
            "cuEventCreate": 6,
            "cuModuleLoadDataEx": 44,
        }
        self.missing: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu") or name in self.missing:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            return self._call(name, arguments)

        return call

    def _call(self, name: str, arguments: tuple[Any, ...]) -> int:
        self.calls.append((name, arguments))
        if name == "cuGetErrorName":
            arguments[1]._obj.value = NAMES[arguments[0]]
            return 0
        if name in self.fails:
            if name == "cuModuleLoadDataEx":
                log = b"ptxas fatal: line 3 is wrong"
                ctypes.memmove(arguments[4][0], log, len(log))
            return self.fails[name]
        if name == "cuStreamEndCapture":
            arguments[1]._obj.value = 8
        elif name == "cuGraphInstantiateWithFlags":
            arguments[0]._obj.value = 9
        elif name == "cuEventElapsedTime":
            arguments[0]._obj.value = 1.5
        elif name == "cuMemGetInfo_v2":
            arguments[0]._obj.value, arguments[1]._obj.value = 100, 200
        elif name.startswith("cuTensorMapEncode"):
            ctypes.memmove(_number(arguments[0]), bytes(range(128)), 128)
        elif name in self.gives:
            arguments[0]._obj.value = self.gives[name]
        return 0

    def last(self, name: str) -> tuple[Any, ...]:
        return next(arguments for called, arguments in reversed(self.calls) if called == name)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    fake = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake)
    return fake


@pytest.fixture
def driver(library: Library) -> libcuda.CudaDriver:
    opened = libcuda.CudaDriver()
    opened.open(0)
    return opened


def test_without_a_library_there_is_no_device() -> None:
    with pytest.raises(
        NoDeviceError, match=r"libnothing\.so cannot be loaded.*compile for the CPU"
    ):
        libcuda.CudaDriver("libnothing.so")


def test_a_driver_without_a_device(library: Library) -> None:
    library.fails["cuInit"] = 100
    with pytest.raises(NoDeviceError, match=r"CUDA_ERROR_NO_DEVICE.*nvidia-smi") as caught:
        libcuda.CudaDriver()
    assert caught.value.code == "CUDA_ERROR_NO_DEVICE"
    del library.fails["cuInit"]
    with pytest.raises(NoDeviceError, match="no CUDA device 3: the driver finds 1"):
        libcuda.CudaDriver().open(3)


def test_it_is_a_driver(driver: libcuda.CudaDriver) -> None:
    same: Driver = driver
    assert same.version() == (12, 4)
    assert same.attribute(0, Attribute.COMPUTE_CAPABILITY_MAJOR) == 9
    assert same.memory() == (100, 200)
    assert same.create_stream() == 5


def test_memory(driver: libcuda.CudaDriver, library: Library) -> None:
    address = driver.allocate(4096)
    assert address == 0x7F0000000000
    assert _number(library.last("cuMemAlloc_v2")[1]) == 4096
    array = np.arange(10, dtype=np.float32)
    driver.copy_in(address, array, 5)
    assert [_number(one) for one in library.last("cuMemcpyHtoDAsync_v2")] == [
        address,
        array.ctypes.data,
        40,
        5,
    ]
    driver.copy_out(array, address, 5)
    assert [_number(one) for one in library.last("cuMemcpyDtoHAsync_v2")] == [
        array.ctypes.data,
        address,
        40,
        5,
    ]
    driver.copy(address + 64, address, 16, 5)
    assert [_number(one) for one in library.last("cuMemcpyDtoDAsync_v2")] == [
        address + 64,
        address,
        16,
        5,
    ]
    driver.fill(address, 255, 16, 5)
    assert [_number(one) for one in library.last("cuMemsetD8Async")] == [address, 255, 16, 5]
    library.fails["cuMemAlloc_v2"] = 2
    with pytest.raises(DeviceMemoryError, match="99 bytes wanted; free memory of other processes"):
        driver.allocate(99)


def test_modules(driver: libcuda.CudaDriver, library: Library) -> None:
    assert driver.load_module(b".version 8.0") == 44
    image, count, options = library.last("cuModuleLoadDataEx")[1:4]
    assert (image, count, list(options)) == (b".version 8.0\0", 2, [5, 6])
    driver.load_module(b"\x7fELF cubin")
    assert library.last("cuModuleLoadDataEx")[1] == b"\x7fELF cubin"
    assert driver.function(44, "softmax") == 77
    assert library.last("cuModuleGetFunction")[2] == b"softmax"
    driver.allow_shared(77, 100000)
    assert [_number(one) for one in library.last("cuFuncSetAttribute")] == [77, 8, 100000]
    library.fails["cuModuleLoadDataEx"] = 218
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_INVALID_PTX .*line 3 is wrong"):
        driver.load_module(b".version 8.0")
    library.fails["cuModuleLoadDataEx"] = 222
    with pytest.raises(DriverTooOldError, match="older than the PTX"):
        driver.load_module(b".version 8.0")


def test_launches_hand_over_the_bytes_of_every_parameter(
    driver: libcuda.CudaDriver, library: Library
) -> None:
    seen: list[bytes] = []
    plain = library._call

    def call(name: str, arguments: tuple[Any, ...]) -> int:
        if name == "cuLaunchKernel":
            pointers = arguments[9]
            seen.extend(
                ctypes.string_at(pointers[place], size) for place, size in enumerate((8, 4, 128))
            )
        return plain(name, arguments)

    library._call = call  # type: ignore[method-assign]
    content = [pointer(0x7F0000000010), number(-2, 4), bytes(range(128))]
    driver.launch(77, (3, 2, 1), (128, 1, 1), 4096, 5, content)
    assert seen == content
    given = library.last("cuLaunchKernel")
    assert [_number(one) for one in given[:9]] == [77, 3, 2, 1, 128, 1, 1, 4096, 5]
    assert given[10] is None


def test_graphs_and_events(driver: libcuda.CudaDriver, library: Library) -> None:
    driver.begin_capture(5)
    assert [_number(one) for one in library.last("cuStreamBeginCapture_v2")] == [5, 1]
    graph = driver.end_capture(5)
    assert graph == 9
    assert _number(library.last("cuGraphDestroy")[0]) == 8
    driver.replay(graph, 5)
    assert [_number(one) for one in library.last("cuGraphLaunch")] == [9, 5]
    start, end = driver.create_event(), driver.create_event()
    driver.record(start, 5)
    assert driver.elapsed(start, end) == 1.5
    library.fails["cuStreamSynchronize"] = 700
    with pytest.raises(DeviceError, match=r"ILLEGAL_ADDRESS .*compute-sanitizer"):
        driver.synchronize(5)


def test_tensor_maps(driver: libcuda.CudaDriver, library: Library) -> None:
    tiled = TiledMap(4096, Element.BF16, (64, 20), (128,), (64, 8), (1, 1), Swizzle.BYTES_128)
    assert driver.encode_tiled(tiled) == bytes(range(128))
    given = library.last("cuTensorMapEncodeTiled")
    assert _number(given[0]) % 128 == 0
    plain = [list(one) if isinstance(one, ctypes.Array) else _number(one) for one in given[1:]]
    assert plain == [9, 2, 4096, [64, 20], [128], [64, 8], [1, 1], 0, 3, 2, 0]
    walk = Im2colMap(
        4096, Element.F16, (64, 7, 6, 2), (128, 896, 5376), (-1, -2), (-3, -4), 64, 32, (1, 2, 2, 1)
    )
    driver.encode_im2col(walk)
    given = library.last("cuTensorMapEncodeIm2col")
    plain = [list(one) if isinstance(one, ctypes.Array) else _number(one) for one in given[1:]]
    assert plain == [
        6,
        4,
        4096,
        [64, 7, 6, 2],
        [128, 896, 5376],
        [-1, -2],
        [-3, -4],
        64,
        32,
        [1, 2, 2, 1],
        0,
        0,
        2,
        0,
    ]
    library.fails["cuTensorMapEncodeTiled"] = 1
    with pytest.raises(DeviceError, match="breaks the driver's rules"):
        driver.encode_tiled(tiled)
    library.missing.add("cuTensorMapEncodeIm2col")
    with pytest.raises(DriverTooOldError, match="has no cuTensorMapEncodeIm2col"):
        driver.encode_im2col(walk)
