"""The emulator's loads, stores and atomics in every space, and the faults it finds in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bessemer.runtime.cuda.driver import pointer
from emulator.errors import Misaligned, OutOfBounds, Uninitialised
from emulator.schedule import FOUR_SCHEDULES, Schedule
from tests.emulator.emulated import Array, Device, kernel, run

WORDS = np.arange(1000, 1256, dtype=np.uint32)
AT = "mad.wide.u32 %at0, %thread, {size}, %base0; mad.wide.u32 %at1, %thread, {to}, %base1;"


@pytest.mark.parametrize(("vector", "count"), [("", 1), (".v2", 2), (".v4", 4)])
def test_neighbours_are_loaded_and_stored(vector: str, count: int) -> None:
    names = ", ".join(f"%r{place}" for place in range(count))
    operand = f"{{{names}}}" if count > 1 else names
    body = AT.format(size=4 * count, to=4 * count) + (
        f"ld.global.nc{vector}.b32 {operand}, [%at0]; st.global{vector}.b32 [%at1], {operand};"
    )
    found = run(body, [WORDS[: 32 * count]], np.zeros(32 * count, np.uint32))
    assert (found == WORDS[: 32 * count]).all()


def test_bytes_are_extended_by_their_type() -> None:
    small = np.arange(120, 152).astype(np.uint8)
    body = AT.format(size=1, to=4) + "ld.global.s8 %r1, [%at0]; st.global.b32 [%at1], %r1;"
    assert (run(body, [small], np.zeros(32, np.int32)) == small.view(np.int8)).all()
    body = AT.format(size=1, to=2) + "ld.global.u8 %rs1, [%at0]; st.global.b16 [%at1], %rs1;"
    assert (run(body, [small], np.zeros(32, np.uint16)) == small).all()
    body = AT.format(size=4, to=1) + "ld.global.b32 %r1, [%at0]; st.global.b8 [%at1], %r1;"
    assert (run(body, [WORDS[:32]], np.zeros(32, np.uint8)) == (WORDS[:32] & 255)).all()


def test_vectors_of_64_and_16_bits() -> None:
    body = AT.format(size=16, to=16) + (
        "ld.global.v2.b64 {%rd1, %rd2}, [%at0]; st.global.v2.b64 [%at1], {%rd2, %rd1};"
    )
    found = run(body, [WORDS[:128]], np.zeros(128, np.uint32)).reshape(32, 2, 2)
    assert (found == WORDS[:128].reshape(32, 2, 2)[:, ::-1]).all()
    body = AT.format(size=8, to=8) + (
        "ld.global.v4.b16 {%rs1, %rs2, %rs3, %rs4}, [%at0+0]; st.global.v4.b16 [%at1], {%rs4, "
        "%rs3, %rs2, %rs1};"
    )
    halves = run(body, [WORDS[:64]], np.zeros(64, np.uint32)).view(np.uint16).reshape(32, 4)
    assert (halves == WORDS[:64].view(np.uint16).reshape(32, 4)[:, ::-1]).all()


def test_generic_addresses_reach_every_space() -> None:
    """Lane by lane: even ones through global memory, odd ones through shared."""
    variables = ".shared .align 8 .b32 room[32];"
    body = AT.format(size=4, to=4) + (
        "ld.global.b32 %r1, [%at0]; mov.u64 %rd1, room; cvta.shared.u64 %rd1, %rd1;"
        "mad.wide.u32 %rd1, %thread, 4, %rd1; and.b32 %r2, %thread, 1; setp.eq.u32 %p1, %r2, 0;"
        "selp.b64 %rd2, %at1, %rd1, %p1; st.b32 [%rd2], %r1; ld.b32 %r3, [%rd2];"
        "isspacep.shared %p2, %rd2; isspacep.global %p3, %rd2; selp.b32 %r4, 1, 0, %p2;"
        "selp.b32 %r5, 2, 0, %p3; add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.b32 "
        "[%at1], %r3;"
    )
    found = run(body, [WORDS[:32]], np.zeros(32, np.uint32), variables=variables)
    assert (found == WORDS[:32] + np.where(np.arange(32) % 2, 1, 2)).all()


def test_local_memory_is_each_threads_own() -> None:
    body = (
        ".local .align 8 .b8 depot[16];"
        + AT.format(size=4, to=4)
        + (
            "mov.b64 %rd1, depot; cvta.local.u64 %rd2, %rd1; ld.global.b32 %r1, [%at0];"
            "st.local.b32 [%rd1+4], %r1; ld.b32 %r2, [%rd2+4]; st.global.b32 [%at1], %r2;"
        )
    )
    assert (run(body, [WORDS[:32]], np.zeros(32, np.uint32)) == WORDS[:32]).all()


def test_constants_and_global_variables() -> None:
    variables = (
        ".const .align 4 .b32 table[4] = {10, 20, 30, 0x28};\n"
        ".visible .global .align 8 .u64 where[2] = {generic(table), generic(table)+8};\n"
        ".global .align 4 .f32 one = 0f3F800000;"
    )
    body = (
        "and.b32 %r1, %thread, 3; mov.u64 %rd1, table; mad.wide.u32 %rd1, %r1, 4, %rd1; "
        "ld.const.b32 %r2, [%rd1];"
        "ld.global.b64 %rd2, [where+8]; ld.b32 %r3, [%rd2]; add.u32 %r2, %r2, %r3; "
        "ld.global.b32 %r4, [one];"
        "add.u32 %r2, %r2, %r4; mad.wide.u32 %at0, %thread, 4, %base0; st.global.b32 [%at0], %r2;"
    )
    found = run(body, [], np.zeros(32, np.uint32), variables=variables)
    assert (found == np.array([10, 20, 30, 40])[np.arange(32) % 4] + 30 + 0x3F800000).all()


def test_a_struct_by_value_is_read_from_the_parameters() -> None:
    text = (
        ".version 8.0\n.target sm_90a\n.address_size 64\n"
        ".visible .entry k(.param .u32 a, .param .align 64 .b8 s[72], .param .u64 .ptr .global "
        ".align 4 out)\n"
        "{.reg .b64 %rd<4>; .reg .b32 %r<4>;\n"
        "ld.param.b32 %r1, [s+68]; mov.b64 %rd1, s; cvta.param.u64 %rd2, %rd1; ld.b32 %r2, "
        "[%rd2+4];"
        "ld.param.u64 %rd3, [out]; ld.param.b32 %r3, [a]; add.u32 %r1, %r1, %r2; add.u32 %r1, "
        "%r1, %r3;"
        "st.global.b32 [%rd3], %r1; ret;}\n"
    )
    device = Device(text)
    struct = np.arange(18, dtype=np.uint32) * 100
    out = device.put(np.zeros(1, np.uint32))
    device.launch([(7).to_bytes(4, "little"), struct.tobytes(), pointer(out)], threads=1)
    assert device.get(out, np.zeros(1, np.uint32))[0] == 1700 + 100 + 7


ATOMIC: dict[str, Callable[[int, int], int]] = {
    "add.u32": lambda old, value: old + value,
    "min.s32": min,
    "max.u32": max,
    "and.b32": lambda old, value: old & value,
    "or.b32": lambda old, value: old | value,
    "xor.b32": lambda old, value: old ^ value,
    "exch.b32": lambda old, value: value,
    "inc.u32": lambda old, value: 0 if old >= value else old + 1,
    "dec.u32": lambda old, value: value if old == 0 or old > value else old - 1,
}


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(seed=4)], ids=str)
@pytest.mark.parametrize("operation", ATOMIC)
def test_atomics_happen_one_after_the_other(operation: str, schedule: Schedule) -> None:
    """Each thread's old value and operand lead to the next old value, in some order,
    for each of three cells.
    """
    values = np.random.default_rng(1).integers(1, 9, 32).astype(np.uint32)
    body = (
        "mad.wide.u32 %at0, %thread, 4, %base0; ld.global.b32 %r1, [%at0]; rem.u32 %r2, %thread, 3;"
        "mad.wide.u32 %at1, %r2, 4, %base1;"
        f"atom.global.{operation} %r3, [%at1], %r1; add.u32 %r4, %thread, 3; mad.wide.u32 %at2, "
        f"%r4, 4, %base1;"
        "st.global.b32 [%at2], %r3;"
    )
    start = np.concatenate([np.array([5, 6, 7]), np.zeros(32)]).astype(np.uint32)
    found = run(body, [values], start, schedule=schedule).tolist()
    change = ATOMIC[operation]
    for cell in range(3):
        threads = [thread for thread in range(32) if thread % 3 == cell]
        links = [
            (found[3 + thread], change(found[3 + thread], int(values[thread])))
            for thread in threads
        ]
        assert sorted([5 + cell, *(after for _, after in links)]) == sorted(
            [found[cell], *(old for old, _ in links)]
        )


def test_compare_and_swap() -> None:
    body = (
        "mad.wide.u32 %at0, %thread, 4, %base0; add.u32 %r2, %thread, 1;"
        "atom.global.cas.b32 %r1, [%at0], 3, %r2; add.u32 %r1, %r1, 100; st.global.b32 "
        "[%at0+128], %r1;"
    )
    start = np.concatenate([np.arange(32) % 5, np.zeros(32)]).astype(np.uint32)
    found = run(body, [], start)
    old = start[:32]
    assert (found[:32] == np.where(old == 3, np.arange(32) + 1, old)).all()
    assert (found[32:] == old + 100).all()


@pytest.mark.parametrize("kind", ["f32", "f64", "f16x2", "bf16x2"])
def test_reductions_of_reals(kind: str) -> None:
    size = 8 if kind == "f64" else 4
    register = "%rd1" if kind == "f64" else "%r1"
    text = (
        f"mad.wide.u32 %at0, %thread, {size}, %base0; ld.global.b{8 * size} {register}, [%at0];"
        f"red.relaxed.gpu.global.add.{'noftz.' if 'x2' in kind else ''}{kind} [%base1], {register};"
    )
    values = np.arange(64, dtype={"f32": np.float32, "f64": np.float64}.get(kind, np.float16)) % 3
    if kind == "bf16x2":
        bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        found = run(text, [bits], np.zeros(2, np.uint16))
        assert (
            (found.astype(np.uint32) << 16).view(np.float32)
            == [values[0::2].sum(), values[1::2].sum()]
        ).all()
    elif kind == "f16x2":
        found = run(text, [values], np.zeros(2, np.float16))
        assert (found == [values[0::2].sum(), values[1::2].sum()]).all()
    else:
        assert run(text, [values[:32]], np.zeros(1, values.dtype))[0] == values[:32].sum()


def test_a_reduction_of_four_neighbours() -> None:
    body = "red.global.add.v4.f32 [%base0], {%f1, %f2, %f3, %f4};"
    body = (
        "mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f40400000; mov.f32 "
        "%f4, 0f00000000;"
    ) + body
    assert run(body, [], np.zeros(4, np.float32)).tolist() == [32.0, 64.0, 96.0, 0.0]


def test_atomics_in_shared_memory_count_for_all_blocks() -> None:
    variables = ".shared .align 4 .b32 count;"
    body = (
        "setp.eq.u32 %p1, %thread, 0; @%p1 st.shared.b32 [count], 0; bar.sync 0; "
        "atom.shared.add.u32 %r1, [count], 1;"
        "bar.sync 0; ld.shared.b32 %r2, [count]; mov.u32 %r3, %ctaid.x; mad.lo.u32 %r3, %r3, "
        "64, %thread;"
        "mad.wide.u32 %at0, %r3, 4, %base0; st.global.b32 [%at0], %r2;"
    )
    for schedule in FOUR_SCHEDULES:
        found = run(body, [], np.zeros(128, np.uint32), 64, schedule, variables, blocks=2)
        assert (found == 64).all()


def _fault(body: str, *inputs: Array, variables: str = "", threads: int = 32) -> None:
    run(body, inputs, np.zeros(32, np.uint32), threads, variables=variables)


def test_an_index_behind_the_end_is_found() -> None:
    with pytest.raises(
        OutOfBounds,
        match=r"behind the end of the allocation .*ld.global.b32|ld.global.b32.*behind the end",
    ):
        _fault(AT.format(size=4, to=4) + "ld.global.b32 %r1, [%at0+4];", WORDS[:32])
    with pytest.raises(OutOfBounds, match="write of 4 bytes"):
        _fault(AT.format(size=4, to=4) + "st.global.b32 [%at1+-4], %r1;", WORDS[:32])
    with pytest.raises(OutOfBounds, match="before all allocations"):
        _fault("mov.u64 %rd1, 0; ld.global.b32 %r1, [%rd1];")


def test_a_wide_access_across_the_end_is_found() -> None:
    with pytest.raises(OutOfBounds, match=r"across the end|behind the end"):
        _fault("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%base0];", WORDS[:3])


def test_a_crooked_address_is_found() -> None:
    with pytest.raises(Misaligned, match="not a multiple of 16"):
        _fault(AT.format(size=4, to=4) + "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%at0];", WORDS)
    with pytest.raises(Misaligned):
        _fault("ld.shared.b64 %rd1, [room+4];", variables=".shared .align 8 .b8 room[64];")


def test_memory_that_nothing_wrote_is_found() -> None:
    device = Device(kernel(1, "ld.global.b32 %r1, [%base0+4];"))
    address = device.driver.allocate(64)
    device.driver.copy_in(address, np.zeros(1, np.uint32), 0)
    with pytest.raises(Uninitialised, match="which nothing wrote"):
        device.launch([address])
    with pytest.raises(Uninitialised):
        _fault("ld.shared.b32 %r1, [room];", variables=".shared .align 8 .b8 room[64];")
    with pytest.raises(Uninitialised):
        _fault(".local .align 8 .b8 depot[8]; mov.b64 %rd1, depot; ld.local.b32 %r1, [%rd1];")


def test_memory_that_was_freed_is_gone() -> None:
    device = Device(kernel(1, "ld.global.b32 %r1, [%base0];"))
    address = device.put(WORDS)
    device.launch([address])
    device.driver.free(address)
    with pytest.raises(OutOfBounds):
        device.launch([address])


def test_shared_memory_has_an_end() -> None:
    with pytest.raises(OutOfBounds, match="outside of the block's shared memory"):
        _fault(
            "mov.b32 %r1, 1; st.shared.b32 [room+64], %r1;",
            variables=".shared .align 8 .b8 room[64];",
        )
    with pytest.raises(OutOfBounds):
        _fault(
            "mov.u32 %r2, 8; st.shared.b32 [%r2], %r2;", variables=".shared .align 8 .b8 room[64];"
        )


def test_dynamic_shared_memory_is_as_large_as_the_launch_says() -> None:
    variables = ".extern .shared .align 16 .b8 room[];"
    body = (
        "mul.lo.u32 %r1, %thread, 4; mov.u32 %r2, room; add.u32 %r1, %r1, %r2; st.shared.b32 "
        "[%r1], %thread;"
    )
    run(body, [], np.zeros(1, np.uint32), variables=variables, shared=128)
    with pytest.raises(OutOfBounds):
        run(body, [], np.zeros(1, np.uint32), variables=variables, shared=124)
