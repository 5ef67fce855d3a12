"""Barriers of a block (bar, barrier) and of a warp (bar.warp.sync); fences."""

from __future__ import annotations

import numpy as np

from emulator.errors import BarrierMisuse
from emulator.instructions.operands import Family, Reader, Step, spread_reader, unsupported, writer
from emulator.language.syntax import Immediate, Instruction
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine, NamedBarrier

MOST_BARRIERS = 16


def _barrier(instruction: Instruction) -> Step:
    if instruction.has("warp"):
        return _warp_barrier
    if instruction.has("cluster"):
        raise unsupported(instruction)
    if instruction.has("red"):
        return _reducing_barrier(instruction)
    operands = instruction.operands
    number = spread_reader(operands[0] if operands else Immediate(0), "u32")
    count = spread_reader(operands[1], "u32") if len(operands) > 1 else None
    if instruction.has("arrive"):
        return lambda machine, lanes: _come(machine, lanes, number, count, sleeps=False)
    if instruction.has("sync"):
        return lambda machine, lanes: _come(machine, lanes, number, count, sleeps=True)
    raise unsupported(instruction)


def _come(
    machine: Machine, lanes: Lanes, number: Reader, count: Reader | None, sleeps: bool
) -> bool:
    """Whole warps arrive; those that sleep go on when all that the barrier waits for have come."""
    numbers = number(machine, lanes)
    everyone = sleeps and lanes.count == machine.threads and not machine.barriers
    if everyone and count is None and (numbers == numbers[0]).all():
        _meet_everywhere(machine)
        return False
    wanted = (
        count(machine, lanes) if count is not None else np.full(lanes.count, machine.block_threads)
    )
    keys = machine.block[lanes.index] * MOST_BARRIERS + numbers
    if (numbers >= MOST_BARRIERS).any():
        raise BarrierMisuse(f"barrier {int(numbers.max())}: there are {MOST_BARRIERS}")
    for key in np.unique(keys):
        mine = keys == key
        block, name = divmod(int(key), MOST_BARRIERS)
        counts = np.unique(wanted[mine])
        if len(counts) > 1:
            raise BarrierMisuse(f"barrier {name} is given unlike counts {counts.tolist()}")
        if int(counts[0]) % 32:
            raise BarrierMisuse(f"barrier {name}: {int(counts[0])} threads are not whole warps")
        _arrive(machine, (block, name), lanes.index[mine], int(counts[0]) // 32, sleeps)
    return True


def _meet_everywhere(machine: Machine) -> None:
    if machine.races is not None:
        warps = np.arange(machine.threads // 32)
        machine.races.meet(warps.reshape(machine.blocks, machine.block_warps))


def _arrive(
    machine: Machine, key: tuple[int, int], threads: Array, expected: int, sleeps: bool
) -> None:
    barrier = machine.barriers.setdefault(key, NamedBarrier())
    warps = np.unique(threads // 32)
    if barrier.warps and barrier.expected != expected:
        raise BarrierMisuse(
            f"barrier {key[1]} waits for {32 * barrier.expected} threads, but some say "
            f"{32 * expected}"
        )
    barrier.expected = expected
    barrier.warps += len(warps)
    barrier.arrived.extend(warps.tolist())
    if barrier.warps > expected:
        raise BarrierMisuse(
            f"{32 * barrier.warps} threads come to barrier {key[1]}, which waits for "
            f"{32 * expected}"
        )
    if sleeps:
        barrier.sleepers.append(threads)
        machine.blocked[threads] = True
    if barrier.warps == expected:
        del machine.barriers[key]
        _open(machine, barrier)


def _open(machine: Machine, barrier: NamedBarrier) -> None:
    sleepers = np.concatenate(barrier.sleepers) if barrier.sleepers else np.zeros(0, np.int64)
    if machine.races is not None:
        machine.races.join(np.unique(barrier.arrived), np.unique(sleepers // 32))
    machine.wake(sleepers)
    if barrier.tell is not None:
        barrier.tell(machine, barrier)


def _reducing_barrier(instruction: Instruction) -> Step:
    """bar.red: all threads learn how many (whether all, whether any) brought a true predicate."""
    mode = next(part for part in instruction.opcode if part in ("popc", "and", "or"))
    number = spread_reader(instruction.operands[1], "u32")
    has_count = len(instruction.operands) == 4
    count = spread_reader(instruction.operands[2], "u32") if has_count else None
    vote = spread_reader(instruction.operands[-1], "pred")
    write = writer(instruction.operands[0], "u32" if mode == "popc" else "pred")

    def step(machine: Machine, lanes: Lanes) -> bool:
        votes = vote(machine, lanes)
        numbers = number(machine, lanes)
        for key in np.unique(machine.block[lanes.index] * MOST_BARRIERS + numbers):
            mine = machine.block[lanes.index] * MOST_BARRIERS + numbers == key
            place = divmod(int(key), MOST_BARRIERS)
            barrier = machine.barriers.setdefault(place, NamedBarrier())
            real = machine.exists[lanes.index[mine]]
            barrier.votes.append(votes[mine][real])
            barrier.tell = tell
        return _come(machine, lanes, number, count, sleeps=True)

    def tell(machine: Machine, barrier: NamedBarrier) -> None:
        votes = np.concatenate(barrier.votes)
        value = {"popc": votes.sum(), "and": votes.all(), "or": votes.any()}[mode]
        dtype = np.uint32 if mode == "popc" else np.bool_
        for sleepers in barrier.sleepers:
            lanes = Lanes(np.sort(sleepers))
            write(machine, lanes, np.full(lanes.count, value, dtype))

    return step


def _warp_barrier(machine: Machine, lanes: Lanes) -> None:
    if machine.races is not None:
        machine.races.sync_lanes(np.unique(lanes.index // 32))


def _fence(instruction: Instruction) -> Step:
    """Fences that the asynchronous engines need; between threads the barriers are enough here."""
    if instruction.opcode[1] == "mbarrier_init" or instruction.opcode[1:3] == ("proxy", "async"):
        return _fence_proxy
    return lambda machine, lanes: None


def _fence_proxy(machine: Machine, lanes: Lanes) -> None:
    warps = np.unique(lanes.index // 32)
    machine.mbarriers.fence(warps)
    if machine.races is not None:
        machine.races.fence(warps)


def _nothing(instruction: Instruction) -> Step:
    return lambda machine, lanes: None


FAMILY: Family = {
    "bar": _barrier,
    "barrier": _barrier,
    "membar": _nothing,
    "fence": _fence,
}
