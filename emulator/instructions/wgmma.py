"""wgmma: products of a warpgroup whose factors lie in shared memory (the left one perhaps in
registers).

A product runs on its own until wgmma.wait_group: its registers and its shared memory must be left
alone until then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emulator.errors import DivergentCollective, UnfinishedRead
from emulator.instructions.descriptors import addresses, decode_descriptor
from emulator.instructions.fragments import left_places, pack, sum_places, unpack
from emulator.instructions.matrix import Shape, add_product, factor_values, shape_of
from emulator.instructions.operands import (
    Family,
    Reader,
    Step,
    immediate_value,
    reader,
    unsupported,
)
from emulator.language.syntax import Immediate, Instruction, Register, Tuple
from emulator.state.arrays import UNSIGNED, WIDTHS, Array
from emulator.state.async_state import Product, Warpgroup
from emulator.state.machine import Lanes, Machine


def _wgmma(instruction: Instruction) -> Step:
    match instruction.opcode[1]:
        case "fence":
            return _fence
        case "commit_group":
            return _commit
        case "wait_group":
            return _wait(immediate_value(instruction, 0))
        case "mma_async":
            return _start(_read_product(instruction))
    raise unsupported(instruction)


@dataclass(frozen=True)
class _Factor:
    """A matrix of `extent` rows (columns, if it is the right one) along the depth.

    It lies in shared memory, where `descriptor` says, or in `registers`. `by_depth`: neighbours in
    memory are neighbours along the depth.
    """

    type: str
    extent: int
    sign: int
    by_depth: bool
    descriptor: Reader | None
    registers: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Form:
    """What an mma_async says: shape, factors, the registers of the sums, and whether it adds."""

    shape: Shape
    sum_type: str
    sums: tuple[int, ...]
    left: _Factor
    right: _Factor
    adds: Reader


def _read_product(instruction: Instruction) -> _Form:
    if instruction.has("sp"):
        raise unsupported(instruction)
    types = [part for part in instruction.opcode[4:] if part in WIDTHS]
    sums, left, right, *rest = instruction.operands
    numbers = [one.value for one in rest[1:] if isinstance(one, Immediate)]
    signs = numbers[:2] if types[0] != "s32" else [1, 1]
    turns = numbers[2:]
    in_registers = isinstance(left, Tuple)
    # With A in registers only B can be turned.
    left_turned, right_turned = (
        (0, turns[0] if turns else 0) if in_registers else (turns[0], turns[1]) if turns else (0, 0)
    )
    shape = shape_of(instruction)
    form = _Form(
        shape,
        types[0],
        _indices(instruction, sums),
        _Factor(
            types[1],
            64,
            signs[0] if signs else 1,
            not left_turned,
            None if in_registers else reader(left, "u64"),
            _indices(instruction, left) if in_registers else (),
        ),
        _Factor(
            types[2],
            shape.n,
            signs[1] if len(signs) > 1 else 1,
            not right_turned,
            reader(right, "u64"),
        ),
        reader(rest[0], "pred") if rest else reader(Immediate(1), "pred"),
    )
    words = form.shape.n * 64 * WIDTHS[form.sum_type] // 32 // 128
    depth = 256 // WIDTHS[form.left.type]
    if len(form.sums) != words or form.shape.m != 64 or form.shape.k != depth:
        raise unsupported(instruction, "(registers do not fit the shape)")
    if form.shape.n % 8 or not 8 <= form.shape.n <= 256 or len(form.left.registers) not in (0, 4):
        raise unsupported(instruction)
    return form


def _indices(instruction: Instruction, operand: object) -> tuple[int, ...]:
    parts = operand.parts if isinstance(operand, Tuple) else (operand,)
    if not all(isinstance(one, Register) for one in parts):
        raise unsupported(instruction)
    return tuple(one.index for one in parts if isinstance(one, Register))


def _groups(machine: Machine, lanes: Lanes) -> list[tuple[Warpgroup, Lanes]]:
    """The warpgroups among the lanes, all whole."""
    if lanes.count % 128 or machine.block_threads % 128:
        raise DivergentCollective("a warpgroup has four whole warps")
    threads = lanes.index.reshape(-1, 128)
    return [
        (machine.warpgroups.setdefault(int(one[0]), Warpgroup()), Lanes(one)) for one in threads
    ]


def _fence(machine: Machine, lanes: Lanes) -> None:
    for _, group in _groups(machine, lanes):
        for written in machine.unfenced.values():
            written[group.where] = False


def _commit(machine: Machine, lanes: Lanes) -> None:
    for group, _ in _groups(machine, lanes):
        group.groups.append(group.open)
        group.open = []


def _wait(left: int) -> Step:
    def step(machine: Machine, lanes: Lanes) -> None:
        for group, threads in _groups(machine, lanes):
            over = group.groups[: max(0, len(group.groups) - left)]
            group.groups = group.groups[len(over) :]
            finished = [one for products in over for one in products]
            for product in finished:
                product.perform()
            _release(machine, threads, finished, group)
            if finished and machine.races is not None:
                party = machine.races.parties.wgmma(int(threads.index[0]) // 32)
                warps = np.unique(threads.index // 32)
                machine.races.learn(warps, party, finished[-1].number)

    return step


def _release(machine: Machine, threads: Lanes, over: list[Product], group: Warpgroup) -> None:
    """Registers that no later product still uses may be touched again."""
    rest = [one for products in (*group.groups, group.open) for one in products]
    busy = frozenset[int]().union(*(one.registers for one in rest))
    for register in frozenset[int]().union(*(one.registers for one in over)) - busy:
        machine.pending[register][threads.where] = False
        if not machine.pending[register].any():
            del machine.pending[register]


def _start(form: _Form) -> Step:
    registers = frozenset((*form.sums, *form.left.registers))

    def step(machine: Machine, lanes: Lanes) -> None:
        for group, threads in _groups(machine, lanes):
            _check_fenced(machine, registers, threads)
            group.issued += 1
            perform = _prepare(machine, form, threads, group.issued)
            group.open.append(Product(group.issued, perform, registers))
            for register in registers:
                busy = machine.pending.setdefault(register, np.zeros(machine.threads, np.bool_))
                busy[threads.where] = True

    return step


def _check_fenced(machine: Machine, registers: frozenset[int], threads: Lanes) -> None:
    for register in registers & machine.unfenced.keys():
        if machine.unfenced[register][threads.where].any():
            raise UnfinishedRead("a register was written since the last wgmma.fence")


def _prepare(machine: Machine, form: _Form, threads: Lanes, number: int) -> Callable[[], None]:
    """Reads the descriptors and reports the reads of shared memory to the race detector. Returns a
    function that computes the product when it is first called."""
    right_at = _places(machine, form.right, form.shape.k, threads)
    left_at = _places(machine, form.left, form.shape.k, threads)
    adds = bool(np.ravel(form.adds(machine, Lanes(threads.index[:1])))[0])
    for factor, places in ((form.right, right_at), (form.left, left_at)):
        if places is not None:
            _watch(machine, factor, places, threads, number)
    finished = False

    def perform() -> None:
        nonlocal finished
        if finished:
            return
        finished = True
        b = _values(machine, form.right, right_at, threads)
        a = _values(machine, form.left, left_at, threads)
        _add(machine, form, threads, a @ b.T, adds)

    when = machine.schedule.async_
    if when == "early" or (when == "mixed" and machine.random.random() < 0.5):
        _perform_all_before(machine, threads)
        perform()
    return perform


def _perform_all_before(machine: Machine, threads: Lanes) -> None:
    """Products of a warpgroup run in their order."""
    group = machine.warpgroups[int(threads.index[0])]
    for product in (one for products in (*group.groups, group.open) for one in products):
        product.perform()


def _places(machine: Machine, factor: _Factor, depth: int, threads: Lanes) -> Array | None:
    """Offsets of a factor's elements in the machine's shared memory, [extent, depth]; None if it is
    in registers."""
    if factor.descriptor is None:
        return None
    block = int(machine.block[threads.index[0]])
    first = Lanes(threads.index[:1])
    descriptor = decode_descriptor(int(np.ravel(factor.descriptor(machine, first))[0]))
    size = WIDTHS[factor.type] // 8
    where = addresses(descriptor, factor.extent, depth, size, factor.by_depth)
    result: Array = where + block * machine.shared.stride
    if int(where.max()) + size > machine.shared.stride:
        machine.shared.check_allocated(np.array([len(machine.shared.data)]), 1, 1, "wgmma")
    return result


def _watch(machine: Machine, factor: _Factor, places: Array, threads: Lanes, number: int) -> None:
    """Tells the race detector, if there is one, what product `number` of the warpgroup reads."""
    if machine.races is None:
        return
    warp = int(threads.index[0]) // 32
    party = int(machine.races.parties.wgmma(warp))
    step = max(1, machine.races.granule * 8 // WIDTHS[factor.type])
    seen = places[:, ::step] if factor.by_depth else places[::step]
    machine.races.start_read(warp, party, number, seen)


def _values(machine: Machine, factor: _Factor, places: Array | None, threads: Lanes) -> Array:
    """The numbers of a factor, with its sign: [extent, depth]."""
    kind = _number_type(factor.type)
    if places is None:
        return _in_registers(machine, factor, threads) * factor.sign
    words = machine.shared.load(places.reshape(-1), WIDTHS[factor.type] // 8, 1)[0]
    return factor_values(words.reshape(places.shape), factor.type).astype(kind) * factor.sign


def _number_type(name: str) -> type[np.floating]:
    """Products of short formats are exact in float32; whole numbers need float64."""
    return np.float64 if name[0] in "su" else np.float32


def _in_registers(machine: Machine, factor: _Factor, threads: Lanes) -> Array:
    each = 32 // WIDTHS[factor.type]
    registers = [machine.registers[one][threads.where] for one in factor.registers]
    words = np.stack([one.reshape(4, 32) for one in registers], 1)
    matrix = np.zeros((4, 16, 8 * each), _number_type(factor.type))
    matrix[(slice(None), *left_places(4, each, 16))] = factor_values(
        unpack(words, each), factor.type
    )
    return matrix.reshape(factor.extent, -1)


def _add(machine: Machine, form: _Form, threads: Lanes, product: Array, adds: bool) -> None:
    """D = product (+ D): each of the four warps has 16 rows."""
    each = 32 // WIDTHS[form.sum_type]
    row, column = sum_places(len(form.sums), each)
    values = product.reshape(4, 16, -1)[:, row, column]
    word = UNSIGNED[32]
    if adds:
        before = np.stack(
            [machine.registers[one][threads.where].reshape(4, 32) for one in form.sums], 1
        )
        old = unpack(before, each)
    else:
        old = np.zeros(values.shape, UNSIGNED[32 // each])
    total = pack(add_product(old, values.astype(np.float64), form.sum_type), word)
    for place, register in enumerate(form.sums):
        machine.registers[register][threads.where] = total[:, place].reshape(-1)


FAMILY: Family = {
    "wgmma": _wgmma,
    "setmaxnreg": lambda instruction: lambda machine, lanes: None,
}
