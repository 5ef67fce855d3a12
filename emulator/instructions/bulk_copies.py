"""cp.async.bulk: copies by the TMA engine, of plain bytes and of tensors' boxes, into
shared memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.instructions.access import locate
from emulator.instructions.bulk_stores import (
    commit_stores,
    store_bytes,
    store_tensor,
    wait_for_stores,
)
from emulator.instructions.mbarriers import barrier_offsets
from emulator.instructions.operands import (
    Family,
    Step,
    address_reader,
    immediate_value,
    spread_reader,
    unsupported,
)
from emulator.instructions.tensor_boxes import TensorOperands, box_bytes, box_offsets, check_aligned
from emulator.instructions.tensor_maps import Box
from emulator.language.syntax import Instruction
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine


def bulk(instruction: Instruction) -> Step:
    if instruction.has("commit_group"):
        return commit_stores
    if instruction.has("wait_group"):
        return wait_for_stores(immediate_value(instruction, 0), instruction.has("read"))
    if instruction.has("multicast::cluster"):
        raise unsupported(instruction)
    if instruction.has("prefetch"):
        return lambda machine, lanes: None
    stores = instruction.has("bulk_group")
    if instruction.has("tensor"):
        return store_tensor(instruction) if stores else _load_tensor(instruction)
    return store_bytes(instruction) if stores else _load_bytes(instruction)


def _start_load(
    machine: Machine,
    warp: int,
    places: Array,
    barrier: int,
    fetch: Callable[[], Array],
) -> None:
    """Copies what `fetch` gives to some places in the machine's shared memory, and tells the
    mbarrier at such an offset.
    """
    machine.shared.check_allocated(places.reshape(-1), 1, 1, "a bulk copy")
    phase = machine.mbarriers.launch(barrier, warp)
    if machine.races is not None:
        party = machine.races.parties.mbarrier(machine.mbarriers.find(barrier).slot)
        machine.races.start_write(warp, party, phase + 1, places[:: machine.races.granule])

    def land() -> None:
        machine.shared.store_bytes(places, fetch(), "a bulk copy")
        machine.mbarriers.complete(barrier, places.size, phase)

    machine.start_flight("a bulk copy into shared memory", land)


def _load_bytes(instruction: Instruction) -> Step:
    """cp.async.bulk.shared::cluster.global: contiguous bytes."""
    if instruction.opcode[4] == "shared::cta":  # into another block's memory
        raise unsupported(instruction)
    target, source = (address_reader(one) for one in instruction.operands[:2])
    size = spread_reader(instruction.operands[2], "u32")
    barrier = barrier_offsets(instruction.operands[3], ("", "shared::cluster"))

    def step(machine: Machine, lanes: Lanes) -> None:
        to, origin, sizes = target(machine, lanes), source(machine, lanes), size(machine, lanes)
        check_aligned(to, 16, "the target of a bulk copy")
        check_aligned(origin, 16, "the source of a bulk copy")
        check_aligned(sizes, 16, "the size of a bulk copy")
        barriers = barrier(machine, lanes)
        memory, offsets = locate(machine, lanes, "global", origin)
        _, starts = locate(machine, lanes, "shared", to)
        for place in range(lanes.count):
            within = np.arange(int(sizes[place]))

            def fetch(start: int = int(offsets[place]), within: Array = within) -> Array:
                return memory.load_bytes(start + within, "a bulk copy")

            warp = int(lanes.index[place]) // 32
            _start_load(machine, warp, int(starts[place]) + within, int(barriers[place]), fetch)

    return step


def _load_tensor(instruction: Instruction) -> Step:
    is_im2col = instruction.has("im2col")
    target = address_reader(instruction.operands[0])
    offsets = instruction.operands[3] if is_im2col else None
    source = TensorOperands(instruction.operands[1], offsets)
    barrier = barrier_offsets(instruction.operands[2], ("", "shared::cluster"))

    def step(machine: Machine, lanes: Lanes) -> None:
        to = target(machine, lanes)
        check_aligned(to, 128, "the target of a tensor copy")
        barriers, (_, starts) = barrier(machine, lanes), locate(machine, lanes, "shared", to)
        for place, box in enumerate(source.boxes(machine, lanes)):
            within = box_offsets(box, int(to[place]))

            def fetch(box: Box = box) -> Array:
                content = np.zeros((box.addresses.size, box.element_bytes), np.uint8)
                there = box.inside.reshape(-1)
                found = machine.memory.load_bytes(box_bytes(box)[there], "a tensor copy")
                content[there] = found
                return content

            warp = int(lanes.index[place]) // 32
            _start_load(machine, warp, int(starts[place]) + within, int(barriers[place]), fetch)

    return step


FAMILY: Family = {}
