"""Floating-point formats: rounding of exact values in every mode, and the bits of
formats that NumPy lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.state.arrays import Array


@dataclass(frozen=True)
class Format:
    """`precision` counts the hidden bit; `lowest` is the exponent of the smallest normal number."""

    precision: int
    lowest: int
    largest: float
    has_infinity: bool = True


FORMATS = {
    "f64": Format(53, -1022, float(np.finfo(np.float64).max)),
    "f32": Format(24, -126, float(np.finfo(np.float32).max)),
    "tf32": Format(11, -126, (2 - 2.0**-10) * 2.0**127),
    "bf16": Format(8, -126, (2 - 2.0**-7) * 2.0**127),
    "f16": Format(11, -14, 65504.0),
    "e5m2": Format(3, -14, 57344.0),
    "e4m3": Format(4, -6, 448.0, has_infinity=False),
}


def round_to(values: Array, name: str, mode: str = "rn") -> Array:
    """`values` (float64) rounded to the format `name`, still as float64.

    `mode`: rn (ties to even), rna (ties away), rz, rm (down), rp (up). To be right where `values`
    are themselves rounded they must have been rounded to odd (see `exact`).
    """
    form = FORMATS[name]
    _, exponent = np.frexp(values)
    # At and below the smallest normal number the step no longer shrinks: subnormals.
    step = np.maximum(exponent.astype(np.int64) - 1, form.lowest) - (form.precision - 1)
    finite = np.isfinite(values)
    scaled = np.ldexp(np.where(finite, values, 0.0), -step)
    rounded = np.ldexp(round_integer(scaled, mode), step)
    result = np.where(finite, rounded, values)
    return _overflow(result, values, form, mode)


def round_integer(values: Array, mode: str) -> Array:
    """`values` rounded to whole numbers."""
    match mode:
        case "rn" | "rni":
            return np.rint(values)
        case "rz" | "rzi":
            return np.trunc(values)
        case "rm" | "rmi":
            return np.floor(values)
        case "rp" | "rpi":
            return np.ceil(values)
        case "rna":
            return np.copysign(np.floor(np.abs(values) + 0.5), values)
    raise ValueError(f"no rounding mode {mode!r}")


def _overflow(rounded: Array, values: Array, form: Format, mode: str) -> Array:
    too_large = (np.abs(rounded) > form.largest) & np.isfinite(values)
    if not too_large.any():
        return rounded
    stays = {
        "rz": np.ones(np.shape(values), np.bool_),
        "rm": values > 0,
        "rp": values < 0,
    }.get(mode, np.zeros(np.shape(values), np.bool_))
    limit = np.where(stays, form.largest, np.inf)
    return np.where(too_large, np.copysign(limit, values), rounded)


def bf16_to_f32(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: Array) -> Array:
    """The nearest bf16 of float32 `values`; a NaN becomes 0x7fff."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def decode(bits: Array, name: str) -> Array:
    """The float64 values of `bits` in the format `name`."""
    match name:
        case "f64":
            return bits.view(np.float64)
        case "f32":
            return bits.view(np.float32).astype(np.float64)
        case "f16":
            return bits.view(np.float16).astype(np.float64)
        case "bf16":
            return bf16_to_f32(bits).astype(np.float64)
        case "tf32":
            return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
        case "e4m3" | "e5m2":
            return _BYTE_VALUES[name][bits]
    raise ValueError(f"no format {name!r}")


def encode(values: Array, name: str) -> Array:
    """The bits of float64 `values` that the format `name` holds exactly (see
    `round_to`); NaNs are canonical.
    """
    match name:
        case "f64":
            return values.view(np.uint64)
        case "f32" | "tf32":
            bits = values.astype(np.float32).view(np.uint32)
            return np.where(np.isnan(values), np.uint32(0x7FFFFFFF), bits)
        case "f16":
            half = values.astype(np.float16).view(np.uint16)
            return np.where(np.isnan(values), np.uint16(0x7FFF), half)
        case "bf16":
            upper = (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            return np.where(np.isnan(values), np.uint16(0x7FFF), upper)
        case "e4m3" | "e5m2":
            return _encode_byte(values, name)
    raise ValueError(f"no format {name!r}")


def _encode_byte(values: Array, name: str) -> Array:
    """Finite values only beside NaN; infinities were clamped (cvt to these formats is
    always satfinite).
    """
    magnitudes = _BYTE_VALUES[name][:128]
    ordered = np.where(np.isnan(magnitudes), np.inf, magnitudes)
    place = np.searchsorted(ordered, np.abs(np.nan_to_num(values))).astype(np.uint8)
    sign = np.signbit(values).astype(np.uint8) << np.uint8(7)
    return np.where(np.isnan(values), np.uint8(0x7F), place | sign)


def _byte_values(name: str) -> Array:
    form = FORMATS[name]
    fraction_bits = form.precision - 1
    codes = np.arange(256)
    exponent = (codes & 0x7F) >> fraction_bits
    fraction = codes & ((1 << fraction_bits) - 1)
    normal = np.ldexp(1 + fraction / (1 << fraction_bits), exponent + form.lowest - 1)
    subnormal = np.ldexp(fraction / (1 << fraction_bits), form.lowest)
    values = np.where(exponent == 0, subnormal, normal)
    if form.has_infinity:
        top = exponent == (0x7F >> fraction_bits)
        values = np.where(top, np.where(fraction == 0, np.inf, np.nan), values)
    else:
        values = np.where((codes & 0x7F) == 0x7F, np.nan, values)
    return np.where(codes & 0x80, -values, values)


_BYTE_VALUES = {name: _byte_values(name) for name in ("e4m3", "e5m2")}


def flush(values: Array) -> Array:
    """`values` with subnormal float32 numbers as zeros of the same sign (.ftz)."""
    size = np.abs(values)
    if size.min() >= np.float32(2.0**-126):
        return values
    tiny = (size < np.float32(2.0**-126)) & (size > 0)
    return (
        np.where(tiny, np.copysign(np.zeros_like(values), values), values) if tiny.any() else values
    )
