"""cp.async.bulk: copies by the TMA engine, of plain bytes and of tensors' boxes, into and out of
shared memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bessemer.runtime.cuda.driver import Im2colMap, TiledMap
from emulator import tensor_maps
from emulator.access import cluster_blocks, cluster_offsets, locate
from emulator.arrays import Array
from emulator.async_state import BulkStores
from emulator.errors import Misaligned, UnsupportedInstruction
from emulator.machine import Lanes, Machine
from emulator.mbarriers import barrier_offsets
from emulator.operands import (
    Family,
    Reader,
    Step,
    address_reader,
    immediate_value,
    spread_reader,
    unsupported,
)
from emulator.space import CONSTANT_WINDOW, GLOBAL_BASE, PARAMETER_WINDOW, RANK_SHIFT
from emulator.syntax import Instruction, Operand, TensorBox, Tuple
from emulator.tensor_maps import BYTES, Box

OFFSET_BITS = (1 << RANK_SHIFT) - 1


def bulk(instruction: Instruction) -> Step:
    if instruction.has("commit_group"):
        return _commit
    if instruction.has("wait_group"):
        return _wait(immediate_value(instruction, 0), instruction.has("read"))
    if instruction.has("prefetch"):
        return lambda machine, lanes: None
    stores = instruction.has("bulk_group")
    if instruction.has("tensor"):
        return _store_tensor(instruction) if stores else _load_tensor(instruction)
    return _store_bytes(instruction) if stores else _load_bytes(instruction)


def _aligned(values: Array, alignment: int, what: str) -> None:
    if (values % alignment).any():
        wrong = int(values[values % alignment != 0][0])
        raise Misaligned(f"{what} {wrong:#x} is no multiple of {alignment}")


def _multicast(instruction: Instruction, first: int) -> Reader | None:
    """Reads the mask of the blocks that get the data, where the copy goes to several."""
    if not instruction.has("multicast::cluster"):
        return None
    return spread_reader(instruction.operands[first], "u16")


def _targets(
    machine: Machine, lanes: Lanes, place: int, address: int, mask: int | None
) -> list[tuple[int, int]]:
    """(block, offset in the machine's shared memory) of everywhere that one lane's copy goes."""
    own = machine.block[lanes.index[place : place + 1]]
    if mask is None:
        block = cluster_blocks(machine, own, np.array([address]))
        offset = cluster_offsets(
            machine, Lanes(lanes.index[place : place + 1]), np.array([address])
        )
        return [(int(block[0]), int(offset[0]))]
    size = machine.shape.cluster_blocks
    first = int(own[0]) // size * size
    if mask == 0 or mask >> size:
        raise UnsupportedInstruction(
            f"the mask {mask:#x} names blocks that a cluster of {size} has not"
        )
    stride = machine.shared.stride
    inside = address & OFFSET_BITS
    return [
        (first + rank, (first + rank) * stride + inside) for rank in range(size) if mask >> rank & 1
    ]


def _start_load(
    machine: Machine,
    warp: int,
    targets: list[tuple[int, int]],
    barrier: int,
    within: Array,
    fetch: Callable[[], Array],
) -> None:
    """Copies what `fetch` gives to each target, at the offsets `within`, and tells the targets'
    mbarriers.

    `barrier` is the mbarrier's offset in its own block: the other blocks have theirs at the same
    place.
    """
    for _, start in targets:
        machine.shared.check_allocated(start + within.reshape(-1), 1, 1, "a bulk copy")
    stride = machine.shared.stride
    several = len(targets) > 1 or targets[0][0] != barrier // stride
    barriers = [block * stride + barrier % stride if several else barrier for block, _ in targets]
    phases = [machine.mbarriers.launch(one) for one in barriers]
    if machine.races is not None:
        for (_, start), one, phase in zip(targets, barriers, phases):
            party = machine.races.parties.mbarrier(machine.mbarriers.find(one).slot)
            machine.races.start_write(warp, party, phase + 1, start + within)

    def land() -> None:
        content = fetch()
        for (_, start), one, phase in zip(targets, barriers, phases):
            machine.shared.store_bytes(start + within, content, "a bulk copy")
            machine.mbarriers.complete(one, within.size, phase)

    machine.start_flight("a bulk copy into shared memory", land)


def _load_bytes(instruction: Instruction) -> Step:
    """cp.async.bulk.shared::cluster.global: contiguous bytes. From shared::cta: into another
    block's memory.
    """
    target, source = (address_reader(one) for one in instruction.operands[:2])
    size = spread_reader(instruction.operands[2], "u32")
    barrier = barrier_offsets(instruction.operands[3], ("", "shared::cluster"))
    mask = _multicast(instruction, 4)
    from_shared = (
        instruction.opcode.index("shared::cta") > 3 if instruction.has("shared::cta") else False
    )

    def step(machine: Machine, lanes: Lanes) -> None:
        to, origin, sizes = target(machine, lanes), source(machine, lanes), size(machine, lanes)
        _aligned(to, 16, "the target of a bulk copy")
        _aligned(origin, 16, "the source of a bulk copy")
        _aligned(sizes, 16, "the size of a bulk copy")
        barriers = barrier(machine, lanes)
        masks = mask(machine, lanes) if mask else None
        memory, offsets = locate(machine, lanes, "shared" if from_shared else "global", origin)
        for place in range(lanes.count):
            within = np.arange(int(sizes[place]))
            one = None if masks is None else int(masks[place])
            targets = _targets(machine, lanes, place, int(to[place]), one)

            def fetch(start: int = int(offsets[place]), within: Array = within) -> Array:
                return memory.load_bytes(start + within, "a bulk copy")

            warp = int(lanes.index[place]) // 32
            _start_load(machine, warp, targets, int(barriers[place]), within, fetch)

    return step


def _read_map(machine: Machine, address: int) -> TiledMap | Im2colMap:
    """The tensor map at a generic address: in the kernel's parameters or in global memory."""
    if address % 64:
        raise Misaligned(f"a tensor map at {address:#x}, which is no multiple of 64")
    if PARAMETER_WINDOW <= address < PARAMETER_WINDOW + (1 << 32):
        memory, start = machine.parameters, address - PARAMETER_WINDOW
        return tensor_maps.decode(
            memory.load_bytes(start + np.arange(BYTES), "a tensor map").tobytes()
        )
    if CONSTANT_WINDOW <= address < CONSTANT_WINDOW + (1 << 32):
        raise UnsupportedInstruction("a tensor map in the constant window")
    start = address - GLOBAL_BASE
    return tensor_maps.decode(
        machine.memory.load_bytes(start + np.arange(BYTES), "a tensor map").tobytes()
    )


class _TensorOperands:
    """Readers of [map, {coordinates}] and of the im2col offsets behind."""

    def __init__(self, box: Operand, offsets: Operand | None) -> None:
        if not isinstance(box, TensorBox):
            raise UnsupportedInstruction(f"{box} is no [map, coordinates]")
        self._map = address_reader(box.map)
        self._coordinates = [spread_reader(one, "s32") for one in box.coordinates]
        taps = offsets.parts if isinstance(offsets, Tuple) else ()
        self._offsets = [spread_reader(one, "u16") for one in taps]

    def boxes(self, machine: Machine, lanes: Lanes) -> list[Box]:
        """Every lane's box."""
        maps = self._map(machine, lanes)
        coordinates = np.stack([read(machine, lanes) for read in self._coordinates], 1)
        taps = [read(machine, lanes) for read in self._offsets]
        result = []
        for place in range(lanes.count):
            tensor = _read_map(machine, int(maps[place]))
            start = coordinates[place].tolist()
            if len(start) != len(tensor.sizes):
                raise UnsupportedInstruction(
                    f"{len(start)} coordinates for rank {len(tensor.sizes)}"
                )
            if isinstance(tensor, TiledMap):
                result.append(tensor_maps.tile(tensor, start))
            else:
                result.append(tensor_maps.im2col(tensor, start, [int(one[place]) for one in taps]))
        return result


def _box_offsets(box: Box, address: int) -> Array:
    """Offsets from `address` in shared memory of the box's bytes, in its order, swizzled."""
    linear = address + np.arange(box.bytes, dtype=np.int64)
    moved: Array = tensor_maps.swizzle(linear, box.swizzle) - address
    return moved


def _box_bytes(box: Box) -> Array:
    """Offsets in global memory of the bytes of the box's elements, one row an element."""
    flat = box.addresses.reshape(-1, 1) - GLOBAL_BASE
    result: Array = flat + np.arange(box.element_bytes)
    return result


def _load_tensor(instruction: Instruction) -> Step:
    is_im2col = instruction.has("im2col")
    target = address_reader(instruction.operands[0])
    offsets = instruction.operands[3] if is_im2col else None
    source = _TensorOperands(instruction.operands[1], offsets)
    barrier = barrier_offsets(instruction.operands[2], ("", "shared::cluster"))
    mask = _multicast(instruction, 4 if is_im2col else 3)

    def step(machine: Machine, lanes: Lanes) -> None:
        to = target(machine, lanes)
        _aligned(to & OFFSET_BITS, 128, "the target of a tensor copy")
        barriers, masks = barrier(machine, lanes), mask(machine, lanes) if mask else None
        for place, box in enumerate(source.boxes(machine, lanes)):
            one = None if masks is None else int(masks[place])
            targets = _targets(machine, lanes, place, int(to[place]), one)
            within = _box_offsets(box, int(to[place]) & OFFSET_BITS)

            def fetch(box: Box = box) -> Array:
                content = np.zeros((box.addresses.size, box.element_bytes), np.uint8)
                there = box.inside.reshape(-1)
                found = machine.memory.load_bytes(_box_bytes(box)[there], "a tensor copy")
                content[there] = found
                return content

            warp = int(lanes.index[place]) // 32
            _start_load(machine, warp, targets, int(barriers[place]), within, fetch)

    return step


def _start_store(
    machine: Machine, thread: int, offsets: Array, put: Callable[[Array], None]
) -> None:
    """A store reads shared memory at some time before its group's wait_group.read, and then does
    `put`.
    """
    warp = thread // 32
    stores = machine.bulk_stores.setdefault(thread, BulkStores())
    machine.stores_issued[warp] = machine.stores_issued.get(warp, 0) + 1
    number = machine.stores_issued[warp]
    if machine.races is not None:
        party = int(machine.races.parties.store(warp))
        machine.races.start_read(warp, party, number, offsets)
    finished = [False]

    def perform() -> None:
        if not finished[0]:
            finished[0] = True
            put(machine.shared.load_bytes(offsets, "a bulk store"))

    stores.unread = True
    stores.open.append(perform)
    when = machine.schedule.async_
    if when == "early" or (when == "mixed" and machine.random.random() < 0.5):
        perform()


def _commit(machine: Machine, lanes: Lanes) -> None:
    for thread in lanes.index.tolist():
        stores = machine.bulk_stores.setdefault(thread, BulkStores())
        stores.groups.append((machine.stores_issued.get(thread // 32, 0), stores.open))
        stores.open = []


def _wait(left: int, only_read: bool) -> Step:
    """Until at most `left` groups are under way (still read shared memory, if `only_read`)."""

    def step(machine: Machine, lanes: Lanes) -> None:
        for thread in lanes.index.tolist():
            stores = machine.bulk_stores.setdefault(thread, BulkStores())
            over = stores.groups[: max(0, len(stores.groups) - left)]
            for _, actions in over:
                for perform in actions:
                    perform()
            # Waited-for groups may be waited for again: only the newest `left` stay to be waited
            # for.
            stores.groups = stores.groups[len(over) :]
            stores.unread = bool(stores.open) or any(actions for _, actions in stores.groups)
            if over and machine.races is not None:
                warp = np.array([thread // 32])
                machine.races.learn(warp, machine.races.parties.store(warp), over[-1][0])

    return step


def _store_bytes(instruction: Instruction) -> Step:
    target, source = (address_reader(one) for one in instruction.operands[:2])
    size = spread_reader(instruction.operands[2], "u32")
    reduces = instruction.opcode[1] == "reduce"
    add = _reduction(instruction, instruction.type) if reduces else None

    def step(machine: Machine, lanes: Lanes) -> None:
        to, origin, sizes = target(machine, lanes), source(machine, lanes), size(machine, lanes)
        for values, what in ((to, "target"), (origin, "source"), (sizes, "size")):
            _aligned(values, 16, f"the {what} of a bulk store")
        _, offsets = locate(machine, lanes, "shared", origin)
        for place, thread in enumerate(lanes.index.tolist()):
            within = np.arange(int(sizes[place]))

            def put(
                content: Array, start: int = int(to[place]) - GLOBAL_BASE, within: Array = within
            ) -> None:
                if add is not None:
                    before = machine.memory.load_bytes(start + within, "a bulk reduction")
                    content = add(before, content)
                machine.memory.store_bytes(start + within, content, "a bulk store")

            _start_store(machine, thread, int(offsets[place]) + within, put)

    return step


def _store_tensor(instruction: Instruction) -> Step:
    target = _TensorOperands(instruction.operands[0], None)
    source = address_reader(instruction.operands[1])
    reduces = instruction.opcode[1] == "reduce"

    def step(machine: Machine, lanes: Lanes) -> None:
        origin = source(machine, lanes)
        _aligned(origin, 128, "the source of a tensor store")
        _, offsets = locate(machine, lanes, "shared", origin)
        for place, box in enumerate(target.boxes(machine, lanes)):
            if reduces:
                raise unsupported(instruction)
            within = _box_offsets(box, int(origin[place]))

            def put(content: Array, box: Box = box) -> None:
                there = box.inside.reshape(-1)
                rows = content.reshape(-1, box.element_bytes)
                machine.memory.store_bytes(_box_bytes(box)[there], rows[there], "a tensor store")

            _start_store(machine, int(lanes.index[place]), int(offsets[place]) + within, put)

    return step


def _reduction(instruction: Instruction, name: str) -> Callable[[Array, Array], Array]:
    dtype = {"f32": np.float32, "f64": np.float64, "u32": np.uint32, "s32": np.int32}.get(name)
    if dtype is None or not instruction.has("add"):
        raise unsupported(instruction)

    def add(before: Array, content: Array) -> Array:
        total: Array = (before.view(dtype) + content.view(dtype)).view(np.uint8)
        return total

    return add


FAMILY: Family = {}
