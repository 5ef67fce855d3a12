"""The emulator's floating-point instructions against whole fractions, rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.emulator.emulated import Array, apply, elementwise
from tests.emulator.exact_rounding import rounded

BITS = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32, "f64": np.uint64}


def to_bits(values: Array, name: str) -> Array:
    """The bits of values that the format holds."""
    if name == "bf16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[name]).view(
        BITS[name]
    )


def from_bits(bits: Array, name: str) -> Array:
    if name == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    dtype = {"f16": np.float16, "f32": np.float32, "f64": np.float64}[name]
    return bits.view(dtype).astype(np.float64)


def numbers(name: str, seed: int, count: int = 40) -> Array:
    """Numbers of the format, from tiny to large, with equal exponents often, as float64."""
    random = np.random.default_rng(seed)
    reach = {"f16": 6, "bf16": 60, "f32": 60, "f64": 300}[name]
    scale = np.ldexp(1.0, random.integers(-reach, reach, count))
    scale[::3] = 1.0
    values = random.standard_normal(count) * scale
    values[:4] = [0.0, -0.0, 1.0, -1.5]
    values[4:6] = np.ldexp(1.0, {"f16": -24, "bf16": -133, "f32": -149, "f64": -1074}[name]), 3.0
    return np.array([rounded(float(one), name) for one in values])


def same(found: Array, expected: list[Any]) -> bool:
    """Equal, with signs of zeros, and NaNs alike."""
    wanted = np.array(expected, np.float64)
    return bool(
        (
            (np.isnan(found) & np.isnan(wanted))
            | ((found == wanted) & (np.signbit(found) == np.signbit(wanted)))
        ).all()
    )


def run(instruction: str, name: str, *values: Array) -> Array:
    return from_bits(apply(instruction, [to_bits(one, name) for one in values], BITS[name]), name)


EXACT: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}


def _exactly(operation: str, name: str, mode: str) -> Callable[[float, float], float]:
    def one(a: float, b: float) -> float:
        exact = EXACT[operation](Fraction(a), Fraction(b))
        if exact == 0:
            plain = {"add": a + b, "sub": a - b, "mul": a * b}[operation]
            return plain if plain == 0 else rounded(math.copysign(5e-324, plain), name, mode)
        return rounded(exact, name, mode)

    return one


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("operation", EXACT)
def test_sums_and_products_are_rounded_once(operation: str, name: str) -> None:
    a, b = numbers(name, 1), numbers(name, 2)
    found = run(f"{operation}.rn.{name} $0, $1, $2;", name, a, b)
    assert same(found, elementwise(_exactly(operation, name, "rn"), a, b))


@pytest.mark.parametrize("name", ["f32", "f64"])
@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("operation", EXACT)
def test_directed_roundings(operation: str, mode: str, name: str) -> None:
    a, b = numbers(name, 3)[6:], numbers(name, 4)[6:]
    found = run(f"{operation}.{mode}.{name} $0, $1, $2;", name, a, b)
    assert same(found, elementwise(_exactly(operation, name, mode), a, b))


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
def test_fma_is_rounded_once(name: str) -> None:
    a, b, c = (numbers(name, seed, 120)[6:] for seed in (5, 6, 7))
    # Products that the addend nearly cancels, and sums near halfway between two numbers.
    c[::4] = [-rounded(float(x * y), name) for x, y in zip(a[::4], b[::4])]
    found = run(f"fma.rn.{name} $0, $1, $2, $3;", name, a, b, c)
    expected = elementwise(
        lambda x, y, z: rounded(Fraction(x) * Fraction(y) + Fraction(z), name), a, b, c
    )
    assert same(found, expected)


def test_fma_of_f32_where_rounding_twice_would_err() -> None:
    """1·(1+2⁻²³) + 2⁻²⁴ + a tail far below: float64 holds the tie, but not the tail."""
    a = np.array([1 + 2.0**-23, 1 + 2.0**-23, 2.0**-70])
    b = np.array([1 + 2.0**-23, 1.0, 2.0**-70])
    c = np.array([2.0**-24, 2.0**-24 - 2.0**-48, 1.0])
    found = run("fma.rn.f32 $0, $1, $2, $3;", "f32", a, b, c)
    expected = elementwise(
        lambda x, y, z: rounded(Fraction(x) * Fraction(y) + Fraction(z), "f32"), a, b, c
    )
    assert same(found, expected)


def test_division_and_roots_of_f32_and_f64() -> None:
    for name in ("f32", "f64"):
        a, b = np.abs(numbers(name, 8)[6:]), numbers(name, 9)[6:]
        found = run(f"div.rn.{name} $0, $1, $2;", name, a, b)
        assert same(
            found, elementwise(lambda x, y, n=name: rounded(Fraction(x) / Fraction(y), n), a, b)
        )
        assert same(
            run(f"rcp.rn.{name} $0, $1;", name, b),
            elementwise(lambda y, n=name: rounded(1 / Fraction(y), n), b),
        )
        root = run(f"sqrt.rn.{name} $0, $1;", name, a)
        for value, found_root in zip(a.tolist(), root.tolist()):
            # The square root of an integer decides between neighbours exactly.
            shifted = Fraction(value) * Fraction(4) ** 600
            exact = Fraction(math.isqrt(shifted.numerator // shifted.denominator), 2**600)
            assert found_root == rounded(exact, name)


def test_special_values_of_sums() -> None:
    inf, nan = np.inf, np.nan
    a, b = np.array([inf, inf, nan, 1.0]), np.array([1.0, -inf, 1.0, nan])
    assert same(run("add.rn.f32 $0, $1, $2;", "f32", a, b), [inf, nan, nan, nan])
    assert same(run("fma.rn.f32 $0, $1, $2, $3;", "f32", a, b, a), [inf, nan, nan, nan])


def test_subnormal_numbers_are_flushed_on_demand() -> None:
    tiny, small = 2.0**-140, 2.0**-126
    a, b = np.array([tiny, -tiny, small, 1.0]), np.array([0.0, -0.0, -small / 2, tiny])
    assert same(run("add.ftz.f32 $0, $1, $2;", "f32", a, b), [0.0, -0.0, small, 1.0])
    found = run("mul.ftz.f32 $0, $1, $2;", "f32", np.array([small, -small]), np.array([0.5, 0.5]))
    assert same(found, [0.0, -0.0])


def test_saturation_and_relu() -> None:
    a, b = np.array([0.5, 0.9, -2.0, np.nan]), np.array([0.25, 0.9, 1.0, 1.0])
    found = run("add.sat.f32 $0, $1, $2;", "f32", a, b)
    assert same(found, [0.75, 1.0, 0.0, 0.0])
    found = run(
        "fma.rn.relu.bf16 $0, $1, $2, $2;", "bf16", np.array([1.0, -3.0]), np.array([2.0, 2.0])
    )
    assert same(found, [4.0, 0.0])


def test_extremes_and_nans() -> None:
    a = np.array([1.0, np.nan, 2.0, np.nan, 0.0, -0.0])
    b = np.array([2.0, 1.0, np.nan, np.nan, -0.0, 0.0])
    for name in ("f32", "f64", "f16", "bf16"):
        assert same(run(f"min.{name} $0, $1, $2;", name, a, b), [1, 1, 2, np.nan, -0.0, -0.0])
        assert same(run(f"max.{name} $0, $1, $2;", name, a, b), [2, 1, 2, np.nan, 0.0, 0.0])
    assert same(
        run("min.NaN.f32 $0, $1, $2;", "f32", a, b), [1, np.nan, np.nan, np.nan, -0.0, -0.0]
    )
    found = run(
        "max.xorsign.abs.f32 $0, $1, $2;", "f32", np.array([-3.0, 1.0]), np.array([2.0, 5.0])
    )
    assert same(found, [-3.0, 5.0])


def test_signs_touch_nothing_else() -> None:
    a, b = np.array([1.0, -2.0, -0.0, np.inf]), np.array([-1.0, 1.0, 1.0, -5.0])
    for name in ("f16", "bf16", "f32", "f64"):
        assert same(run(f"neg.{name} $0, $1;", name, a), (-a).tolist())
        assert same(run(f"abs.{name} $0, $1;", name, a), [1.0, 2.0, 0.0, np.inf])
    assert same(run("copysign.f32 $0, $1, $2;", "f32", b, a), [-1.0, 2.0, 0.0, -np.inf])


@pytest.mark.parametrize("name", ["f16", "bf16"])
@pytest.mark.parametrize("operation", ["add.rn", "sub.rn", "mul.rn", "min", "max"])
def test_pairs_do_what_halves_do(operation: str, name: str) -> None:
    a, b = (to_bits(numbers(name, seed), name) for seed in (1, 2))
    single = apply(f"{operation}.{name} $0, $1, $2;", [a, b], np.uint16)
    found = apply(
        f"{operation}.{name}x2 $0, $1, $2;", [a.view(np.uint32), b.view(np.uint32)], np.uint32
    )
    assert found.view(np.uint16).tolist() == single.tolist()


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_pairs_of_fma_and_signs(name: str) -> None:
    a, b, c = (to_bits(numbers(name, seed), name) for seed in (1, 2, 3))
    wide = [one.view(np.uint32) for one in (a, b, c)]
    found = apply(f"fma.rn.{name}x2 $0, $1, $2, $3;", wide, np.uint32).view(np.uint16)
    assert found.tolist() == apply(f"fma.rn.{name} $0, $1, $2, $3;", [a, b, c], np.uint16).tolist()
    assert (apply(f"neg.{name}x2 $0, $1;", wide[:1], np.uint32) == wide[0] ^ 0x80008000).all()
    assert (apply(f"abs.{name}x2 $0, $1;", wide[:1], np.uint32) == wide[0] & 0x7FFF7FFF).all()


APPROXIMATE: dict[str, tuple[Callable[[float], float], float]] = {
    "ex2.approx.f32": (lambda x: 2.0**x, 2.0**-22),
    "ex2.approx.ftz.f32": (lambda x: 2.0**x, 2.0**-22),
    "lg2.approx.f32": (lambda x: math.log2(abs(x) + 1e-30), 2.0**-22),
    "rcp.approx.ftz.f32": (lambda x: 1 / x, 2.0**-23),
    "rsqrt.approx.f32": (lambda x: abs(x) ** -0.5, 2.0**-22),
    "sqrt.approx.f32": (lambda x: abs(x) ** 0.5, 2.0**-22),
    "sin.approx.f32": (math.sin, 2.0**-20),
    "cos.approx.f32": (math.cos, 2.0**-20),
    "tanh.approx.f32": (math.tanh, 2.0**-11),
}


@pytest.mark.parametrize("operation", APPROXIMATE)
def test_approximations_keep_their_bounds(operation: str) -> None:
    function, bound = APPROXIMATE[operation]
    x = np.linspace(-3.1, 3.1, 60).astype(np.float32).astype(np.float64)
    if operation.split(".")[0] in ("lg2", "rsqrt", "sqrt"):
        x = np.abs(x)
    found = run(f"{operation} $0, $1;", "f32", x)
    expected = np.array([function(float(one)) for one in x])
    assert (np.abs(found - expected) <= bound * np.maximum(np.abs(expected), 1e-3)).all()


def test_tanh_is_not_better_than_a_device() -> None:
    x = np.linspace(0.1, 2, 50)
    found = run("tanh.approx.f32 $0, $1;", "f32", x)
    assert np.abs(found / np.tanh(np.float32(x)) - 1).max() > 2.0**-14


def test_approximate_quotients() -> None:
    a, b = np.array([1.0, 6.0, 1.0, 3.0]), np.array([3.0, -2.0, 2.0**127, 0.0])
    found = run("div.approx.f32 $0, $1, $2;", "f32", a, b)
    assert same(found, [float(np.float32(1 / 3)), -3.0, 0.0, np.inf])
    found = run("div.full.f32 $0, $1, $2;", "f32", a, b)
    assert same(found, [float(np.float32(1 / 3)), -3.0, 2.0**-127, np.inf])


COMPARE: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a < b or a > b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "equ": lambda a, b: not (a < b or a > b),
    "neu": lambda a, b: a != b,
    "ltu": lambda a, b: not a >= b,
    "leu": lambda a, b: not a > b,
    "gtu": lambda a, b: not a <= b,
    "geu": lambda a, b: not a < b,
    "num": lambda a, b: a == a and b == b,
    "nan": lambda a, b: a != a or b != b,
}


@pytest.mark.parametrize("name", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("operation", COMPARE)
def test_comparisons(operation: str, name: str) -> None:
    a = np.array([1.0, 2.0, 1.0, np.nan, 1.0, np.nan, 0.0, np.inf])
    b = np.array([1.0, 1.0, 2.0, 1.0, np.nan, np.nan, -0.0, np.inf])
    found = apply(
        f"setp.{operation}.{name} %p0, $1, $2;", [to_bits(a, name), to_bits(b, name)], np.bool_
    )
    assert found.tolist() == elementwise(COMPARE[operation], a, b)


def test_a_comparison_may_take_another_predicate_in() -> None:
    a, b = (
        to_bits(np.array([1.0, 2.0, 3.0, 4.0]), "f32"),
        to_bits(np.array([2.0, 2.0, 2.0, 2.0]), "f32"),
    )
    body = "setp.gt.f32 %p1, $1, $2; setp.lt.or.f32 %p0|%p2, $1, $2, %p1;"
    assert apply(body, [a, b], np.bool_).tolist() == [True, False, True, True]
    body = "setp.gt.f32 %p1, $1, $2; setp.lt.and.f32 %p2|%p0, $1, $2, !%p1;"
    assert apply(body, [a, b], np.bool_).tolist() == [False, True, False, False]
    body = "setp.gt.f16x2 %p1|%p0, $1, $2;"
    pair = to_bits(np.array([1.0, 2.0, 3.0, 0.5]), "f16").view(np.uint32)
    other = to_bits(np.array([0.0, 3.0, 4.0, 0.0]), "f16").view(np.uint32)
    assert apply(body, [pair, other], np.bool_).tolist() == [False, True]


def test_properties() -> None:
    a = np.array([1.0, np.inf, np.nan, 2.0**-140, 0.0])
    table = {
        "finite": [1, 0, 0, 1, 1],
        "infinite": [0, 1, 0, 0, 0],
        "notanumber": [0, 0, 1, 0, 0],
        "normal": [1, 0, 0, 0, 0],
        "subnormal": [0, 0, 0, 1, 0],
    }
    for name, expected in table.items():
        found = apply(f"testp.{name}.f32 %p0, $1;", [to_bits(a, "f32")], np.bool_)
        assert found.astype(int).tolist() == expected
