"""The emulator's operations on bits against loops over single bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.emulator.emulated import Array, apply, elementwise

RANDOM = np.random.default_rng(3)
WORDS = np.array([0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x00FF00FF, 12, 5], np.uint32)
A, B, C = (
    np.concatenate([np.roll(WORDS, shift), RANDOM.integers(0, 1 << 32, 24, np.uint32)])
    for shift in (0, 3, 5)
)
LONG = np.array(
    [
        0,
        1,
        (1 << 64) - 1,
        1 << 63,
        1 << 40,
        7,
        255,
        1 << 32,
        *RANDOM.integers(0, (1 << 64) - 1, 24, np.uint64).tolist(),
    ],
    np.uint64,
)
AMOUNTS = np.array([0, 1, 31, 32, 33, 63, 64, 200, *RANDOM.integers(0, 70, 24)], np.uint32)


def _bits(value: int, width: int) -> list[int]:
    return [value >> place & 1 for place in range(width)]


def _number(bits: list[int]) -> int:
    return sum(bit << place for place, bit in enumerate(bits))


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic(name: str) -> None:
    table: Callable[[int, int], int] = {"and": int.__and__, "or": int.__or__, "xor": int.__xor__}[
        name
    ]
    found = apply(f"{name}.b32 $0, $1, $2;", [A, B], np.uint32)
    assert found.tolist() == elementwise(
        lambda x, y: _number([table(p, q) for p, q in zip(_bits(x, 32), _bits(y, 32))]), A, B
    )


def test_not_and_cnot() -> None:
    assert apply("not.b32 $0, $1;", [A], np.uint32).tolist() == elementwise(
        lambda x: 0xFFFFFFFF - x, A
    )
    assert apply("cnot.b32 $0, $1;", [A], np.uint32).tolist() == elementwise(
        lambda x: int(x == 0), A
    )


@pytest.mark.parametrize("table", [0x80, 0x96, 0xE8, 0xCA, 0x01, 0x3C])
def test_lop3_is_any_function_of_three_bits(table: int) -> None:
    def one(x: int, y: int, z: int) -> int:
        return _number(
            [
                table >> (4 * p + 2 * q + r) & 1
                for p, q, r in zip(*(_bits(v, 32) for v in (x, y, z)))
            ]
        )

    found = apply(f"lop3.b32 $0, $1, $2, $3, {table};", [A, B, C], np.uint32)
    assert found.tolist() == elementwise(one, A, B, C)


@pytest.mark.parametrize(("name", "width"), [("b32", 32), ("b64", 64)])
def test_shifts_clamp_their_amount(name: str, width: int) -> None:
    values = A if width == 32 else LONG
    dtype = values.dtype.type
    mask = (1 << width) - 1
    assert apply(f"shl.{name} $0, $1, $2;", [values, AMOUNTS], dtype).tolist() == elementwise(
        lambda x, n: x << n & mask, values, AMOUNTS
    )
    assert apply(f"shr.u{width} $0, $1, $2;", [values, AMOUNTS], dtype).tolist() == elementwise(
        lambda x, n: x >> n, values, AMOUNTS
    )
    signed = values.view(f"i{width // 8}")
    assert apply(
        f"shr.s{width} $0, $1, $2;", [signed, AMOUNTS], signed.dtype.type
    ).tolist() == elementwise(lambda x, n: x >> n, signed, AMOUNTS)


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(mode: str) -> None:
    def amount(n: int) -> int:
        return min(n, 32) if mode == "clamp" else n % 32

    left = apply(f"shf.l.{mode}.b32 $0, $1, $2, $3;", [A, B, AMOUNTS], np.uint32)
    assert left.tolist() == elementwise(
        lambda x, y, n: (y << 32 | x) << amount(n) >> 32 & 0xFFFFFFFF, A, B, AMOUNTS
    )
    right = apply(f"shf.r.{mode}.b32 $0, $1, $2, $3;", [A, B, AMOUNTS], np.uint32)
    assert right.tolist() == elementwise(
        lambda x, y, n: (y << 32 | x) >> amount(n) & 0xFFFFFFFF, A, B, AMOUNTS
    )


def test_prmt_picks_bytes_and_signs() -> None:
    def one(x: int, y: int, selector: int) -> int:
        bytes_of = [*x.to_bytes(4, "little"), *y.to_bytes(4, "little")]
        result = 0
        for place in range(4):
            nibble = selector >> 4 * place & 15
            byte = bytes_of[nibble & 7]
            result |= ((255 if byte & 128 else 0) if nibble & 8 else byte) << 8 * place
        return result

    assert apply("prmt.b32 $0, $1, $2, $3;", [A, B, C], np.uint32).tolist() == elementwise(
        one, A, B, C
    )


def _fields() -> tuple[Array, Array]:
    position = np.array([0, 0, 4, 31, 32, 40, 255, 8, *RANDOM.integers(0, 40, 24)], np.uint32)
    length = np.array([0, 32, 8, 1, 4, 4, 255, 64, *RANDOM.integers(0, 40, 24)], np.uint32)
    return position, length


@pytest.mark.parametrize("width", [32, 64])
def test_bfe_takes_a_field(width: int) -> None:
    values = A if width == 32 else LONG
    position, length = _fields()

    def unsigned(x: int, start: int, count: int) -> int:
        return _number(_bits(x, width)[start : start + count])

    def signed(x: int, start: int, count: int) -> int:
        bits = _bits(x, width)
        if count == 0:
            return 0
        sign = bits[min(start + count - 1, width - 1)]
        field = [
            bits[start + place] if place < count and start + place < width else sign
            for place in range(width)
        ]
        return _number(field) - (sign << width)

    assert apply(
        f"bfe.u{width} $0, $1, $2, $3;", [values, position, length], values.dtype.type
    ).tolist() == elementwise(unsigned, values, position, length)
    found = apply(
        f"bfe.s{width} $0, $1, $2, $3;", [values, position, length], np.dtype(f"i{width // 8}").type
    )
    assert found.tolist() == elementwise(signed, values, position, length)


@pytest.mark.parametrize("width", [32, 64])
def test_bfi_puts_a_field_in(width: int) -> None:
    values = A if width == 32 else LONG
    into = np.roll(values, 11)
    position, length = _fields()

    def one(field: int, whole: int, start: int, count: int) -> int:
        bits, new = _bits(whole, width), _bits(field, width)
        for place in range(min(count, width)):
            if start + place < width:
                bits[start + place] = new[place]
        return _number(bits)

    found = apply(
        f"bfi.b{width} $0, $1, $2, $3, $4;", [values, into, position, length], values.dtype.type
    )
    assert found.tolist() == elementwise(one, values, into, position, length)


@pytest.mark.parametrize("width", [32, 64])
def test_counts(width: int) -> None:
    values = A if width == 32 else LONG
    assert apply(f"popc.b{width} $0, $1;", [values], np.uint32).tolist() == elementwise(
        lambda x: x.bit_count(), values
    )
    assert apply(f"clz.b{width} $0, $1;", [values], np.uint32).tolist() == elementwise(
        lambda x: width - x.bit_length(), values
    )
    highest = elementwise(lambda x: (x.bit_length() - 1) & 0xFFFFFFFF, values)
    assert apply(f"bfind.u{width} $0, $1;", [values], np.uint32).tolist() == highest
    signed = values.view(f"i{width // 8}")
    expected = elementwise(lambda x: ((~x if x < 0 else x).bit_length() - 1) & 0xFFFFFFFF, signed)
    assert apply(f"bfind.s{width} $0, $1;", [signed], np.uint32).tolist() == expected
    reverse = apply(f"brev.b{width} $0, $1;", [values], values.dtype.type)
    assert reverse.tolist() == elementwise(lambda x: _number(_bits(x, width)[::-1]), values)


def test_bmsk_makes_ones() -> None:
    position, length = _fields()
    expected = elementwise(
        lambda start, count: ((1 << count) - 1) << start & 0xFFFFFFFF, position, length
    )
    assert apply("bmsk.clamp.b32 $0, $1, $2;", [position, length], np.uint32).tolist() == expected


def test_moves_pack_and_unpack() -> None:
    assert apply("mov.b64 $0, {$1, $2};", [A, B], np.uint64).tolist() == elementwise(
        lambda x, y: y << 32 | x, A, B
    )
    assert apply("mov.b64 {%r20, $0}, $1;", [LONG], np.uint32).tolist() == elementwise(
        lambda x: x >> 32, LONG
    )
    assert apply("mov.b32 {%rs20, $0}, $1;", [A], np.uint16).tolist() == elementwise(
        lambda x: x >> 16, A
    )
    assert apply("mov.b64 {_, $0}, $1;", [LONG], np.uint32).tolist() == elementwise(
        lambda x: x >> 32, LONG
    )


def test_predicates_take_part_in_logic() -> None:
    body = (
        "setp.lt.u32 %p1, $1, $2; setp.eq.u32 %p2|%p3, $1, 12; xor.pred %p0, %p1, %p3; "
        "not.pred %p0, %p0;"
    )
    assert apply(body, [A, B], np.bool_).tolist() == elementwise(
        lambda x, y: (x < y) == (x != 12), A, B
    )


@pytest.mark.parametrize(
    ("name", "table"),
    [("s32", {"lt": -1, "eq": 0, "gt": 1}), ("u32", {"lo": -1, "eq": 0, "hi": 1})],
)
def test_comparisons_of_whole_numbers(name: str, table: dict[str, int]) -> None:
    a, b = (
        one.view(np.int32) if name == "s32" else one
        for one in (A, np.where(np.arange(32) % 3 == 0, A, B))
    )
    for operation, sign in table.items():
        found = apply(f"setp.{operation}.{name} %p0, $1, $2;", [a, b], np.bool_)
        assert found.tolist() == elementwise(lambda x, y, s=sign: (x > y) - (x < y) == s, a, b)


def test_selections() -> None:
    signs = B.view(np.int32)
    found = apply("setp.ge.s32 %p1, $2, 0; selp.b32 $0, $1, 7, %p1;", [A, signs], np.uint32)
    assert found.tolist() == elementwise(lambda x, s: x if s >= 0 else 7, A, signs)
    found = apply("slct.u32.s32 $0, $1, $2, $3;", [A, C, signs], np.uint32)
    assert found.tolist() == elementwise(lambda x, y, s: x if s >= 0 else y, A, C, signs)
    found = apply("set.lt.u32.s32 $0, $1, $2;", [signs, np.roll(signs, 1)], np.uint32)
    assert found.tolist() == elementwise(
        lambda x, y: 0xFFFFFFFF if x < y else 0, signs, np.roll(signs, 1)
    )
