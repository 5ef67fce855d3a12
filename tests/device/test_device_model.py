"""Models on a device: what they take and give, changing sizes, control flow, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.driver import build
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, boolean, f32, i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import reduce
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import SM75, SM80, SM90A, device_of_capability
from bessemer.frontends.builder import Dense, Input, Network, Sequential
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.cuda.arguments import DeviceArray, on_device
from bessemer.runtime.cuda.driver import (
    Attribute,
    DeviceError,
    DeviceMemoryError,
    DriverTooOldError,
    NoDeviceError,
)
from bessemer.runtime.cuda.libcuda import CudaDriver
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.errors import ExecutionError, InputError
from emulator.driver import EmulatedDriver
from tests.device_runs import graph_of
from tests.onnx_check import parsed
from tests.onnx_reader.test_bad_input import WINDOWS


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def placed(graph: Graph, driver: EmulatedDriver | None = None) -> DeviceModel:
    made = build_for_device(graph, Options(), SM80)
    return DeviceModel(made.artifact, made.weights, driver or EmulatedDriver())


def affine() -> Graph:
    """y = tanh(x) * w + 1 over [n, 5]."""
    b = GraphBuilder("affine")
    x = b.input("x", TensorType(f32, (symbol("n"), 5)))
    w = b.constant(np.arange(5, dtype=np.float32))
    return b.finish([binary(b, "add", binary(b, "mul", b.apply("tanh", x), w), 1.0)], ["y"])


def expected(x: Array) -> Array:
    return np.asarray(np.tanh(x) * np.arange(5, dtype=np.float32) + 1)


def test_one_compilation_serves_every_size_and_every_call() -> None:
    model = placed(affine())
    for rows in (3, 1, 700, 3, 0):
        x = numbers(rows, 5)
        (found,) = model.run({"x": x})
        np.testing.assert_allclose(found, expected(x), rtol=1e-6, atol=1e-6)
    assert [info.name for info in model.outputs] == ["y"]
    np.testing.assert_allclose(model(numbers(2, 5)), expected(numbers(2, 5)), rtol=1e-6)


def test_arrays_of_the_device_are_used_in_place() -> None:
    driver = EmulatedDriver()
    model = placed(affine(), driver)
    x = numbers(6, 5)
    places = [driver.allocate(x.nbytes) for _ in range(2)]
    driver.copy_in(places[0], x, 0)
    given = [DeviceArray(place, (6, 5), np.dtype(np.float32)) for place in places]

    class Foreign:
        """What another library's array looks like."""

        __cuda_array_interface__ = given[0].__cuda_array_interface__

    for one in (given[0], Foreign()):
        (result,) = model.run([one], out=[given[1]])
        assert result is given[1]
        found = np.empty((6, 5), np.float32)
        driver.copy_out(found, places[1], 0)
        np.testing.assert_allclose(found, expected(x), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_an_array_that_speaks_dlpack_is_found(dtype: str) -> None:
    class Foreign:
        """An array that says it is on a GPU, though its capsule is NumPy's."""

        def __init__(self, array: Array) -> None:
            self.array = array

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self) -> object:
            return self.array.__dlpack__()

    x = np.arange(12).reshape(3, 4).astype(dtype)
    info = ArrayInfo("x", dtype, (3, 4))
    found = on_device(info, Foreign(x))
    assert found is not None
    assert (found.address, found.shape, found.dtype) == (x.ctypes.data, (3, 4), x.dtype)
    with pytest.raises(InputError, match="'x' is not contiguous"):
        on_device(info, Foreign(x[:, ::2]))
    assert on_device(info, x) is None


def test_a_run_on_the_device_needs_no_waiting() -> None:
    model = placed(affine())
    x, y = model.place(numbers(6, 5)), model.place(np.zeros((6, 5), np.float32))
    for _ in range(3):
        model.enqueue([x], [y])
    model.synchronize()
    np.testing.assert_allclose(model.fetch(y), expected(numbers(6, 5)), rtol=1e-6)
    with pytest.raises(InputError, match="takes device arrays"):
        model.enqueue([numbers(6, 5)], [y])


def test_an_array_that_begins_anywhere_is_copied_first() -> None:
    driver = EmulatedDriver()
    model = placed(affine(), driver)
    x = numbers(4, 5)
    place = driver.allocate(x.nbytes + 4)
    driver.copy_in(place + 4, x, 0)
    (found,) = model.run([DeviceArray(place + 4, (4, 5), np.dtype(np.float32))])
    np.testing.assert_allclose(found, expected(x), rtol=1e-6)


