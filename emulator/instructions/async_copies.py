"""cp.async: copies of 4, 8 or 16 bytes from global to shared memory, in groups that
each thread commits.
"""

from __future__ import annotations

import numpy as np

from emulator.instructions.access import load, locate, space_of
from emulator.instructions.bulk_copies import bulk
from emulator.instructions.mbarriers import barrier_offsets
from emulator.instructions.operands import (
    Family,
    Step,
    address_reader,
    immediate_value,
    spread_reader,
    unsupported,
)
from emulator.language.syntax import Address, Instruction
from emulator.state.arrays import Array
from emulator.state.async_state import CopyBatch
from emulator.state.machine import Lanes, Machine


def _copy(instruction: Instruction) -> Step:
    match instruction.opcode[1:3]:
        case ("async", "bulk") | ("reduce", "async"):
            return bulk(instruction)
        case ("async", "commit_group"):
            return _commit
        case ("async", "wait_group"):
            return _wait(immediate_value(instruction, 0))
        case ("async", "wait_all"):
            return _wait(-1)
        case ("async", "mbarrier"):
            return _arrive(instruction)
        case ("async", "ca" | "cg"):
            return _start(instruction)
    raise unsupported(instruction)


def _start(instruction: Instruction) -> Step:
    """With a third number, only so many bytes are read and the rest are zeros."""
    size = immediate_value(instruction, 2)
    if size not in (4, 8, 16) or not isinstance(instruction.operands[0], Address):
        raise unsupported(instruction)
    target, source = (address_reader(one) for one in instruction.operands[:2])
    has_size = len(instruction.operands) > 3 and not instruction.has("L2::cache_hint")
    source_size = spread_reader(instruction.operands[3], "u32") if has_size else None
    space = space_of(instruction.opcode)

    def step(machine: Machine, lanes: Lanes) -> None:
        _, offsets = locate(machine, lanes, space, target(machine, lanes))
        machine.shared.check_allocated(offsets, 4, size // 4, "cp.async")
        wanted = (
            source_size(machine, lanes) if source_size else np.full(lanes.count, size, np.uint32)
        )
        words = _read(machine, lanes, source(machine, lanes), size, wanted)
        groups = machine.copies.committed[lanes.index]
        if machine.races is not None:
            warps = machine.warp[lanes.index]
            party = np.asarray(machine.races.parties.copy(warps))
            machine.races.start_writes(warps, party, groups + 1, offsets, size)
        landed = np.zeros(lanes.count, np.bool_)
        machine.copies.add(CopyBatch(lanes.index, groups, offsets, words, 4, landed))

    return step


def _read(
    machine: Machine, lanes: Lanes, addresses: Array, size: int, wanted: Array
) -> list[Array]:
    """The words to be copied; of threads that want less than all, zeros for the rest."""
    if (wanted == size).all():
        return load(machine, lanes, "global", addresses, 4, size // 4)
    words = [np.zeros(lanes.count, np.uint32) for _ in range(size // 4)]
    for amount in np.unique(wanted[wanted > 0]):
        mine = np.nonzero(wanted == amount)[0]
        places = addresses[mine][:, None] + np.arange(int(amount))
        _, offsets = locate(machine, Lanes(lanes.index[mine]), "global", places)
        content = np.zeros((len(mine), size), np.uint8)
        content[:, : int(amount)] = machine.memory.load_bytes(offsets, "cp.async")
        for word, column in zip(words, content.view(np.uint32).T):
            word[mine] = column
    return words


def _commit(machine: Machine, lanes: Lanes) -> None:
    machine.copies.committed[lanes.index] += 1


def _wait(left: int) -> Step:
    """Until at most `left` groups of each thread are under way; -1: also what was not committed."""

    def step(machine: Machine, lanes: Lanes) -> None:
        machine.copies.finish(lanes.index, machine.copies.committed[lanes.index] - left)

    return step


def _arrive(instruction: Instruction) -> Step:
    """The mbarrier gets an arrival when all earlier copies of the thread are over."""
    offsets = barrier_offsets(instruction.operands[0], instruction.opcode)
    counts_itself = not instruction.has("noinc")

    def step(machine: Machine, lanes: Lanes) -> None:
        where = offsets(machine, lanes)
        machine.copies.committed[lanes.index] += 1
        groups = machine.copies.committed[lanes.index].copy()
        for offset in where.tolist():
            if counts_itself:
                machine.mbarriers.find(offset).pending += 1
        machine.start_flight(
            "cp.async.mbarrier.arrive", lambda: land(machine, lanes, where, groups)
        )

    def land(machine: Machine, lanes: Lanes, where: Array, groups: Array) -> None:
        machine.copies.finish(lanes.index, groups)
        for offset, thread in zip(where.tolist(), lanes.index.tolist()):
            machine.mbarriers.arrive(offset, thread // 32, 1)

    return step


FAMILY: Family = {"cp": _copy}
