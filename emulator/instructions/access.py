"""Loads and stores of every memory space, with the checks of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from emulator.errors import OutOfBounds, Race
from emulator.language.space import GLOBAL_BASE, SPACES, WINDOW_BYTES
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine
from emulator.state.memory import Memory


def space_of(opcode: tuple[str, ...]) -> str:
    """The memory space that an opcode names; "" is the generic one."""
    for part in opcode[1:]:
        name = part.partition("::")[0]  # a block's own memory has the same addresses in a cluster's
        if name in ("global", "shared", "local", "param"):
            return name
        if name == "const":
            return "global"
    return ""


def load(
    machine: Machine, lanes: Lanes, space: str, addresses: Array, size: int, count: int
) -> list[Array]:
    """`count` neighbours of `size` bytes each for every lane."""
    if space == "" and (only := _only_space(addresses)) is not None:
        space, addresses = only
    if space == "":
        return _load_mixed(machine, lanes, addresses, size, count)
    memory, offsets = locate(machine, lanes, space, addresses)
    if memory is machine.shared and machine.races is not None:
        machine.races.read(
            machine.warp[lanes.index], machine.lane[lanes.index], offsets, size * count
        )
    return memory.load(offsets, size, count)


def store(
    machine: Machine, lanes: Lanes, space: str, addresses: Array, values: list[Array], size: int
) -> None:
    if space == "" and (only := _only_space(addresses)) is not None:
        space, addresses = only
    if space == "":
        for name, part, own in by_space(addresses):
            chosen = Lanes(lanes.index[part])
            store(machine, chosen, name, own, [value[part] for value in values], size)
        return
    memory, offsets = locate(machine, lanes, space, addresses)
    if memory is machine.shared and machine.races is not None:
        warps, each = machine.warp[lanes.index], machine.lane[lanes.index]
        machine.races.write(warps, each, offsets, size * len(values))
    memory.store(offsets, values, size)
    if memory is machine.shared and machine.races is not None:
        _check_agreement(memory, offsets, values, size)


def _check_agreement(memory: Memory, offsets: Array, values: list[Array], size: int) -> None:
    for found, value in zip(memory.load(offsets, size, len(values)), values):
        if (found != value).any():
            wrong = int(offsets[np.argmax(found != value)])
            raise Race(
                f"two lanes write different values to {memory.name} {memory.place(wrong)} at once"
            )


def locate(machine: Machine, lanes: Lanes, space: str, addresses: Array) -> tuple[Memory, Array]:
    """The memory behind `space`, and the offsets in it of the lanes' addresses."""
    match space:
        case "global":
            return machine.memory, addresses - GLOBAL_BASE
        case "shared":
            return machine.shared, shared_offsets(machine, machine.block[lanes.index], addresses)
        case "local":
            inside = (addresses >= 0) & (addresses < machine.local_stride)
            if not inside.all():
                raise OutOfBounds(
                    f"local address {int(addresses[~inside][0]):#x} of {machine.local_stride} bytes"
                )
            return machine.local, addresses + lanes.index * machine.local_stride
        case "param":
            return machine.parameters, addresses
    raise OutOfBounds(f"no memory space {space!r}")


def shared_offsets(machine: Machine, blocks: Array, addresses: Array) -> Array:
    """Offsets in the machine's shared memory of addresses of some blocks' shared memories."""
    stride = machine.shared.stride
    outside = (addresses < 0) | (addresses >= stride)
    if outside.any():
        raise OutOfBounds(
            f"shared address {int(addresses[outside][0]):#x} is outside of the block's shared "
            f"memory"
        )
    result: Array = addresses + blocks * stride
    return result


def _only_space(addresses: Array) -> tuple[str, Array] | None:
    """The space that all the generic addresses lie in, and the addresses there."""
    if len(addresses) == 0:
        return "global", addresses
    low, high = int(addresses.min()), int(addresses.max())
    for name, window in SPACES.items():
        if window <= low and high < window + WINDOW_BYTES:
            return name, addresses - window
        if low < window + WINDOW_BYTES and high >= window:
            return None
    return "global", addresses


def by_space(addresses: Array) -> Iterator[tuple[str, Array, Array]]:
    """(space, which lanes, their addresses there) for generic addresses of several spaces."""
    rest = np.ones(len(addresses), np.bool_)
    for name, window in SPACES.items():
        part = (addresses >= window) & (addresses < window + WINDOW_BYTES)
        rest &= ~part
        if part.any():
            yield name, np.nonzero(part)[0], addresses[part] - window
    if rest.any():
        yield "global", np.nonzero(rest)[0], addresses[rest]


def _load_mixed(
    machine: Machine, lanes: Lanes, addresses: Array, size: int, count: int
) -> list[Array]:
    result = [np.zeros(len(addresses), np.dtype(f"u{size}")) for _ in range(count)]
    for name, part, own in by_space(addresses):
        found = load(machine, Lanes(lanes.index[part]), name, own, size, count)
        for whole, piece in zip(result, found):
            whole[part] = piece
    return result
