"""The emulator's cvt against whole fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.emulator.emulated import Array, apply
from tests.emulator.exact_rounding import rounded, whole
from tests.emulator.test_emulator_floats import BITS, from_bits, numbers, same, to_bits

INTEGERS = {
    f"{kind}{bits}": np.dtype(f"{letter}{bits // 8}")
    for kind, letter in (("u", "u"), ("s", "i"))
    for bits in (8, 16, 32, 64)
}


def _whole_numbers(name: str) -> Array:
    limits = np.iinfo(INTEGERS[name])
    random = np.random.default_rng(1)
    some = random.integers(limits.min, limits.max, 20, INTEGERS[name], endpoint=True)
    return np.array([0, 1, limits.max, limits.min, limits.max - 1, *some], INTEGERS[name])


def _limited(value: int, name: str) -> int:
    limits = np.iinfo(INTEGERS[name])
    return max(limits.min, min(limits.max, value))


def _reals(name: str) -> Array:
    values = numbers(name, 2, 60)
    values[6:20] = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        127.5,
        128.5,
        255.5,
        -128.5,
        40000.0,
        -3.0,
        65000.0,
        0.49,
        -0.9,
    ]
    return np.array([rounded(float(one), name) for one in values])


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("origin", ["u8", "s8", "u16", "s32", "u64", "s64"])
def test_whole_numbers_are_cut_or_extended(origin: str, to: str) -> None:
    a = _whole_numbers(origin)
    dtype = INTEGERS[to]
    # 8-bit results live in 16-bit registers and wider ones; the store takes the low bits.
    found = apply(f"cvt.{to}.{origin} $0, $1;", [a], dtype.type)
    expected = [(value & (1 << 8 * dtype.itemsize) - 1) for value in a.tolist()]
    assert found.view(f"u{dtype.itemsize}").tolist() == expected


@pytest.mark.parametrize(
    ("origin", "to"),
    [
        (origin, to)
        for origin in ("s32", "u32", "s64")
        for to in ("u8", "s8", "u16", "s16", "u32", "s32")
        if origin != to
    ],
)
def test_whole_numbers_saturate(origin: str, to: str) -> None:
    a = _whole_numbers(origin)
    found = apply(f"cvt.sat.{to}.{origin} $0, $1;", [a], INTEGERS[to].type)
    assert found.tolist() == [_limited(value, to) for value in a.tolist()]


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("to", ["s8", "u8", "s16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("origin", ["f16", "f32", "f64"])
def test_reals_become_whole(origin: str, to: str, mode: str) -> None:
    a = _reals(origin)
    found = apply(f"cvt.{mode}.{to}.{origin} $0, $1;", [to_bits(a, origin)], INTEGERS[to].type)
    assert found.tolist() == [_limited(whole(Fraction(x), mode), to) for x in a.tolist()]


def test_what_is_no_number_becomes_zero_and_infinity_the_end() -> None:
    a = to_bits(np.array([np.nan, np.inf, -np.inf, 3e38]), "f32")
    assert apply("cvt.rzi.s32.f32 $0, $1;", [a], np.int32).tolist() == [
        0,
        2**31 - 1,
        -(2**31),
        2**31 - 1,
    ]
    assert apply("cvt.rni.u32.f32 $0, $1;", [a], np.uint32).tolist() == [0, 2**32 - 1, 0, 2**32 - 1]


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("to", ["f16", "f32", "f64"])
@pytest.mark.parametrize("origin", ["s16", "u32", "s32", "u64", "s64"])
def test_whole_numbers_become_reals(origin: str, to: str, mode: str) -> None:
    a = _whole_numbers(origin)
    found = from_bits(apply(f"cvt.{mode}.{to}.{origin} $0, $1;", [a], BITS[to]), to)
    assert same(found, [rounded(Fraction(x), to, mode) for x in a.tolist()])


WIDTHS = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32, "f64": np.uint64}


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("pair", ["f16.f32", "f16.f64", "f32.f64"])
def test_reals_are_narrowed(pair: str, mode: str) -> None:
    to, origin = pair.split(".")
    a = _reals(origin)
    a[30:34] = [rounded(x, origin) for x in (6.1e-5, 65519.0, 65520.0, -7e-8)]
    a[34:36] = np.inf, -np.inf
    found = from_bits(apply(f"cvt.{mode}.{pair} $0, $1;", [to_bits(a, origin)], WIDTHS[to]), to)
    assert same(found, [rounded(x, to, mode) for x in a.tolist()])


@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_bf16_is_narrowed(mode: str) -> None:
    a = _reals("f32")
    a[30:32] = np.float32(1 + 2.0**-8), np.float32(3.4e38)
    found = apply(f"cvt.{mode}.bf16.f32 $0, $1;", [to_bits(a, "f32")], np.uint16)
    assert same(from_bits(found, "bf16"), [rounded(x, "bf16", mode) for x in a.tolist()])


def test_reals_are_widened_exactly() -> None:
    for to, origin in (("f32", "f16"), ("f64", "f16"), ("f64", "f32"), ("f32", "bf16")):
        a = np.concatenate([_reals(origin), [np.inf, -np.inf, np.nan]])
        found = from_bits(apply(f"cvt.{to}.{origin} $0, $1;", [to_bits(a, origin)], WIDTHS[to]), to)
        assert same(found, a.tolist())


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
def test_reals_are_rounded_to_whole_reals(mode: str) -> None:
    a = _reals("f32")
    found = from_bits(apply(f"cvt.{mode}.f32.f32 $0, $1;", [to_bits(a, "f32")], np.uint32), "f32")
    expected = [math.copysign(abs(float(whole(Fraction(x), mode))), x) for x in a.tolist()]
    assert same(found, expected)


@pytest.mark.parametrize("mode", ["rna", "rn", "rz"])
def test_tf32_keeps_ten_bits(mode: str) -> None:
    a = _reals("f32")
    a[30:33] = 1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-11)
    found = apply(f"cvt.{mode}.tf32.f32 $0, $1;", [to_bits(a, "f32")], np.uint32).view(np.float32)
    assert same(found.astype(np.float64), [rounded(x, "tf32", mode) for x in a.tolist()])


@pytest.mark.parametrize("relu", ["", ".relu"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_two_reals_are_packed(name: str, mode: str, relu: str) -> None:
    a, b = _reals("f32"), np.roll(_reals("f32"), 7)
    found = apply(
        f"cvt.{mode}{relu}.{name}x2.f32 $0, $1, $2;",
        [to_bits(a, "f32"), to_bits(b, "f32")],
        np.uint32,
    )
    halves = from_bits(found.view(np.uint16), name).reshape(-1, 2)
    for place, values in ((1, a), (0, b)):
        expected = [rounded(x, name, mode) for x in values.tolist()]
        if relu:
            expected = [0.0 if x < 0 else x for x in expected]
        assert same(halves[:, place], expected)


def _byte_value(code: int, name: str) -> float:
    """An 8-bit float by its definition."""
    fraction_bits, bias = (3, 7) if name == "e4m3" else (2, 15)
    sign = -1.0 if code & 0x80 else 1.0
    exponent, fraction = (code & 0x7F) >> fraction_bits, code & ((1 << fraction_bits) - 1)
    if name == "e4m3" and code & 0x7F == 0x7F:
        return math.nan
    if name == "e5m2" and exponent == 31:
        return sign * math.inf if fraction == 0 else math.nan
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias - fraction_bits)
    return sign * (1 + fraction / (1 << fraction_bits)) * 2.0 ** (exponent - bias)


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_bytes_are_floats(name: str) -> None:
    a = np.array(
        [
            0.0,
            1.0,
            -1.1,
            447.0,
            500.0,
            -1e9,
            np.inf,
            0.001,
            2.0**-9,
            2.0**-10,
            3 * 2.0**-11,
            17.0,
            19.0,
            0.3,
        ]
    )
    pair = to_bits(a, "f32")
    found = apply(f"cvt.rn.satfinite.{name}x2.f32 $0, $1, $2;", [pair, np.roll(pair, 1)], np.uint16)
    upper = [_byte_value(int(code) >> 8, name) for code in found]
    assert same(np.array(upper), [rounded(x, name, "rn", saturates=True) for x in a.tolist()])
    codes = np.arange(256, dtype=np.uint16) << 8 | 0x38
    wide = apply(f"cvt.rn.f16x2.{name}x2 $0, $1;", [codes], np.uint32).view(np.uint16)[1::2]
    assert same(from_bits(wide, "f16"), [_byte_value(code, name) for code in range(256)])


def test_modifiers_of_real_conversions() -> None:
    a = to_bits(np.array([-1.0, 0.25, 7.0, np.nan, 2.0**-130]), "f32")
    found = from_bits(apply("cvt.sat.f32.f32 $0, $1;", [a], np.uint32), "f32")
    assert same(found, [0.0, 0.25, 1.0, 0.0, 2.0**-130])
    found = from_bits(apply("cvt.ftz.f64.f32 $0, $1;", [a], np.uint64), "f64")
    assert same(found, [-1.0, 0.25, 7.0, np.nan, 0.0])
    assert (apply("cvt.rn.bf16.f32 $0, $1;", [a], np.uint16)[3] & 0x7FFF) == 0x7FFF
