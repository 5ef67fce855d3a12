"""The emulator's whole-number instructions against Python's numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.emulator.emulated import Array, apply, elementwise

TYPES = {
    f"{kind}{bits}": np.dtype(f"{letter}{bits // 8}")
    for kind, letter in (("u", "u"), ("s", "i"))
    for bits in (16, 32, 64)
}


def _numbers(name: str, seed: int, small: bool = False) -> Array:
    dtype = TYPES[name]
    limits = np.iinfo(dtype)
    random = np.random.default_rng(seed)
    special = [0, 1, limits.max, limits.min, limits.max - 1, limits.min + 1, 2, 3]
    low, high = (max(limits.min, -40), 40) if small else (limits.min, limits.max)
    return np.array([*special, *random.integers(low, high, 24, dtype, endpoint=True)], dtype)


def _wrap(value: int, name: str) -> int:
    bits = int(name[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if name[0] == "s" and value >> (bits - 1) else value


def _quotient(a: int, b: int) -> int:
    return -1 if b == 0 else (abs(a) // abs(b)) * (-1 if (a < 0) != (b < 0) else 1)


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": _quotient,
    "rem": lambda a, b: a if b == 0 else a - _quotient(a, b) * b,
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("operation", BINARY)
def test_two_numbers_make_one(operation: str, name: str) -> None:
    a, b = _numbers(name, 1), np.roll(_numbers(name, 2, small=True), 5)
    found = apply(f"{operation}.{name} $0, $1, $2;", [a, b], TYPES[name].type)
    assert found.tolist() == elementwise(lambda x, y: _wrap(BINARY[operation](x, y), name), a, b)


@pytest.mark.parametrize("name", TYPES)
def test_the_upper_half_of_a_product(name: str) -> None:
    a, b = _numbers(name, 1), np.roll(_numbers(name, 2), 7)
    bits = int(name[1:])
    found = apply(f"mul.hi.{name} $0, $1, $2;", [a, b], TYPES[name].type)
    assert found.tolist() == elementwise(lambda x, y: _wrap(x * y >> bits, name), a, b)


@pytest.mark.parametrize("name", ["u16", "s16", "u32", "s32"])
def test_wide_products_lose_nothing(name: str) -> None:
    a, b = _numbers(name, 1), np.roll(_numbers(name, 2), 7)
    double = f"{name[0]}{2 * int(name[1:])}"
    c = _numbers(double, 3)
    dtype = TYPES[double].type
    found = apply(f"mul.wide.{name} $0, $1, $2;", [a, b], dtype)
    assert found.tolist() == elementwise(lambda x, y: x * y, a, b)
    found = apply(f"mad.wide.{name} $0, $1, $2, $3;", [a, b, c], dtype)
    assert found.tolist() == elementwise(lambda x, y, z: _wrap(x * y + z, double), a, b, c)


@pytest.mark.parametrize("name", ["u32", "s32", "u64", "s64"])
def test_multiply_add_wraps(name: str) -> None:
    a, b, c = (_numbers(name, seed) for seed in (1, 2, 3))
    bits = int(name[1:])
    dtype = TYPES[name].type
    found = apply(f"mad.lo.{name} $0, $1, $2, $3;", [a, b, c], dtype)
    assert found.tolist() == elementwise(lambda x, y, z: _wrap(x * y + z, name), a, b, c)
    found = apply(f"mad.hi.{name} $0, $1, $2, $3;", [a, b, c], dtype)
    assert found.tolist() == elementwise(lambda x, y, z: _wrap((x * y >> bits) + z, name), a, b, c)


def test_saturating_sums_stop_at_the_ends() -> None:
    a, b = _numbers("s32", 1), np.roll(_numbers("s32", 2), 3)
    low, high = -(1 << 31), (1 << 31) - 1
    found = apply("add.sat.s32 $0, $1, $2;", [a, b], np.int32)
    assert found.tolist() == elementwise(lambda x, y: min(max(x + y, low), high), a, b)
    found = apply("sub.sat.s32 $0, $1, $2;", [a, b], np.int32)
    assert found.tolist() == elementwise(lambda x, y: min(max(x - y, low), high), a, b)


@pytest.mark.parametrize("name", ["s16", "s32", "s64"])
def test_signs(name: str) -> None:
    a = _numbers(name, 1)
    assert apply(f"neg.{name} $0, $1;", [a], TYPES[name].type).tolist() == elementwise(
        lambda x: _wrap(-x, name), a
    )
    assert apply(f"abs.{name} $0, $1;", [a], TYPES[name].type).tolist() == elementwise(
        lambda x: _wrap(abs(x), name), a
    )


@pytest.mark.parametrize("half", ["lo", "hi"])
@pytest.mark.parametrize("name", ["u32", "s32"])
def test_products_of_24_bits(name: str, half: str) -> None:
    a, b, c = (_numbers(name, seed) for seed in (4, 5, 6))

    def narrow(x: int) -> int:
        x &= 0xFFFFFF
        return x - (1 << 24) if name == "s32" and x >> 23 else x

    def product(x: int, y: int) -> int:
        whole = narrow(x) * narrow(y)
        return whole >> 16 if half == "hi" else whole

    found = apply(f"mul24.{half}.{name} $0, $1, $2;", [a, b], TYPES[name].type)
    assert found.tolist() == elementwise(lambda x, y: _wrap(product(x, y), name), a, b)
    found = apply(f"mad24.{half}.{name} $0, $1, $2, $3;", [a, b, c], TYPES[name].type)
    assert found.tolist() == elementwise(lambda x, y, z: _wrap(product(x, y) + z, name), a, b, c)


def test_carries_make_a_sum_of_64_bits() -> None:
    a, b = _numbers("u64", 1), np.roll(_numbers("u64", 2), 9)
    body = (
        "mov.b64 {%r10, %r11}, $1; mov.b64 {%r12, %r13}, $2;"
        "OP.cc.u32 %r14, %r10, %r12; OPc.u32 %r15, %r11, %r13; mov.b64 $0, {%r14, %r15};"
    )
    found = apply(body.replace("OP", "add"), [a, b], np.uint64)
    assert found.tolist() == elementwise(lambda x, y: _wrap(x + y, "u64"), a, b)
    found = apply(body.replace("OP", "sub"), [a, b], np.uint64)
    assert found.tolist() == elementwise(lambda x, y: _wrap(x - y, "u64"), a, b)


def test_a_product_of_64_bits_by_carries() -> None:
    """(x₁·2³² + x₀)·y as mad.lo.cc and madc.hi build it."""
    a, b = _numbers("u64", 1), _numbers("u32", 2)
    body = (
        "mov.b64 {%r10, %r11}, $1; mul.lo.u32 %r12, %r10, $2; mul.lo.u32 %r13, %r11, $2;"
        "mad.lo.cc.u32 %r14, %r10, $2, 0; madc.hi.u32 %r15, %r10, $2, %r13; mov.b64 $0, {%r12, "
        "%r15};"
    )
    found = apply(body, [a, b], np.uint64)
    assert found.tolist() == elementwise(lambda x, y: _wrap(x * y, "u64"), a, b)


def test_the_sum_of_absolute_differences() -> None:
    a, b, c = (_numbers("s32", seed, small=True) for seed in (1, 2, 3))
    a[:8], b[:8] = 5, -7
    found = apply("sad.s32 $0, $1, $2, $3;", [a, b, c], np.int32)
    assert found.tolist() == elementwise(lambda x, y, z: _wrap(abs(x - y) + z, "s32"), a, b, c)


@pytest.mark.parametrize("types", ["u32.u32", "s32.s32", "u32.s32", "s32.u32"])
def test_dot_products_of_bytes(types: str) -> None:
    a, b, c = _numbers("u32", 1), np.roll(_numbers("u32", 2), 3), _numbers("s32", 3, small=True)
    left, right = (np.int8 if one == "s32" else np.uint8 for one in types.split("."))
    expected = [
        _wrap(
            sum(
                int(x) * int(y) for x, y in zip(np.array([p]).view(left), np.array([q]).view(right))
            )
            + int(r),
            "s32",
        )
        for p, q, r in zip(a, b, c)
    ]
    assert apply(f"dp4a.{types} $0, $1, $2, $3;", [a, b, c], np.int32).tolist() == expected


@pytest.mark.parametrize("half", ["lo", "hi"])
def test_dot_products_of_two_halves(half: str) -> None:
    a, b, c = _numbers("u32", 1), np.roll(_numbers("u32", 2), 3), _numbers("s32", 3, small=True)
    expected = []
    for p, q, r in zip(a, b, c):
        bytes_of = np.array([q]).view(np.int8)[2 if half == "hi" else 0 :][:2]
        total = sum(int(x) * int(y) for x, y in zip(np.array([p]).view(np.int16), bytes_of))
        expected.append(_wrap(total + int(r), "s32"))
    assert apply(f"dp2a.{half}.s32.s32 $0, $1, $2, $3;", [a, b, c], np.int32).tolist() == expected


@pytest.mark.parametrize(
    "operation", ["add.u16x2", "add.s16x2", "min.s16x2", "max.s16x2", "min.u16x2", "max.u16x2"]
)
def test_two_halves_at_once(operation: str) -> None:
    name, pair = operation.split(".")
    half = pair.removesuffix("x2")
    a, b = _numbers(half, 1), np.roll(_numbers(half, 2), 3)
    found = apply(f"{operation} $0, $1, $2;", [a.view(np.uint32), b.view(np.uint32)], np.uint32)
    expected = elementwise(lambda x, y: _wrap(BINARY[name](x, y), half), a, b)
    assert found.view(TYPES[half]).tolist() == expected
