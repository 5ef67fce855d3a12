"""Matrix instructions of a warp: ldmatrix, stmatrix, movmatrix, mma.sync."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from emulator.instructions.access import load, space_of, store
from emulator.instructions.formats import decode, encode, round_to
from emulator.instructions.fragments import left_places, pack, right_places, sum_places, unpack
from emulator.instructions.operands import (
    Family,
    Reader,
    Step,
    address_reader,
    parts_of,
    reader,
    spread_reader,
    unsupported,
    writer,
)
from emulator.language.syntax import Instruction
from emulator.state.arrays import UNSIGNED, WIDTHS, Array
from emulator.state.machine import Lanes, Machine

_LANES = np.arange(32)


def _check_matrices(instruction: Instruction) -> None:
    if not instruction.has("m8n8") or instruction.type != "b16":
        raise unsupported(instruction)


def _load_matrices(instruction: Instruction) -> Step:
    """Lane l gives the address of row l % 8 of matrix l // 8, and gets two elements of
    each matrix.
    """
    _check_matrices(instruction)
    write = [writer(one, "b32") for one in parts_of(instruction.operands[0])]
    addresses = address_reader(instruction.operands[1])
    space, turned = space_of(instruction.opcode), instruction.has("trans")
    count = len(write)

    def step(machine: Machine, lanes: Lanes) -> None:
        chosen = lanes.index.reshape(-1, 32)[:, : 8 * count].reshape(-1)
        where = addresses(machine, lanes).reshape(-1, 32)[:, : 8 * count].reshape(-1)
        words = load(machine, Lanes(chosen), space, where, 4, 4)
        rows = np.stack(words, -1).view(np.uint16).reshape(-1, count, 8, 8)
        if turned:
            rows = rows.swapaxes(2, 3)
        pairs = np.ascontiguousarray(rows).view(np.uint32)
        for place, put in enumerate(write):
            put(machine, lanes, pairs[:, place].reshape(-1))

    return step


def _store_matrices(instruction: Instruction) -> Step:
    _check_matrices(instruction)
    addresses = address_reader(instruction.operands[0])
    reads = [spread_reader(one, "b32") for one in parts_of(instruction.operands[1])]
    space, turned = space_of(instruction.opcode), instruction.has("trans")
    count = len(reads)

    def step(machine: Machine, lanes: Lanes) -> None:
        chosen = lanes.index.reshape(-1, 32)[:, : 8 * count].reshape(-1)
        where = addresses(machine, lanes).reshape(-1, 32)[:, : 8 * count].reshape(-1)
        pairs = np.stack([read(machine, lanes).reshape(-1, 8, 4) for read in reads], 1)
        rows = pairs.view(np.uint16)
        if turned:
            rows = rows.swapaxes(2, 3)
        words = np.ascontiguousarray(rows).view(np.uint32).reshape(-1, 4)
        store(machine, Lanes(chosen), space, where, list(words.T), 4)

    return step


def _turn_matrix(instruction: Instruction) -> Step:
    """movmatrix: an 8 by 8 matrix that lies across the lanes, transposed."""
    _check_matrices(instruction)
    read, write = (
        spread_reader(instruction.operands[1], "b32"),
        writer(instruction.operands[0], "b32"),
    )

    def step(machine: Machine, lanes: Lanes) -> None:
        rows = np.ascontiguousarray(read(machine, lanes)).view(np.uint16).reshape(-1, 8, 8)
        turned = np.ascontiguousarray(rows.swapaxes(1, 2)).view(np.uint32)
        write(machine, lanes, turned.reshape(-1))

    return step


@dataclass(frozen=True)
class Shape:
    """m, n, k of a matrix instruction."""

    m: int
    n: int
    k: int


def shape_of(instruction: Instruction) -> Shape:
    for part in instruction.opcode:
        if found := re.fullmatch(r"m(\d+)n(\d+)k(\d+)", part):
            return Shape(int(found[1]), int(found[2]), int(found[3]))
    raise unsupported(instruction)


def factor_values(bits: Array, name: str) -> Array:
    """Elements of A or B as numbers that NumPy multiplies exactly enough."""
    if name[0] == "s":
        return bits.view(f"i{WIDTHS[name] // 8}").astype(np.float64)
    if name[0] == "u":
        return bits.astype(np.float64)
    return decode(bits, name)


def add_product(sums: Array, product: Array, name: str) -> Array:
    """sums + product as bits of the type `name`; `sums` are bits, `product` float64."""
    match name:
        case "f32":
            return (sums.view(np.float32) + product).astype(np.float32).view(np.uint32)
        case "f16":
            total = sums.view(np.float16).astype(np.float64) + product
            return encode(round_to(total, "f16"), "f16")
        case "f64":
            return (sums.view(np.float64) + product).view(np.uint64)
        case "s32":
            whole = sums.view(np.int32).astype(np.int64) + np.rint(product).astype(np.int64)
            return whole.astype(np.int32).view(np.uint32)
    raise ValueError(name)


def _multiply(instruction: Instruction) -> Step:
    """mma.sync: D = A × B + C, A by rows and B by columns."""
    if not {"row", "col"} <= set(instruction.opcode) or instruction.has("sp"):
        raise unsupported(instruction)
    shape = shape_of(instruction)
    types = [part for part in instruction.opcode[4:] if part in WIDTHS]
    d_type, a_type, b_type, c_type = types
    if d_type != c_type or shape.m not in (8, 16) or shape.n != 8 or instruction.has("satfinite"):
        raise unsupported(instruction)
    word_bits = 64 if d_type == "f64" else 32
    word = UNSIGNED[word_bits]
    results, left, right, sums = (parts_of(one) for one in instruction.operands)
    each_a, each_b = word_bits // WIDTHS[a_type], word_bits // WIDTHS[b_type]
    each_c = word_bits // WIDTHS[c_type]
    a_places = left_places(len(left), each_a, shape.m)
    b_places = right_places(len(right), each_b)
    c_places = sum_places(len(sums), each_c)
    _check_count(instruction, shape, a_places, b_places, c_places)
    reads = [[reader(one, f"b{word_bits}") for one in part] for part in (left, right, sums)]
    write = [writer(one, f"b{word_bits}") for one in results]

    def step(machine: Machine, lanes: Lanes) -> None:
        warps = lanes.count // 32
        a, b, c = (_gather(part, machine, lanes, word) for part in reads)
        a_matrix = np.zeros((warps, shape.m, shape.k))
        b_matrix = np.zeros((warps, shape.k, shape.n))
        a_matrix[(slice(None), *a_places)] = factor_values(unpack(a, each_a), a_type)
        b_matrix[(slice(None), *b_places)] = factor_values(unpack(b, each_b), b_type)
        product = (a_matrix @ b_matrix)[(slice(None), *c_places)]
        total = pack(add_product(unpack(c, each_c), product, d_type), word)
        for place, put in enumerate(write):
            put(machine, lanes, total[:, place].reshape(-1))

    return step


def _gather(
    reads: list[Reader], machine: Machine, lanes: Lanes, word: np.dtype[np.generic]
) -> Array:
    """Registers shaped (warps, registers, lanes)."""
    result = np.empty((lanes.count // 32, len(reads), 32), word)
    for place, read in enumerate(reads):
        value = read(machine, lanes)
        result[:, place] = np.broadcast_to(value, (lanes.count,)).reshape(-1, 32)
    return result


def _check_count(instruction: Instruction, shape: Shape, *places: tuple[Array, Array]) -> None:
    """The registers must hold just the elements of the shape."""
    extents = ((shape.m, shape.k), (shape.k, shape.n), (shape.m, shape.n))
    for (row, column), (height, width) in zip(places, extents):
        if row.size != height * width or row.max() != height - 1 or column.max() != width - 1:
            raise unsupported(instruction, "(registers do not fit the shape)")


FAMILY: Family = {
    "ldmatrix": _load_matrices,
    "stmatrix": _store_matrices,
    "movmatrix": _turn_matrix,
    "mma": _multiply,
}
