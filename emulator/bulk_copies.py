"""cp.async.bulk: copies by the TMA engine, of plain bytes and of tensors' boxes, into
shared memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.access import cluster_blocks, cluster_offsets, locate
from emulator.arrays import Array
from emulator.bulk_stores import commit_stores, store_bytes, store_tensor, wait_for_stores
from emulator.errors import UnsupportedInstruction
from emulator.machine import Lanes, Machine
from emulator.mbarriers import barrier_offsets
from emulator.operands import (
    Family,
    Reader,
    Step,
    address_reader,
    immediate_value,
    spread_reader,
)
from emulator.space import RANK_SHIFT
from emulator.syntax import Instruction
from emulator.tensor_boxes import TensorOperands, box_bytes, box_offsets, check_aligned
from emulator.tensor_maps import Box

OFFSET_BITS = (1 << RANK_SHIFT) - 1


def bulk(instruction: Instruction) -> Step:
    if instruction.has("commit_group"):
        return commit_stores
    if instruction.has("wait_group"):
        return wait_for_stores(immediate_value(instruction, 0), instruction.has("read"))
    if instruction.has("prefetch"):
        return lambda machine, lanes: None
    stores = instruction.has("bulk_group")
    if instruction.has("tensor"):
        return store_tensor(instruction) if stores else _load_tensor(instruction)
    return store_bytes(instruction) if stores else _load_bytes(instruction)


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
    phases = [machine.mbarriers.launch(one, warp) for one in barriers]
    if machine.races is not None:
        for (_, start), one, phase in zip(targets, barriers, phases):
            party = machine.races.parties.mbarrier(machine.mbarriers.find(one).slot)
            machine.races.start_write(
                warp, party, phase + 1, start + within[:: machine.races.granule]
            )

    def land() -> None:
        content = fetch()
        for (_, start), one, phase in zip(targets, barriers, phases):
            machine.shared.store_bytes(start + within, content, "a bulk copy")
            machine.mbarriers.complete(one, within.size, phase)

    machine.start_flight("a bulk copy into shared memory", land)


def _load_bytes(instruction: Instruction) -> Step:
    """cp.async.bulk.shared::cluster.global: contiguous bytes. From shared::cta: into
    another block's memory.
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
        check_aligned(to, 16, "the target of a bulk copy")
        check_aligned(origin, 16, "the source of a bulk copy")
        check_aligned(sizes, 16, "the size of a bulk copy")
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


def _load_tensor(instruction: Instruction) -> Step:
    is_im2col = instruction.has("im2col")
    target = address_reader(instruction.operands[0])
    offsets = instruction.operands[3] if is_im2col else None
    source = TensorOperands(instruction.operands[1], offsets)
    barrier = barrier_offsets(instruction.operands[2], ("", "shared::cluster"))
    mask = _multicast(instruction, 4 if is_im2col else 3)

    def step(machine: Machine, lanes: Lanes) -> None:
        to = target(machine, lanes)
        check_aligned(to & OFFSET_BITS, 128, "the target of a tensor copy")
        barriers, masks = barrier(machine, lanes), mask(machine, lanes) if mask else None
        for place, box in enumerate(source.boxes(machine, lanes)):
            one = None if masks is None else int(masks[place])
            targets = _targets(machine, lanes, place, int(to[place]), one)
            within = box_offsets(box, int(to[place]) & OFFSET_BITS)

            def fetch(box: Box = box) -> Array:
                content = np.zeros((box.addresses.size, box.element_bytes), np.uint8)
                there = box.inside.reshape(-1)
                found = machine.memory.load_bytes(box_bytes(box)[there], "a tensor copy")
                content[there] = found
                return content

            warp = int(lanes.index[place]) // 32
            _start_load(machine, warp, targets, int(barriers[place]), within, fetch)

    return step


FAMILY: Family = {}
