"""Shape expressions, and the signature that an artifact carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.runtime.artifact import Signature, check_signature
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.shapes import evaluate, names_in, parse_expression
from tests import handmade


@given(st.integers(0, 50), st.integers(1, 50))
def test_shape_expressions_are_integer_arithmetic(batch: int, height: int) -> None:
    symbols = {"batch": batch, "height": height}
    expected = {
        "batch": batch,
        "2*batch+1": 2 * batch + 1,
        "(height+1)//2": (height + 1) // 2,
        "-batch%height": -batch % height,
        "min(batch, height)-max(batch, 3, height)": min(batch, height) - max(batch, 3, height),
    }
    assert {text: evaluate(text, symbols) for text in expected} == expected


@pytest.mark.parametrize(
    "text",
    [
        *["__import__('os')", "a.b", "a[0]", "a**2", "1.5", "True", "a/b", "a if b else c"],
        *["", "a b", "min()", "max(x=1)", "lambda: 1", "(" * 500, "a:=1", "min"],
    ],
)
def test_everything_else_is_no_shape_expression(text: str) -> None:
    with pytest.raises(ValueError):
        parse_expression(text)


def test_a_division_by_zero_in_a_shape_is_one_by_one_as_in_the_compiled_code() -> None:
    assert evaluate("7//n", {"n": 0}) == 7
    assert evaluate("7%n", {"n": 0}) == 7  # what is left of 7 without 7 times 0


def test_the_names_of_an_expression_are_its_symbols() -> None:
    assert names_in("min(a, 2*b)+c//3") == {"a", "b", "c"}


def test_a_signature_survives_json() -> None:
    made = handmade.positive().signature
    assert Signature.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "damaged"),
        ("nonsense", "damaged"),
        ('{"format":1}', "damaged"),
        ('{"format":99}', "format 99, this Bessemer reads format 1"),
    ],
)
def test_a_damaged_signature_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        Signature.from_json(text)


def test_a_signature_has_to_make_sense() -> None:
    good = handmade.positive().signature
    check_signature(good)
    x = good.inputs[0]
    for wrong, problem in [
        (replace(good, prefix="a b"), "not a C identifier"),
        (replace(good, symbols=("length", "length")), "listed twice"),
        (replace(good, symbols=("length", "a+b")), "not a plain name"),
        (replace(good, inputs=(replace(x, dtype="float8"),)), "unknown dtype 'float8'"),
        (replace(good, inputs=(replace(x, shape=(-2,)),)), "negative size"),
        (replace(good, inputs=(replace(x, shape=("found",)),)), "unknown symbol 'found'"),
        (replace(good, inputs=(replace(x, shape=("2*length",)),)), "no input has the symbol"),
    ]:
        with pytest.raises(ValueError, match=problem):
            check_signature(wrong)
