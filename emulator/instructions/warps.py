"""Instructions by which the lanes of a warp exchange values: shfl, vote, match, redux,
elect, activemask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.errors import DivergentCollective
from emulator.instructions.operands import (
    Family,
    Step,
    parts_of,
    reader,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.syntax import Discard, Immediate, Instruction
from emulator.state.arrays import Array, numpy_type
from emulator.state.machine import Lanes, Machine

ALL_LANES = 0xFFFFFFFF


def _shuffle(instruction: Instruction) -> Step:
    """shfl.sync: the value of another lane, within segments that the third operand cuts."""
    mode = instruction.opcode[2]
    results = parts_of(instruction.operands[0])
    write = writer(results[0], "b32")
    inside = writer(results[1], "pred") if len(results) > 1 else writer(Discard(), "pred")
    value, move, clamp = (spread_reader(one, "b32") for one in instruction.operands[1:4])

    def step(machine: Machine, lanes: Lanes) -> None:
        lane = machine.lane[lanes.index]
        amount = move(machine, lanes).astype(np.int64) & 31
        limits = clamp(machine, lanes).astype(np.int64)
        segment, most = limits >> 8 & 31, limits & 31
        highest = (lane & segment) | (most & ~segment)
        source, valid = _source_lane(mode, lane, amount, segment, highest)
        source = np.where(valid, source, lane)
        everyone = np.zeros(machine.threads, np.uint32)
        everyone[lanes.where] = value(machine, lanes)
        thread = lanes.index - lane + source
        _check_present(machine, lanes, thread)
        write(machine, lanes, everyone[thread])
        inside(machine, lanes, valid)

    return step


def _source_lane(
    mode: str, lane: Array, amount: Array, segment: Array, highest: Array
) -> tuple[Array, Array]:
    match mode:
        case "up":
            source = lane - amount
            return source, source >= highest
        case "down":
            source = lane + amount
        case "bfly":
            source = lane ^ amount
        case _:
            source = (lane & segment) | (amount & ~segment)
    return source, source <= highest


def _check_present(machine: Machine, lanes: Lanes, threads: Array) -> None:
    if lanes.count == machine.threads:
        return
    present = np.zeros(machine.threads, np.bool_)
    present[lanes.where] = True
    if not present[threads].all():
        lane = int(threads[~present[threads]][0]) % 32
        raise DivergentCollective(f"a value is fetched from lane {lane}, which takes no part")


def _by_warp(lanes: Lanes) -> tuple[Array, Array]:
    """The warps of the lanes, and for every lane the place of its warp in that list."""
    warps, place = np.unique(lanes.index // 32, return_inverse=True)
    return warps, place


def _ballots(machine: Machine, lanes: Lanes, values: Array) -> Array:
    """For every lane the bits of its warp's lanes that hold true."""
    bits = np.where(values, np.int64(1) << machine.lane[lanes.index], 0)
    _, place = _by_warp(lanes)
    return np.bincount(place, weights=bits.astype(np.float64)).astype(np.int64)[place]


def _vote(instruction: Instruction) -> Step:
    mode = instruction.opcode[2]
    read = spread_reader(instruction.operands[1], "pred")
    name = "b32" if mode == "ballot" else "pred"
    write = writer(instruction.operands[0], name)

    def step(machine: Machine, lanes: Lanes) -> None:
        ballot = _ballots(machine, lanes, read(machine, lanes))
        everyone = _ballots(machine, lanes, np.ones(lanes.count, np.bool_))
        match mode:
            case "ballot":
                result = ballot.astype(np.uint32)
            case "all":
                result = ballot == everyone
            case "any":
                result = ballot != 0
            case "uni":
                result = (ballot == everyone) | (ballot == 0)
            case _:
                raise unsupported(instruction)
        write(machine, lanes, result)

    return step


_REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def _reduce(instruction: Instruction) -> Step:
    name = instruction.type
    function = _REDUCTIONS[instruction.opcode[2]]
    read, write = (
        spread_reader(instruction.operands[1], name),
        writer(instruction.operands[0], name),
    )
    dtype = numpy_type(name)

    def step(machine: Machine, lanes: Lanes) -> None:
        values = read(machine, lanes)
        starts = np.nonzero(np.diff(lanes.index // 32, prepend=-1))[0]
        totals = function.reduceat(values, starts).astype(dtype)
        _, place = _by_warp(lanes)
        write(machine, lanes, totals[place])

    return step


def _match(instruction: Instruction) -> Step:
    """match: which lanes hold the same value as this one (any), or whether all do (all)."""
    name = instruction.type
    results = parts_of(instruction.operands[0])
    write = writer(results[0], "b32")
    agree = writer(results[1], "pred") if len(results) > 1 else writer(Discard(), "pred")
    read = spread_reader(instruction.operands[1], name)
    wants_all = instruction.opcode[1] == "all"

    def step(machine: Machine, lanes: Lanes) -> None:
        values = read(machine, lanes)
        everyone = _ballots(machine, lanes, np.ones(lanes.count, np.bool_))
        same = np.zeros(lanes.count, np.int64)
        _, place = _by_warp(lanes)
        for lane in range(32):
            holder = machine.lane[lanes.index] == lane
            theirs = np.zeros(int(place.max()) + 1, values.dtype)
            there = np.zeros(len(theirs), np.bool_)
            theirs[place[holder]], there[place[holder]] = values[holder], True
            same |= np.where(there[place] & (theirs[place] == values), np.int64(1) << lane, 0)
        if wants_all:
            agree(machine, lanes, same == everyone)
            same = np.where(same == everyone, same, 0)
        write(machine, lanes, same.astype(np.uint32))

    return step


def _elect(instruction: Instruction) -> Step:
    """elect.sync: the lowest lane of the mask is the leader."""
    number, chosen = parts_of(instruction.operands[0])
    write, leads = writer(number, "b32"), writer(chosen, "pred")

    def step(machine: Machine, lanes: Lanes) -> None:
        lane = machine.lane[lanes.index]
        first = np.diff(lanes.index // 32, prepend=-1) != 0
        _, place = _by_warp(lanes)
        write(machine, lanes, lane[first][place].astype(np.uint32))
        leads(machine, lanes, first)

    return step


def _active_mask(instruction: Instruction) -> Step:
    write = writer(instruction.operands[0], "b32")

    def step(machine: Machine, lanes: Lanes) -> None:
        everyone = _ballots(machine, lanes, np.ones(lanes.count, np.bool_))
        write(machine, lanes, everyone.astype(np.uint32))

    return step


def member_mask(instruction: Instruction) -> Callable[[Machine, Lanes], Array] | None:
    """Reads the mask of the lanes that take part; None where that is the whole warp or
    there is none.
    """
    last = instruction.operands[-1]
    if isinstance(last, Immediate) and last.value & ALL_LANES == ALL_LANES:
        return None
    return reader(last, "u32")


FAMILY: Family = {
    "shfl": _shuffle,
    "vote": _vote,
    "redux": _reduce,
    "match": _match,
    "elect": _elect,
    "activemask": _active_mask,
}
