"""Every operator with each of its examples, as concrete arrays."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (fills OPS)
from bessemer.compiler.ir.op import OPS, Attributes, Operator
from bessemer.compiler.ir.types import Array


@dataclass(frozen=True, eq=False)
class Case:
    """An operator, the arrays and attributes to run it on, and how close results must be."""

    name: str
    operator: Operator
    arrays: tuple[Array, ...]
    attributes: Attributes
    tolerance: float


def cases() -> Iterator[Case]:
    """All cases; the numbers that stand for a shape depend on the case's name only."""
    for operator in OPS.values():
        for count, example in enumerate(operator.examples):
            name = f"{operator.name}-{count}"
            random = np.random.default_rng(zlib.crc32(name.encode()))
            arrays = tuple(
                random.standard_normal(item).astype(np.float32) if isinstance(item, tuple) else item
                for item in example.inputs
            )
            yield Case(name, operator, arrays, example.attributes, example.tolerance)


QUICK = 2
"""How many examples of an operator the everyday tests compile; the others are marked slow."""


def each_case(
    *,
    element: bool = False,
    statements: bool = False,
    most_are_slow: bool = False,
    where: Callable[[Case], bool] = lambda case: True,
) -> pytest.MarkDecorator:
    """Parametrizes a test over the cases, of all operators or of those with a certain rule."""
    chosen = [
        case
        for case in cases()
        if (not element or case.operator.element is not None)
        and (not statements or case.operator.statements is not None)
        and where(case)
    ]
    slow = {case for case in chosen if most_are_slow and _number(case) >= QUICK}
    params = [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case in slow else [])
        for case in chosen
    ]
    return pytest.mark.parametrize("case", params)


def _number(case: Case) -> int:
    return int(case.name.rpartition("-")[2])


def assert_same(actual: Array, expected: Array, tolerance: float) -> None:
    """Equal types and shapes; floats within the tolerance, relative or absolute; the rest equal."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, expected)
        return
    np.testing.assert_allclose(
        actual.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance
    )
