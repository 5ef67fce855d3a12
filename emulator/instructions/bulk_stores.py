"""Bulk stores: the TMA engine copies shared memory out, as plain bytes or as a tensor's box."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.instructions.access import locate
from emulator.instructions.operands import Step, address_reader, spread_reader, unsupported
from emulator.instructions.tensor_boxes import TensorOperands, box_bytes, box_offsets, check_aligned
from emulator.instructions.tensor_maps import Box
from emulator.language.space import GLOBAL_BASE
from emulator.language.syntax import Instruction
from emulator.state.arrays import Array
from emulator.state.async_state import BulkStore, BulkStores
from emulator.state.machine import Lanes, Machine


def _start_store(
    machine: Machine, thread: int, offsets: Array, put: Callable[[Array], None]
) -> None:
    """A store reads shared memory before its group's wait_group.read, and writes before
    wait_group.
    """
    warp = thread // 32
    machine.stores_issued[warp] = machine.stores_issued.get(warp, 0) + 1
    if machine.races is not None:
        party, number = int(machine.races.parties.store(warp)), machine.stores_issued[warp]
        machine.races.start_read(warp, party, number, offsets[:: machine.races.granule])
    store = BulkStore(lambda: machine.shared.load_bytes(offsets, "a bulk store"), put)
    machine.bulk_stores.setdefault(thread, BulkStores()).open.append(store)
    when = machine.schedule.async_
    if when == "early" or (when == "mixed" and machine.random.random() < 0.5):
        store.write()


def commit_stores(machine: Machine, lanes: Lanes) -> None:
    for thread in lanes.index.tolist():
        stores = machine.bulk_stores.setdefault(thread, BulkStores())
        stores.groups.append((machine.stores_issued.get(thread // 32, 0), stores.open))
        stores.open = []


def wait_for_stores(left: int, only_read: bool) -> Step:
    """Until at most `left` groups are under way (still read shared memory, if `only_read`)."""

    def step(machine: Machine, lanes: Lanes) -> None:
        for thread in lanes.index.tolist():
            stores = machine.bulk_stores.setdefault(thread, BulkStores())
            over = stores.groups[: max(0, len(stores.groups) - left)]
            stores.groups = stores.groups[len(over) :]
            for _, group in over:
                for store in group:
                    store.read()
                stores.unwritten.append(group)
            if not only_read:
                _write_all_but(stores, max(0, left - len(stores.groups)))
            if over and machine.races is not None:
                warp = np.array([thread // 32])
                machine.races.learn(warp, machine.races.parties.store(warp), over[-1][0])

    return step


def _write_all_but(stores: BulkStores, left: int) -> None:
    while len(stores.unwritten) > left:
        for store in stores.unwritten.pop(0):
            store.write()


def store_bytes(instruction: Instruction) -> Step:
    target, source = (address_reader(one) for one in instruction.operands[:2])
    size = spread_reader(instruction.operands[2], "u32")
    reduces = instruction.opcode[1] == "reduce"
    add = _reduction(instruction, instruction.type) if reduces else None

    def step(machine: Machine, lanes: Lanes) -> None:
        to, origin, sizes = target(machine, lanes), source(machine, lanes), size(machine, lanes)
        for values, what in ((to, "target"), (origin, "source"), (sizes, "size")):
            check_aligned(values, 16, f"the {what} of a bulk store")
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


def store_tensor(instruction: Instruction) -> Step:
    target = TensorOperands(instruction.operands[0], None)
    source = address_reader(instruction.operands[1])
    reduces = instruction.opcode[1] == "reduce"

    def step(machine: Machine, lanes: Lanes) -> None:
        origin = source(machine, lanes)
        check_aligned(origin, 128, "the source of a tensor store")
        _, offsets = locate(machine, lanes, "shared", origin)
        for place, box in enumerate(target.boxes(machine, lanes)):
            if reduces:
                raise unsupported(instruction)
            within = box_offsets(box, int(origin[place]))

            def put(content: Array, box: Box = box) -> None:
                there = box.inside.reshape(-1)
                rows = content.reshape(-1, box.element_bytes)
                machine.memory.store_bytes(box_bytes(box)[there], rows[there], "a tensor store")

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
