"""Sums and products that keep what rounding loses, so that one rounding at the end is the only one.

A float64 that was "rounded to odd" (truncated, its last bit set where anything was lost) rounds to
any format of at most 51 bits as the exact value would (Boldo and Melquiond, "Emulation of FMA and
correctly rounded sums").
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from emulator.instructions.formats import round_to
from emulator.state.arrays import Array


def odd_sum(left: Array, right: Array) -> Array:
    """left + right (float64), rounded to odd."""
    total = left + right
    part = total - left
    lost = (left - (total - part)) + (right - part)
    return _to_odd(total, lost)


def _to_odd(total: Array, lost: Array) -> Array:
    """`total`, the nearest float64 of total + lost, as rounded to odd."""
    even = (total.view(np.int64) & 1) == 0
    moved = even & (lost != 0) & np.isfinite(total) & np.isfinite(lost)
    if not moved.any():
        return total
    return np.where(moved, np.nextafter(total, np.copysign(np.inf, lost)), total)


def fma_f32(left: Array, right: Array, addend: Array) -> Array:
    """The float32 nearest to left × right + addend, all float32."""
    product = left.astype(np.float64) * right
    total = np.asarray(product + addend)
    bits = total.view(np.int64) & 0x1FFFFFFF
    # Rounding twice errs only where the float64 stands halfway between two float32 numbers.
    size = np.abs(total)
    if ((bits == 0x10000000) | ((size < 2.0**-125) & (size != 0))).any():
        total = odd_sum(product, addend.astype(np.float64))
    return total.astype(np.float32)


def fma(left: Array, right: Array, addend: Array, name: str, mode: str) -> Array:
    """left × right + addend (float64 values of the format `name`), rounded once; as float64."""
    if name != "f64":
        return round_to(odd_sum(left * right, addend), name, mode)
    left, right, addend = np.broadcast_arrays(left, right, addend)
    exact = [
        _rounded_fma(float(a), float(b), float(c), mode)
        for a, b, c in zip(left.reshape(-1), right.reshape(-1), addend.reshape(-1))
    ]
    return np.array(exact, np.float64).reshape(left.shape)


def _rounded_fma(left: float, right: float, addend: float, mode: str) -> float:
    plain = float(np.float64(left) * right + addend)
    finite = np.isfinite(left) and np.isfinite(right) and np.isfinite(addend)
    if not finite or plain == left * right == 0.0:
        return plain
    exact = Fraction(left) * Fraction(right) + Fraction(addend)
    return round_fraction(exact, mode) if exact else plain


def round_fraction(exact: Fraction, mode: str) -> float:
    """The float64 of a number in one of the modes rn, rz, rm, rp."""
    try:
        nearest = float(exact)
    except OverflowError:
        nearest = float("inf") if exact > 0 else float("-inf")
    if mode == "rn" or (np.isfinite(nearest) and Fraction(nearest) == exact):
        return nearest
    above = (not np.isfinite(nearest) and nearest > 0) or (np.isfinite(nearest) and nearest > exact)
    down = mode == "rm" or (mode == "rz" and exact > 0)
    if down == above:
        return float(np.nextafter(nearest, -np.inf if down else np.inf))
    return nearest
