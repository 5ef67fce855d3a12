"""Reads what a tensor copy names: the map, the coordinates, and where the box's bytes lie."""

from __future__ import annotations

import numpy as np

from bessemer.runtime.cuda.driver import Im2colMap, TiledMap
from emulator.errors import Misaligned, UnsupportedInstruction
from emulator.instructions import tensor_maps
from emulator.instructions.operands import address_reader, spread_reader
from emulator.instructions.tensor_maps import BYTES, Box
from emulator.language.space import CONSTANT_WINDOW, GLOBAL_BASE, PARAMETER_WINDOW
from emulator.language.syntax import Operand, TensorBox, Tuple
from emulator.state.arrays import Array
from emulator.state.machine import Lanes, Machine


def check_aligned(values: Array, alignment: int, what: str) -> None:
    if (values % alignment).any():
        wrong = int(values[values % alignment != 0][0])
        raise Misaligned(f"{what} {wrong:#x} is not a multiple of {alignment}")


def _read_map(machine: Machine, address: int) -> TiledMap | Im2colMap:
    """The tensor map at a generic address: in the kernel's parameters or in global memory."""
    if address % 64:
        raise Misaligned(f"a tensor map at {address:#x}, which is not a multiple of 64")
    if PARAMETER_WINDOW <= address < PARAMETER_WINDOW + (1 << 32):
        memory, start = machine.parameters, address - PARAMETER_WINDOW
        return tensor_maps.decode(
            memory.load_bytes(start + np.arange(BYTES), "a tensor map").tobytes()
        )
    if CONSTANT_WINDOW <= address < CONSTANT_WINDOW + (1 << 32):
        raise UnsupportedInstruction("a tensor map in the constant window")
    start = address - GLOBAL_BASE
    return tensor_maps.decode(
        machine.memory.load_bytes(start + np.arange(BYTES), "a tensor map").tobytes()
    )


class TensorOperands:
    """Readers of [map, {coordinates}] and of the im2col offsets behind."""

    def __init__(self, box: Operand, offsets: Operand | None) -> None:
        if not isinstance(box, TensorBox):
            raise UnsupportedInstruction(f"{box} is no [map, coordinates]")
        self._map = address_reader(box.map)
        self._coordinates = [spread_reader(one, "s32") for one in box.coordinates]
        taps = offsets.parts if isinstance(offsets, Tuple) else ()
        self._offsets = [spread_reader(one, "u16") for one in taps]

    def boxes(self, machine: Machine, lanes: Lanes) -> list[Box]:
        """Every lane's box."""
        maps = self._map(machine, lanes)
        coordinates = np.stack([read(machine, lanes) for read in self._coordinates], 1)
        taps = [read(machine, lanes) for read in self._offsets]
        result = []
        for place in range(lanes.count):
            tensor = _read_map(machine, int(maps[place]))
            start = coordinates[place].tolist()
            if len(start) != len(tensor.sizes):
                raise UnsupportedInstruction(
                    f"{len(start)} coordinates for rank {len(tensor.sizes)}"
                )
            if isinstance(tensor, TiledMap):
                result.append(tensor_maps.tile(tensor, start))
            else:
                result.append(tensor_maps.im2col(tensor, start, [int(one[place]) for one in taps]))
        return result


def box_offsets(box: Box, address: int) -> Array:
    """Offsets from `address` in shared memory of the box's bytes, in its order, swizzled."""
    linear = address + np.arange(box.bytes, dtype=np.int64)
    moved: Array = tensor_maps.swizzle(linear, box.swizzle) - address
    return moved


def box_bytes(box: Box) -> Array:
    """Offsets in global memory of the bytes of the box's elements, one row an element."""
    flat = box.addresses.reshape(-1, 1) - GLOBAL_BASE
    result: Array = flat + np.arange(box.element_bytes)
    return result
