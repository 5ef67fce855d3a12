"""TMA: tensor maps, tile and im2col loads, stores, swizzles, against loops over single elements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bessemer.runtime.cuda.driver import Element, Im2colMap, Swizzle, TiledMap
from emulator.errors import (
    BadTensorMap,
    Misaligned,
    OutOfBounds,
    TransactionMismatch,
    Uninitialised,
)
from emulator.instructions.tensor_maps import encode_im2col, encode_tiled
from emulator.schedule import FOUR_SCHEDULES, Schedule
from tests.emulator.emulated import HEAD, REGISTERS, Array, Device
from tests.emulator.test_emulator_async import FENCE, PROXY

each_schedule = pytest.mark.parametrize("schedule", FOUR_SCHEDULES, ids=str)

KERNEL = (
    HEAD
    + """.shared .align 1024 .b8 room[16384];
.shared .align 8 .b64 full;
.visible .entry k(.param .align 128 .b8 map[128], .param .u64 out) {
"""
    + REGISTERS
    + """
mov.u32 %thread, %tid.x; ld.param.u64 %base0, [out];
mov.b64 %rd10, map; cvta.param.u64 %rd10, %rd10;
setp.eq.u32 %p9, %thread, 0; @!%p9 bra READY;
mbarrier.init.shared.b64 [full], 1;
"""
    + FENCE
    + """
mbarrier.arrive.expect_tx.shared.b64 _, [full], BYTES;
LOAD
READY: bar.sync 0;
W: mbarrier.try_wait.parity.shared.b64 %p1, [full], 0; @!%p1 bra W;
mov.u32 %r1, room; shl.b32 %r2, %thread, 2;
COPY: setp.ge.u32 %p2, %r2, BYTES; @%p2 bra DONE;
add.u32 %r3, %r1, %r2; ld.shared.b32 %r4, [%r3]; cvt.u64.u32 %rd1, %r2; add.u64 %rd1, %base0, %rd1;
st.global.b32 [%rd1], %r4; add.u32 %r2, %r2, 128; bra COPY;
DONE: ret;
}
"""
)


def _load(
    tensor: Array, box: TiledMap | Im2colMap, instruction: str, size: int, schedule: Schedule
) -> Array:
    """The bytes that a load leaves in shared memory, in the order of addresses. `box`
    without its address.
    """
    device = Device(KERNEL.replace("LOAD", instruction).replace("BYTES", str(size)), schedule)
    address = device.put(tensor)
    if isinstance(box, TiledMap):
        content = encode_tiled(TiledMap(address, *_rest(box)))
    else:
        content = encode_im2col(Im2colMap(address, *_rest(box)))
    out = device.put(np.zeros(size, np.uint8))
    device.launch([content, out])
    return device.get(out, np.zeros(size, np.uint8))


def _rest(box: TiledMap | Im2colMap) -> tuple:  # type: ignore[type-arg]
    return tuple(vars(box).values())[1:]


def _swizzled(offset: int, span: int) -> int:
    """Where byte `offset` goes: bits 4.. are exchanged by the number of the 128-byte line, as far
    as the span goes.
    """
    line = offset // 128
    parts = {0: 1, 32: 2, 64: 4, 128: 8}[span]
    return offset ^ (line % 8 % parts if span == 128 else (line % parts)) * 16


SPANS = {Swizzle.NONE: 0, Swizzle.BYTES_32: 32, Swizzle.BYTES_64: 64, Swizzle.BYTES_128: 128}


@each_schedule
@pytest.mark.parametrize("swizzle", SPANS)
@pytest.mark.parametrize("start", [(0, 0), (16, 5), (-4, -3), (40, 17)])
def test_tiles_with_what_lies_outside_as_zeros(
    start: tuple[int, int], swizzle: Swizzle, schedule: Schedule
) -> None:
    tensor = np.random.default_rng(1).integers(1, 1 << 16, (20, 72)).astype(np.uint16)
    columns = (SPANS[swizzle] or 48) // 2
    box = TiledMap(0, Element.BF16, (60, 20), (144,), (columns, 9), (1, 1), swizzle)
    instruction = (
        f"mov.u32 %r1, {start[0]}; mov.u32 %r2, {start[1]};"
        "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes [room], "
        "[%rd10, {%r1, %r2}], [full];"
    )
    size = columns * 9 * 2
    found = _load(tensor, box, instruction, size, schedule)
    for row, column in itertools.product(range(9), range(columns)):
        x, y = column + start[0], row + start[1]
        expected = int(tensor[y, x]) if 0 <= x < 60 and 0 <= y < 20 else 0
        place = _swizzled(row * columns * 2 + column * 2, SPANS[swizzle])
        if place + 1 < size:
            assert int(found[place]) | int(found[place + 1]) << 8 == expected


@pytest.mark.parametrize("rank", [1, 3, 4, 5])
def test_tiles_of_every_rank(rank: int) -> None:
    sizes = (8, 3, 4, 2, 3)[:rank]
    tensor = np.random.default_rng(2).standard_normal(sizes[::-1]).astype(np.float32)
    strides = tuple(np.cumprod([4, *sizes])[1:-1].tolist())
    counts = (8, 2, 3, 1, 2)[:rank]
    start = (0, 1, 2, 1, -1)[:rank]
    box = TiledMap(0, Element.F32, sizes, strides, counts, (1,) * rank)
    names = ", ".join(f"%r{place}" for place in range(rank))
    moves = "".join(f"mov.u32 %r{place}, {value};" for place, value in enumerate(start))
    instruction = (
        moves
        + f"cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        + f" [room], [%rd10, {{{names}}}], [full];"
    )
    size = 4 * int(np.prod(counts))
    found = _load(tensor, box, instruction, size, Schedule()).view(np.float32).reshape(counts[::-1])
    for place in np.ndindex(found.shape):
        where = tuple(p + s for p, s in zip(place, start[::-1]))
        inside = all(0 <= w < n for w, n in zip(where, sizes[::-1]))
        assert found[place] == (tensor[where] if inside else 0)


def test_steps_leave_elements_out() -> None:
    tensor = np.arange(20 * 16, dtype=np.float32).reshape(20, 16)
    box = TiledMap(0, Element.F32, (16, 20), (64,), (8, 9), (1, 2))
    instruction = (
        "mov.u32 %r1, 4; mov.u32 %r2, 1;"
        "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes [room], "
        "[%rd10, {%r1, %r2}], [full];"
    )
    found = _load(tensor, box, instruction, 8 * 5 * 4, Schedule()).view(np.float32).reshape(5, 8)
    assert (found == tensor[1:10:2, 4:12]).all()


CONVOLUTIONS = {
    "3x3": ((2, 7, 9, 64), 3, 1, 1),
    "3x3 stride 2": ((2, 8, 9, 64), 3, 2, 1),
    "1x1 stride 2": ((3, 6, 5, 64), 1, 2, 0),
    "5x5": ((1, 6, 7, 64), 5, 1, 2),
}


@pytest.mark.parametrize("tap", [(0, 0), (1, 2), (2, 0)])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_im2col_walks_as_a_convolution_does(case: str, tap: tuple[int, int]) -> None:
    """Row i of the box is what tap (s, r) of the filter sees at output pixel first + i."""
    (images, height, width, channels), kernel_size, stride, padding = CONVOLUTIONS[case]
    s, r = (min(one, kernel_size - 1) for one in tap)
    tensor = (
        np.random.default_rng(3)
        .integers(1, 1 << 16, (images, height, width, channels))
        .astype(np.uint16)
    )
    rows = (height + 2 * padding - kernel_size) // stride + 1
    columns = (width + 2 * padding - kernel_size) // stride + 1
    pixels, first = 24, 5
    upper = padding - kernel_size + 1
    box = Im2colMap(
        0,
        Element.BF16,
        (channels, width, height, images),
        (2 * channels, 2 * channels * width, 2 * channels * width * height),
        (-padding, -padding),
        (upper, upper),
        64,
        pixels,
        (1, stride, stride, 1),
        Swizzle.BYTES_128,
    )
    image, rest = divmod(first, rows * columns)
    q, p = rest % columns, rest // columns
    start = (0, q * stride - padding, p * stride - padding, image)
    moves = "".join(f"mov.u32 %r{place}, {value};" for place, value in enumerate(start))
    instruction = moves + (
        f"mov.u16 %rs1, {s}; mov.u16 %rs2, {r};"
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
        "[room], [%rd10, {%r0, %r1, %r2, %r3}], [full], {%rs1, %rs2};"
    )
    for schedule in FOUR_SCHEDULES[:2]:
        found = _load(tensor, box, instruction, pixels * 128, schedule)
        for pixel in range(pixels):
            image, rest = divmod(first + pixel, rows * columns)
            y = rest // columns * stride - padding + r
            x = rest % columns * stride - padding + s
            inside = image < images and 0 <= y < height and 0 <= x < width
            line = b"".join(
                found[_swizzled(pixel * 128 + part * 16, 128) :][:16].tobytes() for part in range(8)
            )
            expected = tensor[image, y, x] if inside else np.zeros(64, np.uint16)
            assert (np.frombuffer(line, np.uint16) == expected).all()


STORE = (
    HEAD
    + """.shared .align 1024 .b8 room[2048];
