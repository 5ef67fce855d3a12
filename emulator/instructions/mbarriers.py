"""mbarrier.*: init, inval, arrive, expect_tx, complete_tx, test_wait, try_wait."""

from __future__ import annotations

import numpy as np

from emulator.errors import Misaligned
from emulator.instructions.access import locate, space_of
from emulator.instructions.operands import (
    Family,
    Reader,
    Step,
    address_reader,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.space import SHARED_WINDOW
from emulator.language.syntax import Address, Discard, Immediate, Instruction, Operand
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine


def _mbarrier(instruction: Instruction) -> Step:
    match instruction.opcode[1]:
        case "init":
            return _init(instruction)
        case "inval":
            return _invalidate(instruction)
        case "arrive" | "arrive_drop":
            return _arrive(instruction)
        case "expect_tx" | "complete_tx":
            return _transaction(instruction)
        case "test_wait" | "try_wait":
            return _wait(instruction)
    raise unsupported(instruction)


def barrier_offsets(operand: Operand, opcode: tuple[str, ...]) -> Reader:
    """Reads where in the machine's shared memory the lanes' mbarriers lie."""
    addresses = address_reader(operand)
    space = space_of(opcode)

    def offsets(machine: Machine, lanes: Lanes) -> Array:
        where = addresses(machine, lanes)
        if space == "":
            where = where - SHARED_WINDOW
        found = locate(machine, lanes, space or "shared", where)[1]
        if (found % 8).any():
            raise Misaligned(f"an mbarrier at {machine.shared.place(int(found[0]))}")
        return found

    return offsets


def _init(instruction: Instruction) -> Step:
    offsets = barrier_offsets(instruction.operands[0], instruction.opcode)
    counts = spread_reader(instruction.operands[1], "u32")

    def step(machine: Machine, lanes: Lanes) -> None:
        where = offsets(machine, lanes)
        machine.shared.check_allocated(where, 8, 1, "mbarrier.init")
        for offset, count, thread in zip(where, counts(machine, lanes), lanes.index):
            machine.mbarriers.create(int(offset), int(count), int(thread))

    return step


def _invalidate(instruction: Instruction) -> Step:
    offsets = barrier_offsets(instruction.operands[0], instruction.opcode)

    def step(machine: Machine, lanes: Lanes) -> None:
        for offset in offsets(machine, lanes):
            machine.mbarriers.find(int(offset))
            del machine.mbarriers.all[int(offset)]

    return step


def _arrive(instruction: Instruction) -> Step:
    """arrive, arrive.expect_tx, arrive_drop; the state is the number of the phase."""
    operands = instruction.operands
    if isinstance(operands[0], Address):
        operands = (Discard(), *operands)
    write = writer(operands[0], "b64")
    offsets = barrier_offsets(operands[1], instruction.opcode)
    amount = spread_reader(operands[2] if len(operands) > 2 else Immediate(1), "u32")
    expects, drops = instruction.has("expect_tx"), instruction.opcode[1] == "arrive_drop"
    if instruction.has("noComplete"):
        raise unsupported(instruction)

    def step(machine: Machine, lanes: Lanes) -> None:
        where, amounts = offsets(machine, lanes), amount(machine, lanes)
        phases = np.zeros(lanes.count, np.uint64)
        for place, (offset, number) in enumerate(zip(where.tolist(), amounts.tolist())):
            if expects:
                machine.mbarriers.expect(offset, number)
            if drops:
                machine.mbarriers.find(offset).expected -= 1
            warp = int(lanes.index[place]) // 32
            phases[place] = machine.mbarriers.arrive(offset, warp, 1 if expects else number)
        write(machine, lanes, phases)

    return step


def _transaction(instruction: Instruction) -> Step:
    offsets = barrier_offsets(instruction.operands[0], instruction.opcode)
    amount = spread_reader(instruction.operands[1], "u32")
    sign = 1 if instruction.opcode[1] == "expect_tx" else -1

    def step(machine: Machine, lanes: Lanes) -> None:
        for offset, number in zip(
            offsets(machine, lanes).tolist(), amount(machine, lanes).tolist()
        ):
            machine.mbarriers.expect(offset, sign * number)

    return step


def _wait(instruction: Instruction) -> Step:
    """try_wait sleeps until the phase is over; test_wait says at once whether it is."""
    write = writer(instruction.operands[0], "pred")
    offsets = barrier_offsets(instruction.operands[1], instruction.opcode)
    by_parity = instruction.has("parity")
    state = spread_reader(instruction.operands[2], "u32" if by_parity else "u64")
    sleeps = instruction.opcode[1] == "try_wait"

    def step(machine: Machine, lanes: Lanes) -> bool:
        where, wanted = offsets(machine, lanes), state(machine, lanes).astype(np.int64)
        over = np.zeros(lanes.count, np.bool_)
        for offset in np.unique(where):
            mine = where == offset
            one = machine.mbarriers.use(int(offset), np.unique(lanes.index[mine] // 32))
            done = (one.phase & 1) != wanted if by_parity else one.phase > wanted
            over |= mine & done
            if (mine & done).any():
                machine.mbarriers.acquire(one, np.unique(lanes.index[mine & done] // 32))
            if sleeps and (mine & ~done).any():
                one.sleepers.append(lanes.index[mine & ~done])
        write(machine, lanes, over)
        if over.all():
            return False
        if not sleeps:
            machine.restless += 1
            return True
        machine.blocked[lanes.index[~over]] = True
        machine.again = lanes.index[~over]
        return True

    return step


FAMILY: Family = {"mbarrier": _mbarrier}
