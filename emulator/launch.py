"""Launches a kernel: checks the shape, lays out memory, and runs the blocks some at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emulator.decode import Program, decode
from emulator.errors import BadLaunch
from emulator.instructions.access import space_of
from emulator.language.layout import SharedLayout, lay_out_local, lay_out_shared
from emulator.language.syntax import Instruction, Kernel, Module
from emulator.run import run
from emulator.schedule import Schedule
from emulator.state.arrays import WIDTHS, Array
from emulator.state.device_memory import DeviceMemory
from emulator.state.machine import LaunchShape, Machine
from emulator.state.races import MOST_MBARRIERS, Parties, Races

MOST_THREADS = 1024
MOST_SHARED = 232448
SIDE_BY_SIDE = 4096
"""Threads that run in one machine, where the grid has as many and memory allows."""
_RACE_BYTES = 128 << 20
"""What the records of who read and wrote shared memory may take."""


@dataclass
class LoadedModule:
    """A module whose variables lie in the device's memory, at `symbols`."""

    module: Module
    symbols: dict[str, int]
    programs: dict[str, Program] = field(default_factory=dict)

    def program(self, name: str) -> Program:
        if name not in self.programs:
            self.programs[name] = decode(self.module.kernels[name])
        return self.programs[name]


def load_module(module: Module, memory: DeviceMemory) -> LoadedModule:
    """Places the module's global and constant variables."""
    kernels = module.kernels.values()
    everywhere = [*module.variables, *(one for kernel in kernels for one in kernel.variables)]
    variables = [one for one in everywhere if one.space in ("global", "const")]
    symbols = {}
    for one in variables:
        address = memory.allocate(max(one.size, 1))
        if address is None:
            raise BadLaunch(f"no room for the variable {one.name} of {one.size} bytes")
        symbols[one.name] = address
    for one in variables:
        words = [
            word if isinstance(word, int) else symbols[word[0]] + word[1] for word in one.words
        ]
        size = one.word_bytes
        content = b"".join((word & (1 << 8 * size) - 1).to_bytes(size, "little") for word in words)
        memory.write(symbols[one.name], content.ljust(one.size, b"\0"))
    return LoadedModule(module, symbols)


def unload_module(loaded: LoadedModule, memory: DeviceMemory) -> None:
    for address in loaded.symbols.values():
        memory.free(address)


def launch(
    loaded: LoadedModule, name: str, shape: LaunchShape, memory: DeviceMemory, schedule: Schedule
) -> int:
    """Runs kernel `name` over its grid; the instructions of all threads. Raises the faults of
    `emulator.errors`."""
    program = loaded.program(name)
    kernel = program.kernel
    _check_shape(kernel, shape)
    layout, shared = lay_out_shared(kernel, loaded.module.variables, shape.dynamic_shared)
    if layout.end - layout.start > MOST_SHARED:
        raise BadLaunch(f"{kernel.name} wants {layout.end - layout.start} bytes of shared memory")
    local_bytes, local = lay_out_local(kernel)
    parameters = {one.name: one.offset for one in kernel.parameters}
    symbols = {**loaded.symbols, **shared, **local, **parameters}
    parties = _parties(kernel, shape)
    count = _side_by_side(shape, layout, parties, schedule)
    order = _block_order(shape, schedule)
    executed = 0
    for start in range(0, shape.blocks, count):
        blocks = order[start : start + count]
        machine = Machine(kernel, shape, blocks, memory, symbols, layout, local_bytes, schedule)
        if schedule.races and layout.end > layout.start:
            warps, size = machine.threads // 32, len(machine.shared.data)
            machine.watch(Races(parties, warps, size, _granule(kernel)))
        run(program, machine)
        executed += machine.executed
    return executed


def _block_order(shape: LaunchShape, schedule: Schedule) -> Array:
    """The numbers of the blocks in the order in which they run."""
    order = np.arange(shape.blocks, dtype=np.int64)
    if schedule.seed is None:
        return order
    return np.random.default_rng(schedule.seed).permutation(order)


def _check_shape(kernel: Kernel, shape: LaunchShape) -> None:
    required = kernel.required_threads
    if required is not None and required != shape.block:
        raise BadLaunch(f"{kernel.name} is for blocks of {required} threads, not {shape.block}")
    most = kernel.most_threads or MOST_THREADS
    if not 0 < shape.threads <= min(most, MOST_THREADS):
        raise BadLaunch(f"{kernel.name} bears at most {most} threads a block, not {shape.threads}")
    if shape.blocks <= 0 or any(one > 65535 for one in shape.grid[1:]):
        raise BadLaunch(f"{kernel.name}: a grid of {shape.grid} blocks is not possible")
    if len(shape.parameters) != kernel.parameter_bytes:
        raise BadLaunch(
            f"{kernel.name} takes {kernel.parameter_bytes} bytes of parameters, not "
            f"{len(shape.parameters)}"
        )


def _side_by_side(
    shape: LaunchShape, layout: SharedLayout, parties: Parties, schedule: Schedule
) -> int:
    """How many blocks run in one machine."""
    wanted = schedule.ctas or max(1, SIDE_BY_SIDE // shape.threads)
    if layout.end > layout.start and schedule.ctas is None:
        wanted = min(wanted, max(1, _RACE_BYTES // (layout.stride * (parties.readers + 4))))
    return max(1, min(wanted, shape.blocks))


def _parties(kernel: Kernel, shape: LaunchShape) -> Parties:
    warps = -(-shape.threads // 32)
    every = kernel.instructions
    has_wgmma = any(one.opcode[0] == "wgmma" for one in every)
    has_mbarriers = any(one.opcode[0] == "mbarrier" for one in every)
    stores = any("bulk_group" in one.opcode for one in every)
    copies = any(one.opcode[:2] == ("cp", "async") and "bulk" not in one.opcode for one in every)
    return Parties(
        warps,
        -(-warps // 4) if has_wgmma else 0,
        warps if stores else 0,
        warps if copies else 0,
        MOST_MBARRIERS if has_mbarriers else 0,
    )


def _granule(kernel: Kernel) -> int:
    """The narrowest write to shared memory, at most 4 bytes."""
    return min([4, *(size for one in kernel.instructions if (size := _shared_write(one)))])


def _shared_write(instruction: Instruction) -> int:
    if instruction.opcode[0] not in ("st", "atom", "red"):
        return 0
    if space_of(instruction.opcode) not in ("shared", ""):
        return 0
    return WIDTHS[instruction.type] // 8
