"""The algebra of sizes against Python's integers, on random formulas and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Size, Symbol, format_size, symbol
from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.text.parse_sizes import parse_size

N, M = symbol("n"), symbol("m")
I = symbol("i", 4)  # noqa: E741
J = symbol("j", N)
K = symbol("k", 3 * N)
FEW = dims.minimum(N, 8)
AMONG_FEW = symbol("a", M) * FEW + symbol("b", FEW)
FOREIGN = dims.atom(("a value", "read from data"))
EXTENTS: dict[str, Callable[[int], int]] = {
    "i": lambda n: 4,
    "j": lambda n: n,
    "k": lambda n: 3 * n,
}


@dataclass(frozen=True)
class Values:
    """What the leaves stand for: n at least 1 (loops over it run), the foreign one any integer."""

    n: int
    m: int
    i: int
    j: int
    k: int
    foreign: int

    def of(self, leaf: Atom) -> int:
        found = getattr(self, leaf.name) if isinstance(leaf, Symbol) else self.foreign
        assert isinstance(found, int)
        return found


@st.composite
def all_values(draw: st.DrawFn) -> Values:
    n = draw(st.integers(1, 7))
    inside = {name: draw(st.integers(0, extent(n) - 1)) for name, extent in EXTENTS.items()}
    return Values(n, draw(st.integers(0, 7)), **inside, foreign=draw(st.integers(-9, 9)))


Formula = tuple[Size, Callable[[Values], int]]
"""A size, and its value by Python's own arithmetic."""


def _leaf(size: Size) -> Formula:
    if isinstance(size, int):
        return size, lambda values: size
    found = dims.as_atom(size)
    assert found is not None
    return size, lambda values: values.of(found)


_DIVISORS: tuple[Formula, ...] = (
    *(_leaf(number) for number in (1, 2, 3, 4, 6, 8)),
    _leaf(N),
    (2 * N, lambda values: 2 * values.n),
    (N + 1, lambda values: values.n + 1),
    (N * N, lambda values: values.n**2),
    (6 * N * N + 3 * N, lambda values: 6 * values.n**2 + 3 * values.n),
)


def _combine(name: str, a: Formula, b: Formula) -> Formula:
    (x, f), (y, g) = a, b
    match name:
        case "add":
            return x + y, lambda values: f(values) + g(values)
        case "sub":
            return x - y, lambda values: f(values) - g(values)
        case "mul":
            return x * y, lambda values: f(values) * g(values)
        case "min":
            return dims.minimum(x, y), lambda values: min(f(values), g(values))
        case "max":
            return dims.maximum(x, y), lambda values: max(f(values), g(values))
        case "div":
            return dims.floordiv(x, y), lambda values: f(values) // g(values)
        case _:
            return dims.mod(x, y), lambda values: f(values) % g(values)


_LEAVES = st.one_of(
    st.sampled_from([N, M, I, J, K, FOREIGN]).map(_leaf), st.integers(-9, 9).map(_leaf)
)


