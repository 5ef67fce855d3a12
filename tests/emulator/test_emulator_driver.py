"""The emulated driver: memory, modules, functions, launches, graphs, events, and its refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bessemer.runtime.cuda.driver import (
    Attribute,
    DeviceError,
    DeviceMemoryError,
    Driver,
    DriverTooOldError,
    Element,
    NoDeviceError,
    TiledMap,
    number,
    pointer,
)
from emulator.driver import EmulatedDevice, EmulatedDriver
from emulator.errors import EmulationError, OutOfBounds, UnsupportedInstruction
from emulator.language.parse import parse_module
from emulator.schedule import Schedule
from tests.emulator.emulated import HEAD, kernel

ADD_ONE = kernel(
    1,
    "mad.wide.u32 %at0, %thread, 4, %base0; ld.global.b32 %r1, [%at0]; add.u32 %r1, %r1, 1;"
    "st.global.b32 [%at0], %r1;",
    directives=".reqntid 32, 1, 1",
)


def _driver(text: str = ADD_ONE, **device: object) -> tuple[EmulatedDriver, int]:
    driver = EmulatedDriver(device=replace(EmulatedDevice(), **device))  # type: ignore[arg-type]
    driver.open(0)
    return driver, driver.function(driver.load_module(text.encode()), "k")


def _launch(driver: EmulatedDriver, function: int, address: int, stream: int = 0) -> None:
    driver.launch(function, (1, 1, 1), (32, 1, 1), 0, stream, [pointer(address)])


def test_it_has_the_interface_of_the_real_one() -> None:
    driver: Driver = EmulatedDriver()
    assert driver.device_count() == 1
    assert driver.version() >= (12, 0)
    assert driver.attribute(0, Attribute.COMPUTE_CAPABILITY_MAJOR) == 9
    assert driver.attribute(0, Attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN) == 232448
    with pytest.raises(NoDeviceError, match="no CUDA device 1"):
        driver.open(1)


def test_memory_is_copied_filled_and_freed() -> None:
    driver, _ = _driver()
    free, total = driver.memory()
    address = driver.allocate(64)
    assert address % 256 == 0
    assert driver.memory() == (free - 64, total)
    driver.fill(address, 7, 64, 0)
    driver.copy_in(address + 8, np.arange(4, dtype=np.uint16), 0)
    driver.copy(address + 32, address, 32, 0)
    found = np.empty(64, np.uint8)
    driver.copy_out(found, address, 0)
    half = [7] * 8 + [0, 0, 1, 0, 2, 0, 3, 0] + [7] * 16
    assert found.tolist() == half + half
    with pytest.raises(OutOfBounds):
        driver.copy_out(np.empty(65, np.uint8), address, 0)
    driver.free(address)
    assert driver.memory() == (free, total)
    with pytest.raises(OutOfBounds):
        driver.free(address)
    with pytest.raises(DeviceError, match="contiguous"):
        driver.copy_in(driver.allocate(64), np.zeros((4, 4))[:, 0], 0)


def test_freed_memory_is_used_again_and_there_is_an_end() -> None:
    driver, _ = _driver(memory=1 << 20)
    first = driver.allocate(1 << 18)
    second = driver.allocate(1 << 18)
    driver.free(first)
    assert driver.allocate(1 << 17) == first
    with pytest.raises(DeviceMemoryError, match="bytes wanted"):
        driver.allocate(1 << 20)
    driver.free(second)


def test_a_graph_is_recorded_and_replayed() -> None:
    driver, function = _driver()
    address, stream = driver.allocate(128), driver.create_stream()
    driver.copy_in(address, np.zeros(32, np.uint32), stream)
    result = np.empty(32, np.uint32)
    driver.begin_capture(stream)
    _launch(driver, function, address, stream)
    _launch(driver, function, address, stream)
    driver.copy_out(result, address, stream)
    with pytest.raises(DeviceError, match="records"):
        driver.synchronize(stream)
    graph = driver.end_capture(stream)
    assert driver.launches == 0
    for turn in range(1, 4):
        driver.replay(graph, stream)
        assert (result == 2 * turn).all()
    assert driver.launches == 6
    driver.destroy_graph(graph)
    with pytest.raises(DeviceError, match="records nothing"):
        driver.end_capture(stream)
    with pytest.raises(DeviceError, match="cannot record"):
        driver.begin_capture(0)


def test_events_measure_time() -> None:
    driver, function = _driver()
    address = driver.allocate(128)
    driver.fill(address, 0, 128, 0)
    before, after = driver.create_event(), driver.create_event()
    driver.record(before, 0)
    _launch(driver, function, address)
    driver.record(after, 0)
    assert driver.elapsed(before, after) > 0
    driver.destroy_event(before)


def test_images_that_the_driver_refuses() -> None:
    driver, _ = _driver()
    with pytest.raises(DriverTooOldError, match="newer than the driver's"):
        driver.load_module(ADD_ONE.replace(".version 8.6", ".version 9.0").encode())
    with pytest.raises(DeviceError, match="not a PTX module"):
        driver.load_module(b"hello")
    with pytest.raises(DeviceError, match="no cubins"):
        driver.load_module(b"\x7fELF...")
    with pytest.raises(DeviceError, match="no kernel other"):
        driver.function(driver.load_module(ADD_ONE.encode()), "other")
    with pytest.raises(DeviceError, match="cannot read"):
        driver.load_module(ADD_ONE.replace("add.u32 %r1", "?? %r1").encode())


def test_launches_that_the_driver_refuses() -> None:
    driver, function = _driver()
    with pytest.raises(DeviceError, match="blocks of"):
        driver.launch(function, (1, 1, 1), (64, 1, 1), 0, 0, [pointer(0)])
    with pytest.raises(DeviceError, match="1 parameters, not 2"):
        driver.launch(function, (1, 1, 1), (32, 1, 1), 0, 0, [pointer(0), pointer(0)])
    with pytest.raises(DeviceError, match="8 bytes, not 4"):
        driver.launch(function, (1, 1, 1), (32, 1, 1), 0, 0, [number(0, 4)])
    with pytest.raises(DeviceError, match="are allowed"):
        driver.launch(function, (1, 1, 1), (32, 1, 1), 60000, 0, [pointer(0)])
    with pytest.raises(DeviceError, match="are there"):
        driver.allow_shared(function, 300000)
    for grid in ((0, 1, 1), (1, 65536, 1), (1 << 31, 1, 1)):
        with pytest.raises(DeviceError, match="grid"):
            driver.launch(function, grid, (32, 1, 1), 0, 0, [pointer(0)])


def test_shared_memory_is_counted_as_a_device_counts_it() -> None:
    """What a kernel has of its own comes on top; beyond 48 KiB a launch must have asked."""
    own = ".shared .align 4 .b8 own[40960];\n.extern .shared .align 16 .b8 more[];"
    text = kernel(1, "mov.u32 %r1, own; mov.u32 %r2, more;", own)
    driver, function = _driver(text.replace("sm_90a", "sm_80"), capability=(8, 6))

    def run(shared: int) -> None:
        driver.launch(function, (1, 1, 1), (32, 1, 1), shared, 0, [pointer(0)])

    with pytest.raises(DeviceError, match="8196 bytes of shared memory, 8192 are allowed"):
        run(8196)
    run(8192)
    with pytest.raises(DeviceError, match="60416 are there"):
        driver.allow_shared(function, 60420)
    driver.allow_shared(function, 60416)
    run(60416)


@pytest.mark.parametrize(
    ("capability", "target", "body", "message"),
    [
        ((8, 0), "sm_90a", "", "the code is for sm_90a, the device is sm_80"),
        ((10, 0), "sm_90a", "", "the device is sm_100"),
        ((9, 0), "sm_90", "setmaxnreg.inc.sync.aligned.u32 232;", "a target such as sm_90a"),
        ((9, 0), "sm_75", "cp.async.commit_group;", "cp.async needs sm_80"),
        ((9, 0), "sm_80", "fence.mbarrier_init.release.cluster;", "needs sm_90"),
    ],
)
def test_code_that_a_device_does_not_run(
    capability: tuple[int, int], target: str, body: str, message: str
) -> None:
    text = kernel(1, body).replace("sm_90a", target)
    with pytest.raises(DeviceError, match=message):
        _driver(text, capability=capability)


def test_instructions_that_are_newer_than_the_text() -> None:
    text = kernel(1, "fence.mbarrier_init.release.cluster;").replace("8.6", "7.8")
    with pytest.raises(DeviceError, match=r"needs PTX 8\.0"):
        _driver(text)


def test_memory_does_not_come_and_go_while_a_stream_records() -> None:
    driver, _ = _driver()
    stream = driver.create_stream()
    driver.begin_capture(stream)
    with pytest.raises(DeviceError, match="recording"):
        driver.allocate(16)
    driver.destroy_graph(driver.end_capture(stream))
    driver.free(driver.allocate(16))


def test_tensor_maps_are_for_devices_that_have_them() -> None:
    tensor = TiledMap(256, Element.F32, (8, 8), (32,), (4, 4), (1, 1))
    driver, _ = _driver()
    with pytest.raises(DeviceError, match="cuTensorMapEncode failed"):
        driver.encode_tiled(replace(tensor, box=(8, 257)))
    assert len(driver.encode_tiled(tensor)) == 128
    old = EmulatedDriver(device=EmulatedDevice(capability=(8, 9)))
    with pytest.raises(DeviceError, match="no tensor maps"):
        old.encode_tiled(tensor)


def test_events_that_were_never_recorded() -> None:
    driver, _ = _driver()
    with pytest.raises(DeviceError, match="never recorded"):
        driver.elapsed(driver.create_event(), driver.create_event())


def test_a_fault_names_kernel_line_instruction_and_thread() -> None:
    driver, function = _driver()
    address = driver.allocate(64)
    driver.fill(address, 0, 64, 0)
    with pytest.raises(EmulationError) as caught:
        _launch(driver, function, address)
    text = str(caught.value)
    assert "kernel k, line" in text
    assert "`ld.global.b32 %r1, [%at0]`" in text
    assert "0 bytes behind the end of the allocation" in text
    assert "16 threads" in text


def test_unknown_instructions_are_named() -> None:
    driver, _ = _driver()
    text = kernel(1, "tcgen05.wait::ld.sync.aligned;")
    function = driver.function(driver.load_module(text.encode()), "k")
    with pytest.raises(UnsupportedInstruction, match="tcgen05"):
        _launch(driver, function, driver.allocate(8))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("ctas", [1, 3, None])
def test_any_number_of_blocks_runs_side_by_side(ctas: int | None, seed: int | None) -> None:
    text = kernel(
        1,
        "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %nctaid.x; mad.lo.u32 %r1, "
        "%r2, %r3, %r1;"
        "mov.u32 %r4, %tid.y; mov.u32 %r5, %ntid.x; mad.lo.u32 %r4, %r4, %r5, %thread;"
        "mad.lo.u32 %r6, %r1, 40, %r4; mad.wide.u32 %at0, %r6, 4, %base0; st.global.b32 "
        "[%at0], %r6;",
    )
    driver, function = _driver(text)
    driver.schedule = Schedule(seed=seed, ctas=ctas)
    address = driver.allocate(4 * 7 * 3 * 40)
    driver.launch(function, (7, 3, 1), (20, 2, 1), 0, 0, [pointer(address)])
    found = np.empty(7 * 3 * 40, np.uint32)
    driver.copy_out(found, address, 0)
    assert (found == np.arange(7 * 3 * 40)).all()


def test_modules_are_read_whole() -> None:
    module = parse_module(
        HEAD
        + """
