"""cvt between all types, in all roundings, single and packed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from emulator.instructions.exact import odd_sum, round_fraction
from emulator.instructions.formats import (
    FORMATS,
    bf16_to_f32,
    decode,
    encode,
    f32_to_bf16,
    flush,
    round_integer,
    round_to,
)
from emulator.instructions.operands import Family, Step, reader, spread_reader, unsupported, writer
from emulator.language.syntax import Instruction
from emulator.state.arrays import UNSIGNED, WIDTHS, Array, is_float, numpy_type
from emulator.state.machine import Lanes, Machine

_WHOLE = ("rni", "rzi", "rmi", "rpi")
_FRACTION = ("rn", "rna", "rz", "rm", "rp")


def _mode(instruction: Instruction, modes: tuple[str, ...]) -> str | None:
    return next((part for part in instruction.opcode if part in modes), None)


def _convert(instruction: Instruction) -> Step:
    to, origin = instruction.opcode[-2:]
    if to in ("f16x2", "bf16x2", "e4m3x2", "e5m2x2"):
        return _pack(instruction, to, origin)
    if to not in WIDTHS or origin not in WIDTHS:
        raise unsupported(instruction)
    if quick := _quick(instruction, to, origin):
        return _apply(instruction, to, origin, quick)
    if not is_float(to) and not is_float(origin):
        return _apply(instruction, to, origin, _between_integers(to, instruction.has("sat")))
    if not is_float(origin):
        return _apply(instruction, to, origin, _from_integer(instruction, to))
    if not is_float(to):
        return _apply(instruction, to, origin, _to_integer(instruction, to, origin))
    return _apply(instruction, to, origin, _between_floats(instruction, to, origin))


def _apply(
    instruction: Instruction, to: str, origin: str, function: Callable[[Array], Array]
) -> Step:
    read, write = reader(instruction.operands[1], origin), writer(instruction.operands[0], to)
    return lambda machine, lanes: write(machine, lanes, function(read(machine, lanes)))


def _quick(instruction: Instruction, to: str, origin: str) -> Callable[[Array], Array] | None:
    """The conversions that NumPy does rightly, without further modifiers."""
    plain = all(part in ("cvt", "rn", to, origin) for part in instruction.opcode)
    if not plain:
        return None
    match to, origin:
        case ("f32", "bf16"):
            return bf16_to_f32
        case ("bf16", "f32"):
            return f32_to_bf16
        case ("f16" | "f64", "f32") | ("f32" | "f64", "f16") | ("f32", "f64"):
            dtype = numpy_type(to)
            return lambda values: values.astype(dtype)
        case ("f32" | "f64", _) if not is_float(origin):
            dtype = numpy_type(to)
            return lambda values: values.astype(dtype)
    return None


def _between_integers(to: str, saturates: bool) -> Callable[[Array], Array]:
    dtype = numpy_type(to)
    if not saturates:
        return lambda values: values.astype(dtype)
    limits = np.iinfo(dtype)

    def clamped(values: Array) -> Array:
        own = np.iinfo(values.dtype)
        low, high = max(own.min, limits.min), min(own.max, limits.max)
        return np.clip(values, values.dtype.type(low), values.dtype.type(high)).astype(dtype)

    return clamped


def _bits_of(values: Array, name: str) -> Array:
    return values.view(UNSIGNED[WIDTHS[name]])


def _from_integer(instruction: Instruction, to: str) -> Callable[[Array], Array]:
    mode = _mode(instruction, _FRACTION) or "rn"
    dtype = numpy_type(to)

    def convert(values: Array) -> Array:
        values = np.atleast_1d(values)
        if to == "f64" and mode != "rn":
            exact = [round_fraction(Fraction(one), mode) for one in values.tolist()]
            return np.array(exact, np.float64)
        whole = values.astype(np.int64) if values.dtype.kind == "i" else values.astype(np.uint64)
        low = (whole & whole.dtype.type(0xFFFF)).astype(np.float64)
        # Two halves of 64 bits, summed to odd: rounding them is rounding the whole number.
        wide = odd_sum((whole - (whole & whole.dtype.type(0xFFFF))).astype(np.float64), low)
        return encode(_saturate(instruction, round_to(wide, to, mode)), to).view(dtype)

    return convert


def _to_integer(instruction: Instruction, to: str, origin: str) -> Callable[[Array], Array]:
    """Out of range is the nearest number that there is, NaN is zero."""
    mode = _mode(instruction, _WHOLE) or "rzi"
    dtype = numpy_type(to)
    limits = np.iinfo(dtype)
    flushes = instruction.has("ftz") and origin == "f32"

    def convert(values: Array) -> Array:
        wide = decode(_bits_of(np.atleast_1d(values), origin), origin)
        if flushes:
            wide = flush(wide)
        whole = round_integer(np.where(np.isnan(wide), 0.0, wide), mode)
        high, low = float(limits.max), float(limits.min)
        inside = np.clip(whole, low, np.nextafter(high, 0) if high > 2**53 else high).astype(dtype)
        inside = np.where(whole >= high, dtype.type(limits.max), inside)
        return np.where(whole <= low, dtype.type(limits.min), inside)

    return convert


def _saturate(instruction: Instruction, values: Array) -> Array:
    if instruction.has("sat"):
        values = np.clip(np.where(np.isnan(values), 0.0, values), 0.0, 1.0)
    if instruction.has("relu"):
        values = np.where(values < 0, 0.0, values)
    return values


def _between_floats(instruction: Instruction, to: str, origin: str) -> Callable[[Array], Array]:
    whole, fraction = _mode(instruction, _WHOLE), _mode(instruction, _FRACTION) or "rn"
    flushes = instruction.has("ftz")
    dtype = numpy_type(to)

    def convert(values: Array) -> Array:
        wide = decode(_bits_of(np.atleast_1d(values), origin), origin)
        if flushes and origin == "f32":
            wide = flush(wide)
        if whole:
            wide = np.copysign(round_integer(wide, whole), wide)
        narrow = _finite(instruction, round_to(wide, to, fraction), to)
        if flushes and to == "f32":
            narrow = flush(narrow)
        return encode(_saturate(instruction, narrow), to).view(dtype)

    return convert


def _finite(instruction: Instruction, values: Array, name: str) -> Array:
    if not instruction.has("satfinite"):
        return values
    largest = FORMATS[name].largest
    return np.where(np.isnan(values), values, np.clip(values, -largest, largest))


def _pack(instruction: Instruction, to: str, origin: str) -> Step:
    """Two numbers into one register, the first operand above; or two small ones widened."""
    element = to.removesuffix("x2")
    if origin != "f32":
        return _widen_pair(instruction, to, origin)
    mode = _mode(instruction, _FRACTION) or "rn"
    reads = [spread_reader(one, "f32") for one in instruction.operands[1:3]]
    width = WIDTHS[to]
    write = writer(instruction.operands[0], f"b{width}")
    half, whole = UNSIGNED[width // 2], UNSIGNED[width]

    def step(machine: Machine, lanes: Lanes) -> None:
        halves = []
        for read in reads:
            wide = read(machine, lanes).astype(np.float64)
            narrow = _finite(instruction, round_to(wide, element, mode), element)
            halves.append(encode(_saturate(instruction, narrow), element).astype(half))
        upper, lower = (one.astype(whole) for one in halves)
        write(machine, lanes, (upper << whole.type(width // 2)) | lower)

    return step


def _widen_pair(instruction: Instruction, to: str, origin: str) -> Step:
    element, small = to.removesuffix("x2"), origin.removesuffix("x2")
    if origin not in ("e4m3x2", "e5m2x2"):
        raise unsupported(instruction)
    read, write = (
        spread_reader(instruction.operands[1], "b16"),
        writer(instruction.operands[0], "b32"),
    )

    def step(machine: Machine, lanes: Lanes) -> None:
        pair = np.ascontiguousarray(read(machine, lanes)).view(np.uint8).reshape(-1, 2)
        wide = _saturate(instruction, round_to(decode(pair, small), element))
        write(machine, lanes, encode(wide, element).reshape(-1, 2).view(np.uint32)[:, 0])

    return step


FAMILY: Family = {"cvt": _convert}