def _grow(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    pairs = st.builds(_combine, st.sampled_from(["add", "sub", "mul", "min", "max"]), inner, inner)
    parts = st.builds(_combine, st.sampled_from(["div", "mod"]), inner, st.sampled_from(_DIVISORS))
    return st.one_of(pairs, parts)


formulas = st.recursive(_LEAVES, _grow, max_leaves=8)


@settings(max_examples=400)
@given(formulas, all_values())
def test_a_simplified_size_has_the_value_of_the_formula(formula: Formula, values: Values) -> None:
    size, value = formula
    assert evaluate(size, values.of) == value(values)


@settings(max_examples=400)
@given(formulas, all_values())
def test_bounds_hold(formula: Formula, values: Values) -> None:
    size, value = formula
    if dims.is_nonnegative(size):
        assert value(values) >= 0
    assert evaluate(dims.upper_bound(size), values.of) >= value(values)


@settings(max_examples=200)
@given(formulas, formulas, all_values())
def test_an_exact_quotient_gives_the_dividend_back(a: Formula, b: Formula, values: Values) -> None:
    for dividend, divisor in ((a[0], b[0]), (a[0] * b[0], b[0])):
        if divisor == 0:
            continue
        quotient = dims.divide_exactly(dividend, divisor)
        if quotient is not None:
            assert evaluate(quotient * divisor - dividend, values.of) == 0


@settings(max_examples=200)
@given(formulas, all_values())
def test_substitution_is_evaluation_in_two_steps(formula: Formula, values: Values) -> None:
    size, value = formula
    known: dict[Atom, Size] = {Symbol("n"): values.n, Symbol("i", 4): values.i}
    left = dims.substitute(size, known)
    assert Symbol("n") not in dims.atoms(left)
    assert evaluate(left, values.of) == value(values)


@settings(max_examples=200)
@given(formulas, all_values())
def test_a_coefficient_and_the_rest_make_the_size(formula: Formula, values: Values) -> None:
    size, value = formula
    index = Symbol("i", 4)
    coefficient = dims.coefficient_of(size, index)
    if coefficient is not None:
        rest = dims.substitute(size, {index: 0})
        assert evaluate(coefficient * I + rest, values.of) == value(values)


@pytest.mark.parametrize(
    ("size", "coefficient"),
    [
        (3 * N * I + M, 3 * N),
        (I * N + I * M - 2 * I + 5, N + M - 2),
        (I - I + M // 4, 0),
        (7, 0),
        (I * I, None),
        (I * N + I // 2, None),
        (I * (I % 3), None),
    ],
)
def test_a_size_that_is_linear_has_a_coefficient(size: Size, coefficient: Size | None) -> None:
    assert dims.coefficient_of(size, Symbol("i", 4)) == coefficient


def test_nothing_is_divided_exactly_by_nothing() -> None:
    for size in (N, 4 * N + 4, 3, 0):
        assert dims.divide_exactly(size, 0) is None


_NAMED = st.sampled_from([N, M, symbol("batch size"), symbol("min"), symbol("`")]).map(
    lambda size: (size, lambda values: 0)
)


@settings(max_examples=200)
@given(st.recursive(_NAMED | st.integers(-9, 9).map(_leaf), _grow, max_leaves=8))
def test_the_text_of_a_size_reads_back(formula: Formula) -> None:
    size, _ = formula
    assert format_size(parse_size(format_size(size))) == format_size(size)


@pytest.mark.parametrize(
    ("size", "simplified"),
    [
        ((I * 5 + symbol("c", 5)) // 5, I),
        ((I * 5 + symbol("c", 5)) % 5, symbol("c", 5)),
        ((J * M + symbol("c", M)) // M, J),
        ((4 * N) // 4, N),
        ((N * M) % N, 0),
        (N // 2 // 3, N // 6),
        (((N + 1) // 2 + 1) // 2, (N + 3) // 4),
        ((N + M) // 2 + (N + M + 1) // 2 + 3, N + M + 3),
        (3 * M * N - 3 * M * (N // 2), 3 * M * ((N + 1) // 2)),
        (N + 5 - (N + 5) // 2, N // 2 + 3),
        ((N + 1) % 3 + 3 * ((N + 1) // 3) + 3, N + 4),
        ((N % 12) % 4, N % 4),
        ((N % 12 + 1) % 8, dims.atom(dims.Mod(N % 12 + 1, 8))),
        (dims.minimum(I, 3), I),
        (dims.maximum(N, 0), N),
        (dims.minimum(M, 5 * ((M + 4) // 5)), M),
        (dims.maximum(M * N, 4 * (M // 4) * N), M * N),
        ((N + 2 * M) - (N + M), M),
        ((N + 1) * (M + 1) // (N + 1), M + 1),
        ((8 * N * M) // (128 * N), M // 16),
        ((8 * N * M + 128 * N) // (128 * N), M // 16 + 1),
        ((N * M) // (N * (M + 1)), M // (M + 1)),
        ((4 * N + 3) // 8, N // 2),
        ((8 * N * M) % (128 * N), 8 * N * (M % 16)),
        ((4 - M % 4) % 4, (3 * M) % 4),
        (M + (-1 * M) % 8, 8 * ((M + 7) // 8)),
        (M + (2 - M % 2) % 2, 2 * ((M + 1) // 2)),
        (M - M % 2, 2 * (M // 2)),
        ((M + 3 + (-1 * M - 3) % 8) * N, 8 * N * ((M + 2) // 8) + 8 * N),
        (M - M % 8, 8 * (M // 8)),
        ((M - M % 8) // 4, 2 * (M // 8)),
        (5 * ((M + 4) // 5) - (M + (4 * M) % 5), 0),
        ((I * M * FEW + AMONG_FEW) // (M * FEW), I),
        ((I * M * FEW + AMONG_FEW) % (M * FEW), AMONG_FEW),
        (dims.maximum(FEW, 8), 8),
        (AMONG_FEW // (8 * M), 0),
    ],
)
def test_index_arithmetic_of_views_cancels(size: Size, simplified: Size) -> None:
    assert size == simplified


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (2 * N * M - 3, "2*m*n-3"),
        ((N + 3) // 4, "((n+3)//4)"),
        (N % 4 * 2, "2*(n%4)"),
        (dims.minimum(N, M + 1), "min(n, m+1)"),
        (symbol("a b") + 1, "`a b`+1"),
    ],
)
def test_sizes_are_written_as_one_would_write_them(size: Size, text: str) -> None:
    assert format_size(size) == text
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "n+", "(n", "n n", "2.5", "f(n)", "%1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(CompileError, match="expected"):
        parse_size(text)


def test_a_division_by_a_known_zero_is_refused() -> None:
    with pytest.raises(InternalError, match="division of n by 0"):
        dims.floordiv(N, 0)


def test_quotient_and_remainder_join_again() -> None:
    x = 3 * K + M
    for size, joined in [
        (x % 96 + 96 * (x // 96), x),
        (7 * M * (K % 5) + 35 * M * (K // 5) + 1, 7 * M * K + 1),
        ((K // 25) % 4 + 4 * (K // 100), K // 25),
        (K % 5 + M % 5 + 5 * (M // 5), K % 5 + M),
        (x % N + N * (x // N) - x, 0),
    ]:
        assert size == joined
    assert K % 96 + 95 * (K // 96) != K


def test_what_is_less_than_a_common_factor_leaves_divisions() -> None:
    """Lanes of a panel inside of a head: neighbours stay neighbours."""
    panel, lane = symbol("panel", 24), symbol("lane", 32)
    assert dims.mod(32 * panel + lane, 64) == 32 * dims.mod(panel, 2) + lane
    assert dims.floordiv(32 * panel + lane, 64) == dims.floordiv(panel, 2)
    assert str(dims.floordiv(32 * panel + lane + 7, 64)) == "((32*panel+lane+7)//64)"
    for p in range(24):
        for n in range(32):
            values: dict[Atom, int] = {Symbol("panel", 24): p, Symbol("lane", 32): n}
            for numerator, by in ((32 * panel + lane, 64), (48 * panel + lane, 96)):
                exact = evaluate(numerator, values.__getitem__)
                assert evaluate(dims.mod(numerator, by), values.__getitem__) == exact % by
                assert evaluate(dims.floordiv(numerator, by), values.__getitem__) == exact // by


def test_minima_are_at_most_each_side() -> None:
    a, b, c = (dims.symbol(name) for name in "abc")
    least = dims.minimum(a, dims.minimum(b, c))
    for side in (a, b, c):
        assert dims.is_nonnegative(side - least) and not dims.is_nonnegative(least - side)
        assert dims.is_nonnegative(dims.maximum(side, b) - b)
    place = dims.atom(dims.Symbol("place", least))
    assert dims.minimum(place, b - 1) == place
