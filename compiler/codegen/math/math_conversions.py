"""Conversions of bf16 and f16 to and from f32 and f64, by integer operations; f16 also by
instructions.

LLVM turns `fptrunc` and `fpext` of half into calls of compiler-rt where the target lacks F16C, and
f64 to half everywhere on x86. The integer forms of f16 follow Fabian Giesen's float_to_half_fast3
and half_to_float (public domain, 2012): denormals are rounded by an addition in f32. The results do
not depend on whether the processor flushes denormals, except for f64 values below f32's normal
numbers.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_terms import Term, select

_SIGN = 0x80000000
_INFINITY = 0x7F800000


def converted(x: Term, source: str, target: str, native_half: bool) -> Term:
    """x, of type `source`, converted to `target`; bf16 and f16 are passed as i16. Rounds once, to
    nearest even."""
    if source == "f64":
        wide = _rounded_to_odd(x)
    else:
        wide = _decoded(x, source, native_half)
    match target:
        case "bf16":
            return _to_bf16(wide)
        case "f16":
            return wide.narrowed("f16").bits() if native_half else _to_f16(wide)
        case "f64":
            return wide.widened("f64")
        case _:
            return wide


def _decoded(x: Term, source: str, native_half: bool) -> Term:
    match source:
        case "bf16":
            return (x.widened("i32") << 16).as_float()
        case "f16":
            return x.as_float().widened("f32") if native_half else _from_f16(x)
        case _:
            return x


def _rounded_to_odd(x: Term) -> Term:
    """f64 truncated to f32, with the last bit set if that changed the number (rounding to odd).

    Rounding the result to at most 22 bits gives what a single rounding would have given (Boldo and
    Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    nearest = x.narrowed("f32")
    back = nearest.widened("f64")
    bits = nearest.bits()
    bits = bits - select(abs(back) > abs(x), bits.constant(1), 0)
    return (bits | select(back.equals(x), bits.constant(0), 1)).as_float()


def _to_bf16(x: Term) -> Term:
    bits = x.bits()
    kept = bits >> 16
    rounded = (bits + 0x7FFF + (kept & 1)) >> 16
    is_nan = (bits & ~_SIGN) > _INFINITY
    return select(is_nan, kept | 0x40, rounded).narrowed("i16")


def _to_f16(x: Term) -> Term:
    bits = x.bits()
    size = bits & ~_SIGN
    normal = (size - (112 << 23) + 0xFFF + ((size >> 13) & 1)) >> 13
    # Adding 1/2 leaves a denormal's ten bits, rounded, at the end of the sum.
    small = (size.as_float() + 0.5).bits() - (126 << 23)
    result = select(size < (113 << 23), small, normal)
    quiet_nan = ((size >> 13) & 0x1FF) | 0x7E00
    special = select(size > _INFINITY, quiet_nan, 0x7C00)
    result = select(size >= (143 << 23), special, result)
    return (result | ((bits & _SIGN) >> 16)).narrowed("i16")


def _from_f16(x: Term) -> Term:
    bits = x.widened("i32")
    shifted = (bits & 0x7FFF) << 13
    exponent = shifted & (0x7C00 << 13)
    normal = shifted + (112 << 23)
    special = shifted + (224 << 23)
    small = ((shifted + (113 << 23)).as_float() - 2.0**-14).bits()
    result = select(exponent.equals(0), small, select(exponent < (0x7C00 << 13), normal, special))
    return (result | ((bits & 0x8000) << 16)).as_float()