// a comment with { braces
.extern .shared .align 16 .b8 room[]; /* another
one */
.visible .const .align 4 .b8 bytes[4] = {1, 2, 0x3, 255};
.visible .entry one(
    .param .u64 .ptr .global .align 16 one_param_0,
    .param .align 128 .b8 one_param_1[128],
    .param .f32 one_param_2
)
.maxntid 256, 1, 1
.minnctapersm 1
{
    .reg .pred %p<3>;
    .pragma "nounroll";
$L__BB0_1:
    { .reg .b32 %r; mov.b32 %r, -5; { .reg .b32 %r; mov.b32 %r, 0f3F800000; } }
    @!%p1 bra $L__BB0_1;
    ret;
}
.visible .entry two() { ret; }
"""
    )
    assert module.version == (8, 6)
    assert module.target == "sm_90a"
    assert list(module.kernels) == ["one", "two"]
    one = module.kernels["one"]
    assert [(p.offset, p.size) for p in one.parameters] == [(0, 8), (128, 128), (256, 4)]
    assert (one.most_threads, one.required_threads, one.labels) == (256, None, {"$L__BB0_1": 0})
    assert one.register_widths == (1, 1, 1, 32, 32)
    first, second = (instruction.operands[0] for instruction in one.instructions[:2])
    assert first != second
    assert [(v.name, v.space, v.size, v.words) for v in module.variables] == [
        ("room", "shared", 0, ()),
        ("bytes", "const", 4, (1, 2, 3, 255)),
    ]


@pytest.mark.parametrize(
    "instruction",
    [
        "barrier.cluster.arrive.aligned;",
        "mapa.shared::cluster.u32 %r1, %r2, %r3;",
        "mov.u32 %r1, %cluster_ctarank;",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%r1], [%rd1], 16, [%r2], %rs1;",
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
        "[%r1], [%r2], 16, [%r3];",
    ],
)
def test_clusters_of_blocks_are_refused(instruction: str) -> None:
    driver, function = _driver(kernel(1, instruction))
    with pytest.raises(UnsupportedInstruction, match="cluster"):
        driver.launch(function, (1, 1, 1), (32, 1, 1), 0, 0, [pointer(0)])
    with pytest.raises(DeviceError, match="clusters of blocks"):
        _driver(kernel(1, "", directives=".reqnctapercluster 2, 1, 1"))