def test_arguments_that_do_not_fit_are_named() -> None:
    model = placed(affine())
    strided = {"shape": (6, 5), "strides": (40, 8), "typestr": "<f4", "data": (0, False)}
    array = type("Foreign", (), {"__cuda_array_interface__": strided})()
    cases: list[tuple[Any, str]] = [
        ({}, "'x' is missing"),
        ({"x": numbers(1, 5), "z": 1}, "'z' is unknown"),
        ([numbers(1, 5)] * 2, "expected 1"),
        ([numbers(1, 6)], r"axis 1 is 6, not 5"),
        ([numbers(1, 5).astype(np.float64)], "float64, expected float32"),
        ([DeviceArray(0, (1, 5), np.dtype(np.int32))], "int32, expected float32"),
        ([array], "not contiguous"),
    ]
    for inputs, message in cases:
        with pytest.raises(InputError, match=message):
            model.run(inputs)
    with pytest.raises(InputError, match="has shape"):
        model.run([numbers(2, 5)], out=[DeviceArray(0, (3, 5), np.dtype(np.float32))])


def test_an_index_out_of_range_is_told() -> None:
    def build(b: GraphBuilder, x: Value, index: Value) -> Value:
        with b.source("Gather 'pick'"):
            return b.apply("gather", x, index, axis=0)

    x = numbers(4, 3)
    model = placed(graph_of(build, [x, np.array([1])]))
    for _ in range(2):
        with pytest.raises(ExecutionError, match="'pick': index out of range"):
            model.run([x, np.array([4])])
        np.testing.assert_array_equal(model.run([x, np.array([-1])])[0], x[-1:])


def test_sizes_that_the_data_decides() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        return b.apply("neg", b.apply_many("nonzero", x, symbol=b.fresh_symbol("found"))[0])

    x = (np.arange(40).reshape(4, 10) % 3 == 0).astype(np.float32)
    model = placed(graph_of(build, [x]))
    for array in (x, np.zeros_like(x), np.ones_like(x)):
        (found,) = model.run([array])
        np.testing.assert_array_equal(found, -np.array(np.nonzero(array)))


def _controlled() -> Graph:
    """Doubles x as often as `trips` says, at most while its sum is below 100, and collects the
    sums; then takes its negative if the last sum is above 50."""
    b = GraphBuilder("controlled")
    x = b.input("x", TensorType(f32, (6,)))
    trips = b.input("trips", TensorType(i64, ()))
    body = GraphBuilder("body", b)
    body.input("iteration", TensorType(i64, ()))
    body.input("going", TensorType(boolean, ()))
    twice = binary(body, "mul", body.input("carried", TensorType(f32, (6,))), 2.0)
    total = reduce(body, "sum", twice, (0,))
    region = body.finish([binary(body, "lt", total, 100.0), twice, total])
    found, sums = b.apply_many(
        "loop", trips, b.constant(np.array(True)), x, regions=(region,), carried=1,
        has_trips=True, has_condition=True, scans=1, count=b.fresh_symbol("made"),
    )  # fmt: skip
    is_large = binary(b, "gt", reduce(b, "sum", found, (0,)), 50.0)
    sides = []
    for name in ("neg", "relu"):
        side = GraphBuilder(name, b)
        sides.append(side.finish([side.apply(name, side.input("found", found.type))]))
    (chosen,) = b.apply_many("if", is_large, found, regions=tuple(sides))
    return b.finish([chosen, sums], ["y", "sums"])


@pytest.mark.parametrize(("trips", "start"), [(3, 1.0), (20, 1.0), (0, 1.0), (5, -1.0)])
def test_the_host_follows_loops_and_branches(trips: int, start: float) -> None:
    model = placed(_controlled())
    x = np.full(6, start, np.float32)
    found, sums = model.run([x, np.array(trips)])
    y = x
    wanted: list[np.float32] = []
    while len(wanted) < trips and (not wanted or wanted[-1] < 100):
        y = y * 2
        wanted.append(y.sum())
    np.testing.assert_array_equal(found, -y if y.sum() > 50 else np.maximum(y, 0))
    np.testing.assert_array_equal(sums, np.array(wanted, np.float32))


# Errors


