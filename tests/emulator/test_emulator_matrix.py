"""ldmatrix, stmatrix, movmatrix and mma.sync against the fragment tables of the ISA
manual, element by element.
"""

from __future__ import annotations

import numpy as np
import pytest

from emulator.schedule import FOUR_SCHEDULES
from tests.emulator.emulated import Array, run
from tests.emulator.test_emulator_floats import from_bits, to_bits

RANDOM = np.random.default_rng(11)
LANE = np.arange(32)
GROUP, PLACE = LANE // 4, LANE % 4


def _list(letter: str, numbers: range) -> str:
    return "{" + ", ".join(f"%{letter}{number}" for number in numbers) + "}"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_and_stmatrix(count: int, transposed: bool) -> None:
    """Two warps; rows lie 32 bytes apart, so that no row is where another's neighbour would be."""
    rows = RANDOM.integers(0, 1 << 16, (2, count, 8, 8)).astype(np.uint16)
    suffix = ".trans" if transposed else ""
    body = (
        "shl.b32 %r1, %thread, 4; mad.wide.u32 %at0, %thread, 16, %base0; ld.global.v4.b32 {%r10, "
        "%r11, %r12, %r13}, [%at0];"
        "mov.u32 %r2, room; mad.lo.u32 %r1, %thread, 32, %r2; st.shared.v4.b32 [%r1], {%r10, "
        "%r11, %r12, %r13}; bar.sync 0;"
        f"ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 "
        f"{_list('r', range(20, 20 + count))}, [%r1];"
        f"bar.sync 0; stmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 [%r1+16], "
        f"{_list('r', range(20, 20 + count))};"
        "bar.sync 0; ld.shared.v4.b32 {%r30, %r31, %r32, %r33}, [%r1+16]; mad.wide.u32 %at1, "
        "%thread, 32, %base1;"
        f"st.global.v4.b32 [%at1], {{%r20, %r{20 + 1 % count}, %r{20 + 2 % count}, "
        f"%r{20 + 3 % count}}};"
        "st.global.v4.b32 [%at1+16], {%r30, %r31, %r32, %r33};"
    )
    given = np.zeros((2, 32, 8), np.uint16)
    given[:, : 8 * count] = rows.reshape(2, 8 * count, 8)
    if count < 4:
        # Lanes whose addresses do not count write rows that nobody reads.
        body = body.replace("ld.shared.v4", f"setp.lt.u32 %p1, %r5, {8 * count}; @%p1 ld.shared.v4")
        body = (
            "and.b32 %r5, %thread, 31; mov.u32 %r30, 0; mov.u32 %r31, 0; mov.u32 %r32, 0; mov.u32 "
            "%r33, 0;"
        ) + body
    variables = ".shared .align 16 .b8 room[2080];"
    found = run(body, [given], np.zeros((2, 32, 8), np.uint32), 64, variables=variables)
    for warp in range(2):
        for lane in range(32):
            for matrix in range(count):
                one = rows[warp, matrix].T if transposed else rows[warp, matrix]
                pair = one[lane // 4, 2 * (lane % 4) :][:2]
                assert found[warp, lane, matrix] == int(pair[0]) | int(pair[1]) << 16
    assert (found[:, :, 4:].view(np.uint16).reshape(2, 32, 8) == given).all()


def test_movmatrix_turns() -> None:
    matrix = RANDOM.integers(0, 1 << 16, (8, 8)).astype(np.uint16)
    body = (
        "mad.wide.u32 %at0, %thread, 4, %base0; ld.global.b32 %r1, [%at0];"
        "movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; mad.wide.u32 %at1, %thread, 4, %base1; "
        "st.global.b32 [%at1], %r2;"
    )
    found = run(body, [matrix], np.zeros((8, 8), np.uint16))
    assert (found == matrix.T).all()


def _a_place(kind: str, shape: tuple[int, int], lane: int, element: int) -> tuple[int, int]:
    """Row and column of A's element number `element` of a lane: the formulas of the
    manual's tables.
    """
    group, place = lane >> 2, lane % 4
    k = shape[1]
    if kind == "16":
        row = group if element in (0, 1, 4, 5) else group + 8
        return row, place * 2 + (element & 1) + (8 if element >= 4 else 0)
    if kind == "tf32":
        return group + 8 * (element % 2), place + 4 * (element // 2)
    if k == 32:
        row = group if element < 4 or 8 <= element < 12 else group + 8
        return row, place * 4 + (element & 3) + (16 if element >= 8 else 0)
    return (group if element < 4 else group + 8), place * 4 + (element & 3)


def _b_place(kind: str, lane: int, element: int) -> tuple[int, int]:
    group, place = lane >> 2, lane % 4
    if kind == "16":
        return place * 2 + (element & 1) + (8 if element >= 2 else 0), group
    if kind == "tf32":
        return place + 4 * element, group
    return place * 4 + (element & 3) + (16 if element >= 4 else 0), group


def _c_place(lane: int, element: int) -> tuple[int, int]:
    return (lane >> 2) + 8 * (element >= 2), (lane % 4) * 2 + (element & 1)


CASES = {
    "m16n8k16.row.col.f32.bf16.bf16.f32": ("16", 16, "bf16"),
    "m16n8k16.row.col.f32.f16.f16.f32": ("16", 16, "f16"),
    "m16n8k8.row.col.f32.f16.f16.f32": ("16", 8, "f16"),
    "m16n8k8.row.col.f32.bf16.bf16.f32": ("16", 8, "bf16"),
    "m16n8k16.row.col.f16.f16.f16.f16": ("16", 16, "f16"),
    "m16n8k8.row.col.f32.tf32.tf32.f32": ("tf32", 8, "f32"),
    "m16n8k4.row.col.f32.tf32.tf32.f32": ("tf32", 4, "f32"),
    "m16n8k32.row.col.s32.s8.s8.s32": ("8", 32, "s8"),
    "m16n8k32.row.col.s32.u8.s8.s32": ("8", 32, "u8"),
    "m16n8k16.row.col.s32.s8.s8.s32": ("8", 16, "s8"),
}


def _elements(values: Array, places: list[tuple[int, int]], name: str) -> bytes:
    picked = np.array([values[place] for place in places])
    if name in ("s8", "u8"):
        return picked.astype(np.int8 if name == "s8" else np.uint8).tobytes()
    return to_bits(picked, name).tobytes()


@pytest.mark.parametrize("form", CASES)
def test_products_of_a_warp(form: str) -> None:
    kind, k, name = CASES[form]
    a = RANDOM.integers(0, 16, (16, k)).astype(np.float64) - (0 if name == "u8" else 8)
    b = RANDOM.integers(-8, 8, (k, 8)).astype(np.float64)
    c = RANDOM.integers(-100, 100, (16, 8)).astype(np.float64)
    per_register = {"16": 2, "tf32": 1, "8": 4}[kind]
    a_count, b_count = 16 * k // 32, 8 * k // 32
    a_bytes = b"".join(
        _elements(a, [_a_place(kind, (16, k), lane, e) for e in range(a_count)], name)
        for lane in range(32)
    )
    b_name = "s8" if kind == "8" else name
    b_bytes = b"".join(
        _elements(b, [_b_place(kind, lane, e) for e in range(b_count)], b_name)
        for lane in range(32)
    )
    sum_name = form.split(".")[3]
    c_values = np.array([[c[_c_place(lane, e)] for e in range(4)] for lane in range(32)])
    c_bits = c_values.astype(np.int32) if sum_name == "s32" else to_bits(c_values, sum_name)
    registers = a_count // per_register, b_count // per_register, c_bits.nbytes // 128
    loads = "".join(
        f"mad.wide.u32 %at0, %thread, {4 * count}, %base{place};"
        + "".join(f"ld.global.b32 %r{10 * place + n}, [%at0+{4 * n}];" for n in range(count))
        for place, count in enumerate(registers)
    )
    lists = [
        _list("r", range(10 * place, 10 * place + count)) for place, count in enumerate(registers)
    ]
    body = (
        loads
        + f"mma.sync.aligned.{form} {_list('r', range(40, 40 + registers[2]))}, {', '.join(lists)};"
    )
    body += f"mad.wide.u32 %at1, %thread, {4 * registers[2]}, %base3;"
    body += "".join(f"st.global.b32 [%at1+{4 * n}], %r{40 + n};" for n in range(registers[2]))
    inputs = [
        np.frombuffer(a_bytes, np.uint32),
        np.frombuffer(b_bytes, np.uint32),
        np.ascontiguousarray(c_bits).view(np.uint32),
    ]
    found = run(body, inputs, np.zeros_like(c_bits))
    values = found.astype(np.float64) if sum_name == "s32" else from_bits(found, sum_name)
    expected = a @ b + c
    assert (values == [[expected[_c_place(lane, e)] for e in range(4)] for lane in range(32)]).all()


def test_products_of_f64() -> None:
    a, b, c = (
        RANDOM.integers(-9, 9, (8, 4)) / 4,
        RANDOM.integers(-9, 9, (4, 8)) / 4,
        RANDOM.integers(-9, 9, (8, 8)) / 2,
    )
    body = (
        "mad.wide.u32 %at0, %thread, 8, %base0; mad.wide.u32 %at1, %thread, 8, %base1; "
        "mad.wide.u32 "
        "%at2, %thread, 16, %base2;"
        "ld.global.f64 %d0, [%at0]; ld.global.f64 %d1, [%at1]; ld.global.v2.f64 {%d2, %d3}, [%at2];"
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d4, %d5}, {%d0}, {%d1}, {%d2, %d3};"
        "mad.wide.u32 %at3, %thread, 16, %base3; st.global.v2.f64 [%at3], {%d4, %d5};"
    )
    inputs = [a[GROUP, PLACE], b[PLACE, GROUP], c.reshape(32, 2)]
    found = run(body, [np.ascontiguousarray(one) for one in inputs], np.zeros((32, 2)))
    assert (found.reshape(8, 8) == a @ b + c).all()


def test_tf32_ignores_the_low_bits() -> None:
    one = np.full(32, 1 + 2.0**-12, np.float32)
    body = (
        "mad.wide.u32 %at0, %thread, 4, %base0; ld.global.b32 %r1, [%at0]; mov.f32 %f1, 0f00000000;"
        "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, "
        "{%r1}, {%f1, %f1, %f1, %f1};"
        "mad.wide.u32 %at1, %thread, 4, %base1; st.global.f32 [%at1], %f2;"
    )
    for schedule in FOUR_SCHEDULES[:2]:
        assert (run(body, [one], np.zeros(32, np.float32), schedule=schedule) == 4.0).all()
