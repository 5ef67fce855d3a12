"""wgmma against products in float64, for every layout of its factors, and its misuse."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.errors import DivergentCollective, Race, UnfinishedRead, Uninitialised
from emulator.schedule import FOUR_SCHEDULES, Schedule
from tests.emulator.emulated import Array, run
from tests.emulator.test_emulator_floats import to_bits

each_schedule = pytest.mark.parametrize("schedule", FOUR_SCHEDULES, ids=str)
RANDOM = np.random.default_rng(21)
ROOM = ".shared .align 1024 .b8 room[32768];"
PROXY = "fence.proxy.async;"
MODES = {0: 0, 128: 1, 64: 2, 32: 3}


def _core_offsets(
    extent: int, depth: int, size: int, span: int, by_depth: bool
) -> tuple[Array, int, int]:
    """Byte offset of element (i, k), and the descriptor's leading and stride offsets, as the
    CUTLASS comments give the canonical layouts: in 16-byte units, ((8,m),(T,2k)) and so on.
    """
    offsets = np.zeros((extent, depth), np.int64)
    each = 16 // size
    row_units = max(span // 16, 1)
    if by_depth:
        # One column of core matrices per 16 bytes of depth; swizzled ones stand side by side in a
        # row.
        stride = 8 * 16 * row_units
        leading = stride * (extent // 8) if not span else 16
        for i, k in np.ndindex(extent, depth):
            unit = k // each
            core = unit * leading if not span else unit * 16
            offsets[i, k] = i // 8 * stride + i % 8 * 16 * row_units + core + k % each * size
        return offsets, leading, stride
    width = each * row_units
    if span:
        stride = 8 * span
        leading = stride * (depth // 8)
        for i, k in np.ndindex(extent, depth):
            offsets[i, k] = i // width * leading + k // 8 * stride + k % 8 * span + i % width * size
    else:
        leading = 128
        stride = leading * (depth // 8)
        for i, k in np.ndindex(extent, depth):
            offsets[i, k] = i // 8 * stride + k // 8 * leading + k % 8 * 16 + i % 8 * size
    return offsets, leading, stride


def _image(matrix: Array, name: str, span: int, by_depth: bool) -> tuple[Array, int]:
    """16 KiB of shared memory with the matrix (extent × depth) in it, and the
    descriptor without its start.
    """
    bits = (
        matrix.astype(np.int8).view(np.uint8)
        if name == "s8"
        else to_bits(matrix, "f32" if name == "tf32" else name)
    )
    size = bits.itemsize
    offsets, leading, stride = _core_offsets(matrix.shape[0], matrix.shape[1], size, span, by_depth)
    parts = max(span // 16, 1)
    swizzled = offsets ^ (
        offsets // 128 % 8 % parts * 16 if span != 128 else offsets // 128 % 8 * 16
    )
    room = np.zeros(16384, np.uint8)
    for byte in range(size):
        room[swizzled + byte] = bits.view(np.uint8).reshape(*matrix.shape, size)[..., byte]
    return room, (leading >> 4) << 16 | (stride >> 4) << 32 | MODES[span] << 62


COPY = """
mov.u32 %r1, room; mov.u32 %r2, %thread; shl.b32 %r2, %r2, 4;
FILL: setp.ge.u32 %p1, %r2, 32768; @%p1 bra FILLED;
cvt.u64.u32 %rd1, %r2; add.u64 %rd1, %base0, %rd1;
ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1]; add.u32 %r3, %r1, %r2;
st.shared.v4.b32 [%r3], {%r4, %r5, %r6, %r7};
add.u32 %r2, %r2, 2048; bra FILL;
FILLED: """


def _body(
    n: int, form: str, flags: str, left: str, descriptors: tuple[int, int], words: int, **parts: str
) -> str:
    """Fills shared memory with both images, multiplies twice (the second time onto the
    first), stores D.
    """
    registers = ", ".join(f"%acc{place}" for place in range(words))
    product = (
        f"{{.reg .pred p; setp.ne.b32 p, SCALE, 0; "
        f"wgmma.mma_async.sync.aligned.m64n{n}{form} {{{registers}}}, {left}, %rd3, "
        f"p{flags};}}"
    )
    stores = "".join(f"st.global.b32 [%at2+{4 * place}], %acc{place};" for place in range(words))
    return (
        f".reg .b32 %acc<{words}>;"
        + "".join(f"mov.b32 %acc{place}, 0x7fc00000;" for place in range(words))
        + parts.get("before", "")
        + COPY
        + parts.get("proxy", PROXY)
        + "bar.sync 0;"
        + (
            f"shr.u32 %r1, %r1, 4; cvt.u64.u32 %rd2, %r1; mov.u64 %rd4, {descriptors[0]}; or.b64 "
            f"%rd2, %rd2, %rd4;"
        )
        + (
            f"add.u32 %r1, %r1, 1024; cvt.u64.u32 %rd3, %r1; mov.u64 %rd4, {descriptors[1]}; "
            f"or.b64 %rd3, %rd3, %rd4;"
        )
        + "mad.wide.u32 %at2, %thread, "
        + f"{4 * words}, %base1;"
        + parts.get("fence", "wgmma.fence.sync.aligned;")
        + product.replace("SCALE", "0")
        + product.replace("SCALE", "1")
        + parts.get("finish", "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;")
        + stores
    )


def _rows_and_columns(words: int, each: int) -> tuple[Array, Array]:
    """The manual's table of D: row and column of the elements, by thread and number."""
    thread, number = np.arange(128)[:, None], np.arange(words * each)[None, :]
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (number // 2 % 2)
    return row, thread % 4 * 2 + number % 2 + 8 * (number // 4)


@pytest.mark.parametrize("spans", [(128, 128), (64, 128), (32, 64), (0, 0), (0, 32)], ids=str)
@pytest.mark.parametrize("transposed", ["", "A", "B", "AB"])
@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_layouts_of_16_bit_factors(name: str, transposed: str, spans: tuple[int, int]) -> None:
    _check_product(name, 64, 16, spans, ("A" in transposed, "B" in transposed), FOUR_SCHEDULES[0])


@each_schedule
@pytest.mark.parametrize("n", [8, 24, 128])
def test_products_of_several_widths(n: int, schedule: Schedule) -> None:
    _check_product("bf16", n, 16, (128, 128), (False, False), schedule)


@pytest.mark.parametrize("spans", [(128, 128), (64, 32), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ["tf32", "s8"])
def test_other_factors(name: str, spans: tuple[int, int]) -> None:
    _check_product(name, 32, 8 if name == "tf32" else 32, spans, (False, False), FOUR_SCHEDULES[1])


def _check_product(
    name: str,
    n: int,
    k: int,
    spans: tuple[int, int],
    transposed: tuple[bool, bool],
    schedule: Schedule,
) -> None:
    a, b = (RANDOM.integers(-8, 8, (extent, k)).astype(np.float64) for extent in (64, n))
    (a_room, a_bits), (b_room, b_bits) = (
        _image(matrix, name, span, not turn)
        for matrix, span, turn in zip((a, b), spans, transposed)
    )
    total = "s32" if name == "s8" else "f32"
    flags = "" if name == "s8" else ", 1, 1"
    if name in ("bf16", "f16"):
        flags += f", {int(transposed[0])}, {int(transposed[1])}"
    words = n // 2
    body = _body(n, f"k{k}.{total}.{name}.{name}", flags, "%rd2", (a_bits, b_bits), words)
    found = run(
        body,
        [np.concatenate([a_room, b_room])],
        np.zeros((128, words), np.uint32),
        128,
        schedule,
        ROOM,
    )
    values = found.view(np.int32 if total == "s32" else np.float32)
    assert (values == (2 * (a @ b.T))[_rows_and_columns(words, 1)]).all()


@each_schedule
@pytest.mark.parametrize("transposed", [False, True])
def test_a_left_factor_in_registers(transposed: bool, schedule: Schedule) -> None:
    a, b = (
        RANDOM.integers(-8, 8, (64, 16)).astype(np.float64),
        RANDOM.integers(-8, 8, (64, 16)).astype(np.float64),
    )
    b_room, b_bits = _image(b, "bf16", 128, not transposed)
    thread, number = np.arange(128)[:, None], np.arange(8)[None, :]
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (number // 2 % 2)
    column = thread % 4 * 2 + number % 2 + 8 * (number // 4)
    registers = to_bits(a[row, column], "bf16").view(np.uint8)
    load = (
        "mad.wide.u32 %at1, %thread, 16, %base0; ld.global.v4.b32 {%r40, %r41, %r42, %r43}, [%at1];"
    )
    room = np.zeros(16384, np.uint8)
    room[:2048] = registers.reshape(-1)
    body = _body(
        64,
        "k16.f32.bf16.bf16",
        f", 1, 1, {int(transposed)}",
        "{%r40, %r41, %r42, %r43}",
        (0, b_bits),
        32,
        before=load,
    )
    found = run(
        body, [np.concatenate([room, b_room])], np.zeros((128, 32), np.float32), 128, schedule, ROOM
    )
    assert (found == (2 * (a @ b.T))[_rows_and_columns(32, 1)]).all()


def test_sums_of_f16_and_signs() -> None:
    a, b = (RANDOM.integers(-4, 4, (extent, 16)).astype(np.float64) for extent in (64, 16))
    (a_room, a_bits), (b_room, b_bits) = (_image(one, "f16", 128, True) for one in (a, b))
    body = _body(16, "k16.f16.f16.f16", ", -1, 1, 0, 0", "%rd2", (a_bits, b_bits), 4)
    found = run(
        body, [np.concatenate([a_room, b_room])], np.zeros((128, 8), np.float16), 128, None, ROOM
    )
    assert (found == (-2 * (a @ b.T))[_rows_and_columns(4, 2)]).all()


def _faulty(schedule: Schedule, change: tuple[str, str] = ("", ""), **parts: str) -> None:
    a, b = RANDOM.standard_normal((64, 16)), RANDOM.standard_normal((16, 16))
    (a_room, a_bits), (b_room, b_bits) = (
        _image(one.astype(np.float32), "bf16", 128, True) for one in (a, b)
    )
    body = _body(16, "k16.f32.bf16.bf16", ", 1, 1, 0, 0", "%rd2", (a_bits, b_bits), 8, **parts)
    if change[0]:
        assert change[0] in body
    run(
        body.replace(*change) if change[0] else body,
        [np.concatenate([a_room, b_room])],
        np.zeros((128, 8), np.uint32),
        128,
        schedule,
        ROOM,
    )


@each_schedule
def test_misused_products_are_found(schedule: Schedule) -> None:
    _faulty(schedule)
    with pytest.raises(UnfinishedRead, match=r"before wgmma.wait_group"):
        _faulty(schedule, finish="wgmma.commit_group.sync.aligned;")
    with pytest.raises(UnfinishedRead, match=r"before wgmma.wait_group"):
        _faulty(
            schedule, finish="wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1;"
        )
    with pytest.raises(UnfinishedRead):
        _faulty(schedule, finish="wgmma.wait_group.sync.aligned 0;")
    with pytest.raises(UnfinishedRead, match=r"since the last wgmma\.fence"):
        _faulty(schedule, fence="")
    with pytest.raises(Race, match=r"without a fence\.proxy\.async"):
        _faulty(schedule, proxy="")
    with pytest.raises((Race, Uninitialised)):
        _faulty(schedule, change=("bar.sync 0;", ""))
    overwrite = (
        "wgmma.commit_group.sync.aligned; st.shared.b32 [room], %r4; "
        "wgmma.wait_group.sync.aligned 0;"
    )
    with pytest.raises(Race, match="not in order with a read by a wgmma"):
        _faulty(schedule, finish=overwrite)


def test_a_half_warpgroup_cannot_multiply() -> None:
    body = "setp.lt.u32 %p1, %thread, 64; @%p1 bra END; wgmma.fence.sync.aligned;\nEND: ret;"
    with pytest.raises(DivergentCollective, match="wait for the rest of their warp"):
        run(body, [], np.zeros(1, np.uint32), 128)
    with pytest.raises(DivergentCollective, match="four whole warps"):
        run("wgmma.fence.sync.aligned;", [], np.zeros(1, np.uint32), 96)