.visible .entry k(.param .align 128 .b8 map[128], .param .u64 in) {
"""
    + REGISTERS
    + """
mov.u32 %thread, %tid.x; ld.param.u64 %base0, [in]; mov.b64 %rd10, map; cvta.param.u64 %rd10, %rd10;
mad.wide.u32 %at0, %thread, 16, %base0; ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%at0];
mov.u32 %r5, room;
mad.lo.u32 %r5, %thread, 16, %r5; st.shared.v4.b32 [%r5], {%r1, %r2, %r3, %r4};
"""
    + PROXY
    + """ bar.sync 0;
setp.eq.u32 %p1, %thread, 0; @!%p1 bra DONE; mov.u32 %r6, 4; mov.u32 %r7, 15;
cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd10, {%r6, %r7}], [room];
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
DONE: ret; }
"""
)


@each_schedule
def test_stores_leave_alone_what_lies_outside(schedule: Schedule) -> None:
    device = Device(STORE, schedule)
    tensor = device.put(np.zeros((20, 32), np.float32))
    content = np.arange(256, dtype=np.float32).reshape(8, 32) + 1
    tiled = TiledMap(tensor, Element.F32, (30, 20), (128,), (32, 8), (1, 1), Swizzle.BYTES_128)
    device.launch([encode_tiled(tiled), device.put(content)], threads=64)
    found = device.get(tensor, np.zeros((20, 32), np.float32))
    expected = np.zeros((20, 32), np.float32)
    straight = np.array(
        [
            [
                content.reshape(-1)[_swizzled(128 * row + 4 * column, 128) // 4]
                for column in range(32)
            ]
            for row in range(8)
        ]
    )
    expected[15:20, 4:30] = straight[:5, :26]
    assert (found == expected).all()


def test_faults_of_tensor_copies() -> None:
    tensor = np.ones((20, 64), np.uint16)
    good = TiledMap(0, Element.BF16, (64, 20), (128,), (64, 8), (1, 1), Swizzle.BYTES_128)
    load = (
        "mov.u32 %r1, 0; "
        "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes "
        "[room], [%rd10, {%r1, %r1}], [full];"
    )
    _load(tensor, good, load, 1024, Schedule())
    with pytest.raises(Misaligned, match="not a multiple of 128"):
        _load(tensor, good, load.replace("[room]", "[room+64]"), 1024, Schedule())
    with pytest.raises(TransactionMismatch):
        _load(tensor, good, load, 2048, Schedule())
    with pytest.raises(OutOfBounds):
        _load(tensor[:4], good, load, 1024, Schedule())
    device = Device(KERNEL.replace("LOAD", load).replace("BYTES", "1024"))
    address = device.driver.allocate(20 * 128)
    with pytest.raises(Uninitialised):
        device.launch([encode_tiled(TiledMap(address, *_rest(good))), address])
    with pytest.raises(BadTensorMap, match="not a tensor map"):
        device.launch([bytes(128), address])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"address": 8}, "multiple of 16"),
        ({"strides": (136,)}, "strides"),
        ({"box": (257, 2)}, "box"),
        ({"box": (60, 8)}, "row of 120 bytes"),
        ({"box": (128, 8)}, "longer than the swizzle"),
        ({"steps": (1, 9)}, "steps"),
        ({"sizes": (0, 4)}, "sizes"),
        ({"strides": ()}, "strides for rank"),
    ],
)
def test_maps_that_the_driver_would_refuse(change: dict[str, object], message: str) -> None:
    good = {
        "address": 256,
        "element": Element.BF16,
        "sizes": (64, 20),
        "strides": (128,),
        "box": (64, 8),
        "steps": (1, 1),
        "swizzle": Swizzle.BYTES_128,
    }
    encode_tiled(TiledMap(**good))  # type: ignore[arg-type]
    with pytest.raises(BadTensorMap, match=message):
        encode_tiled(TiledMap(**(good | change)))  # type: ignore[arg-type]
