"""Runs a program on a machine: chooses which threads go next, and lets them go until
others must be asked.
"""

from __future__ import annotations

import numpy as np

from emulator.decode import Operation, Program
from emulator.errors import (
    Deadlock,
    DivergentCollective,
    EmulationError,
    TransactionMismatch,
    UnfinishedRead,
)
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine

MOST_TURNS = 500_000
"""Turns, or jumps backwards, after which a kernel is taken to run for ever."""

_PATIENCE = 200
"""Jumps backwards after which threads that run on their own must let others go first."""

_FAR = np.int64(1 << 60)


def run(program: Program, machine: Machine) -> None:
    """To the end of all threads. Raises what the instructions find wrong, with their
    text, or Deadlock.
    """
    with np.errstate(all="ignore"):
        for turn in range(MOST_TURNS):
            if machine.jumps > MOST_TURNS:
                break
            if machine.flights and (machine.spins or machine.restless > _PATIENCE):
                machine.restless = 0
                machine.land_one()
            ready = ~(machine.blocked | machine.done)
            if ready.any():
                lanes, place, others = _choose(program, machine, ready, turn)
                _advance(program, machine, lanes, place, others)
            elif machine.done.all():
                machine.check_end()
                return
            elif machine.flights:
                machine.land_one()
            else:
                _report_standstill(program, machine)
    raise Deadlock(f"kernel {program.kernel.name} does not end: some threads spin for ever")


def _choose(
    program: Program, machine: Machine, ready: Array, turn: int
) -> tuple[Lanes, int, np.int64]:
    """The threads that go next, where they stand, and how far the others are behind them."""
    order = np.where(ready, program.order[machine.pc], _FAR)
    number = order.min()
    if machine.schedule.seed is not None:
        # Every warp goes with its threads that are furthest behind; any warp may be next.
        of_warps = order.reshape(-1, 32).min(axis=1)
        number = machine.random.choice(np.unique(of_warps[of_warps < _FAR]))
    elif turn % 512 == 511 or machine.spins:
        # Threads that spin until others come along must not keep those from coming.
        number = order[order < _FAR].max()
    machine.spins = False
    here = order == number
    if machine.schedule.seed is not None and machine.random.random() < 0.3:
        here &= _some_warps(machine, here)
    index = np.nonzero(here)[0]
    others = order[~here]
    return Lanes(index), int(machine.pc[index[0]]), others.min() if len(others) else _FAR