class OtherDevice(EmulatedDriver):
    """A device of another kind."""

    capability = (7, 0)
    devices = 1

    def attribute(self, device: int, attribute: Attribute) -> int:
        match attribute:
            case Attribute.COMPUTE_CAPABILITY_MAJOR:
                return self.capability[0]
            case Attribute.COMPUTE_CAPABILITY_MINOR:
                return self.capability[1]
            case _:
                return super().attribute(device, attribute)

    def device_count(self) -> int:
        return self.devices


class NoMemory(EmulatedDriver):
    def allocate(self, size: int) -> int:
        if size > 1 << 14:
            raise DeviceMemoryError("cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY", "OOM")
        return super().allocate(size)


class OldDriver(EmulatedDriver):
    def load_module(self, image: bytes) -> int:
        raise DriverTooOldError("the driver is older than the PTX", "UNSUPPORTED_PTX_VERSION")


def test_no_library_or_no_device() -> None:
    try:
        CudaDriver().open(0)
    except NoDeviceError:
        with pytest.raises(NoDeviceError):
            bessemer.compile(affine(), target="cuda")
    none = OtherDevice()
    none.devices = 0
    with pytest.raises(NoDeviceError, match="There is no CUDA device 0"):
        bessemer.compile(affine(), target="cuda", driver=none)


def test_a_device_that_there_is_no_code_for() -> None:
    with pytest.raises(CompileError, match=r"compute capability 7\.0; .* needs 7\.5 or later"):
        bessemer.compile(affine(), target="cuda", driver=OtherDevice())
    with pytest.raises(CompileError, match=r"no target 'nvptx:sm_1'.*nvptx:sm_90a"):
        bessemer.compile(affine(), target="nvptx:sm_1")
    with pytest.raises(CompileError, match="for processors, not for cuda"):
        bessemer.compile(affine(), target="cuda", memory=1 << 20)
    with pytest.raises(CompileError, match="is a GPU, for which no object file is made"):
        build(affine(), Options(target="nvptx:sm_80"))
    old = OtherDevice()
    old.capability = (7, 5)
    with pytest.raises(DeviceError, match=r"compiled for nvptx:sm_80.* capability 7\.5"):
        bessemer.compile(affine(), target="nvptx:sm_80", driver=old)


def test_a_driver_that_is_too_old_and_too_little_memory() -> None:
    with pytest.raises(DriverTooOldError):
        bessemer.compile(affine(), target="nvptx:sm_80", driver=OldDriver())
    model = bessemer.compile(affine(), target="nvptx:sm_80", driver=NoMemory())
    with pytest.raises(DeviceMemoryError, match=r"'affine' needs .* MiB on the device"):
        model.run([numbers(5000, 5)])
    np.testing.assert_allclose(model(numbers(2, 5)), expected(numbers(2, 5)), rtol=1e-6)


def test_the_level_follows_the_device() -> None:
    levels = {(7, 5): SM75, (8, 0): SM80, (8, 9): SM80, (9, 0): SM90A, (10, 0): SM80, (12, 0): SM80}
    assert {c: device_of_capability(*c) for c in levels} == levels


def test_equal_kernels_are_one_and_the_text_depends_on_nothing_else() -> None:
    def built() -> DeviceCompilation:
        layers = Sequential(*(Dense(64) for _ in range(5)))
        return build_for_device(Network(layers, Input("x", (32, 64))).graph, Options(), SM80)

    one, other = built(), built()
    assert one.artifact.ptx == other.artifact.ptx
    assert len(one.artifact.kernels) < 5
    assert one.artifact.ptx.count(".version") == 1
    assert one.artifact.ptx.count(".visible .entry") == len(one.artifact.kernels)


@pytest.mark.parametrize(("length", "culprit"), [(0, "first"), (2, "second"), (4, "second")])
def test_an_input_too_small_for_a_window_names_the_node(length: int, culprit: str) -> None:
    """As on processors: the sizes after the windows are negative."""
    model = bessemer.compile(parsed(WINDOWS), target="nvptx:sm_80", driver=EmulatedDriver())
    assert model.run({"x": np.ones((1, 1, 7), np.float32)})[0] == 16
    with pytest.raises(ExecutionError, match=f"{culprit}.*too small"):
        model.run({"x": np.ones((1, 1, length), np.float32)})
    assert model.run({"x": np.ones((1, 1, 7), np.float32)})[0] == 16