def _some_warps(machine: Machine, here: Array) -> Array:
    """A random part of the warps that have threads in `here`."""
    warps = np.unique(np.nonzero(here)[0] // 32)
    count = int(machine.random.integers(1, len(warps) + 1))
    chosen = np.zeros(machine.threads // 32, np.bool_)
    chosen[machine.random.choice(warps, count, replace=False)] = True
    return np.repeat(chosen, 32)


def _advance(
    program: Program, machine: Machine, lanes: Lanes, place: int, others: np.int64
) -> None:
    """Runs `lanes` from `place` until they part, wait, or are no longer the first in line."""
    machine.woken = False
    patience = machine.jumps + _PATIENCE
    operations, order, starts = program.operations, program.order, program.starts
    while True:
        if place >= len(operations):
            machine.done[lanes.where] = True
            return
        operation = operations[place]
        machine.executed += lanes.count
        if operation.together:
            gathered = _gather(machine, operation, place, lanes)
            if gathered is None:
                return
            lanes = gathered
        active = lanes if operation.guard < 0 else _guarded(machine, operation, lanes)
        if operation.kind == "plain":
            if active is not None and _perform(program, machine, operation, active):
                _leave(machine, lanes, active, place)
                return
            place += 1
        else:
            target = _jump(program, machine, operation, lanes, active, place)
            if target is None:
                return
            machine.jumps += target <= place
            machine.spins = machine.jumps > patience
            place = target
        if (
            machine.woken
            or machine.spins
            or (
                others < _FAR
                and (place in starts or operation.kind != "plain")
                and (order[place] >= others or machine.schedule.seed is not None)
            )
        ):
            machine.pc[lanes.where] = place
            return


def _leave(machine: Machine, lanes: Lanes, active: Lanes, place: int) -> None:
    """The threads may wait now; those that must try the instruction again stay where they are."""
    machine.pc[lanes.where] = place + 1
    if machine.again is not None:
        machine.pc[machine.again] = place
        machine.again = None


def _guarded(machine: Machine, operation: Operation, lanes: Lanes) -> Lanes | None:
    holds = machine.registers[operation.guard][lanes.where]
    if operation.guard_negated:
        holds = ~holds
    if holds.all():
        return lanes
    return Lanes(lanes.index[holds]) if holds.any() else None


def _perform(program: Program, machine: Machine, operation: Operation, lanes: Lanes) -> object:
    try:
        if machine.pending and not operation.touched.isdisjoint(machine.pending):
            _check_pending(machine, operation, lanes)
        if operation.watched:
            _note_writes(machine, operation, lanes)
        if operation.together and operation.guard >= 0:
            _check_whole(machine, operation, lanes)
        return operation.step(machine, lanes)
    except EmulationError as error:
        one = operation.instruction
        thread = int(lanes.index[0])
        raise type(error)(
            f"kernel {program.kernel.name}, line {one.line} `{one.text[:160]}`: {error} "
            f"[first of {lanes.count} threads: block {int(machine.block[thread])} of those "
            f"that run, "
            f"thread {int(machine.thread[thread])}]"
        ) from None


def _check_pending(machine: Machine, operation: Operation, lanes: Lanes) -> None:
    """Registers of a wgmma under way may be touched by the next wgmma only."""
    if operation.instruction.opcode[:2] == ("wgmma", "mma_async"):
        return
    for register in operation.touched & machine.pending.keys():
        if machine.pending[register][lanes.where].any():
            raise UnfinishedRead("a register of a wgmma is touched before wgmma.wait_group")


def _note_writes(machine: Machine, operation: Operation, lanes: Lanes) -> None:
    """Registers that wgmma uses were written by another instruction: a wgmma.fence must
    come in between.
    """
    for register in operation.watched:
        written = machine.unfenced.setdefault(register, np.zeros(machine.threads, np.bool_))
        written[lanes.where] = True


def _check_whole(machine: Machine, operation: Operation, lanes: Lanes) -> None:
    if operation.members is None and _missing(machine, lanes.index, operation.together).any():
        raise DivergentCollective("the predicate holds for a part of the warp only")


def _missing(machine: Machine, index: Array, together: int) -> Array:
    """For every thread of `index` whether its group of `together` threads is not whole."""
    groups = machine.threads // together + 1
    come = np.bincount(index // together, minlength=groups)
    there = np.bincount(np.nonzero(machine.exists)[0] // together, minlength=groups)
    result: Array = (come < there)[index // together]
    return result


def _gather(machine: Machine, operation: Operation, place: int, lanes: Lanes) -> Lanes | None:
    """Those of `lanes`, and of threads that came before, whose whole warp (warpgroup)
    is here; others wait.
    """
    if lanes.count == machine.threads and operation.members is None:
        return lanes
    index = lanes.index
    if place in machine.parked:
        index = np.union1d(index, machine.parked.pop(place))
        machine.blocked[index] = False
        lanes = Lanes(index)
    if operation.members is None:
        missing = _missing_in_blocks(machine, index, operation.together)
    else:
        missing = _missing_members(machine, operation, lanes)
    if not missing.any():
        return lanes
    waiting = index[missing]
    machine.parked[place] = waiting
    machine.blocked[waiting] = True
    machine.pc[waiting] = place
    return Lanes(index[~missing]) if not missing.all() else None


def _missing_in_blocks(machine: Machine, index: Array, together: int) -> Array:
    if together <= 32:
        return _missing(machine, index, together)
    # Warpgroups are counted from each block's first thread.
    per_block = -(-machine.block_threads // together)
    group = machine.block[index] * per_block + machine.thread[index] // together
    come = np.bincount(group, minlength=machine.blocks * per_block)
    result: Array = come[group] < together
    return result


def _missing_members(machine: Machine, operation: Operation, lanes: Lanes) -> Array:
    assert operation.members is not None
    mask = np.broadcast_to(operation.members(machine, lanes), (lanes.count,)).astype(np.int64)
    warp, lane = lanes.index // 32, machine.lane[lanes.index]
    count = machine.threads // 32
    come = np.bincount(warp, weights=(1 << lane).astype(np.float64), minlength=count)
    every = np.nonzero(machine.exists)[0]
    there = np.bincount(
        every // 32, weights=(1 << machine.lane[every]).astype(np.float64), minlength=count
    )
    if not (mask >> lane & 1).all():
        raise DivergentCollective(
            f"`{operation.instruction.text}` is executed by a lane that is not in its own mask"
        )
    absent = mask & there.astype(np.int64)[warp] & ~come.astype(np.int64)[warp]
    result: Array = absent != 0
    return result


def _jump(
    program: Program,
    machine: Machine,
    operation: Operation,
    lanes: Lanes,
    active: Lanes | None,
    place: int,
) -> int | None:
    """Where all the lanes go on, or None when they part (or end)."""
    if active is None:
        return place + 1
    match operation.kind:
        case "branch":
            if active is lanes:
                return operation.targets[0]
            machine.pc[lanes.where] = place + 1
            machine.pc[active.where] = operation.targets[0]
            return None
        case "switch":
            chosen = operation.step(machine, active)
            machine.pc[lanes.where] = place + 1
            machine.pc[active.where] = np.array(operation.targets)[np.asarray(chosen)]
            return None
        case "exit":
            machine.pc[lanes.where] = place + 1
            machine.done[active.where] = True
            return None
    raise EmulationError(f"kernel {program.kernel.name} traps: {operation.instruction.text}")


def _report_standstill(program: Program, machine: Machine) -> None:
    """Nobody can go on: says who waits where."""
    parked = [
        f"{len(threads)} threads (first: block {int(machine.block[threads[0]])} of those that "
        f"run, thread "
        f"{int(machine.thread[threads[0]])}) wait for the rest of their warp at line "
        f"{program.operations[place].instruction.line} "
        f"`{program.operations[place].instruction.text[:80]}`"
        for place, threads in machine.parked.items()
    ]
    waiting = ~machine.done
    for place in np.unique(machine.pc[waiting]):
        if int(place) in machine.parked:
            continue
        threads = np.nonzero(waiting & (machine.pc == place))[0]
        text = _near(program, int(place))
        parked.append(
            f"{len(threads)} threads (first: block {int(machine.block[threads[0]])} of those "
            f"that run, "
            f"thread {int(machine.thread[threads[0]])}) wait near {text}"
        )
    kind: type[EmulationError] = DivergentCollective if machine.parked else Deadlock
    if machine.mbarriers.starves():
        kind = TransactionMismatch
    ended = int((machine.done & machine.exists).sum())
    raise kind(
        (
            f"kernel {program.kernel.name} stands still: {'; '.join(parked)}; {ended} threads have "
            f"ended"
        )
        + machine.describe_waits()
    )


def _near(program: Program, place: int) -> str:
    one = program.operations[min(place, len(program.operations) - 1)].instruction
    before = program.operations[place - 1].instruction if place else one
    return f"line {one.line} `{one.text[:80]}` (after `{before.text[:80]}`)"
