"""Every operator with each of its examples, as concrete arrays."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

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


@cache
def cases() -> tuple[Case, ...]:
    """All cases; the numbers that stand for a shape depend on the case's name only."""
    return tuple(_cases())


def _cases() -> Iterator[Case]:
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

Test = Callable[[Case], None]


def each_case(
    *,
    element: bool = False,
    statements: bool = False,
    most_are_slow: bool = False,
    where: Callable[[Case], bool] = lambda case: True,
) -> Callable[[Test], Callable[[list[Case]], None]]:
    """Makes a test of a case one of all cases of an operator, for all operators or for those with a
    certain rule. What fails says of which case; one that is skipped hides no other."""
    found: dict[tuple[str, bool], list[Case]] = {}
    for case in cases():
        is_meant = (not element or case.operator.element is not None) and (
            not statements or case.operator.statements is not None
        )
        if is_meant and where(case):
            is_slow = most_are_slow and int(case.name.rpartition("-")[2]) >= QUICK
            found.setdefault((case.operator.name, is_slow), []).append(case)
    params = [
        pytest.param(some, id=f"{name}-others", marks=[pytest.mark.slow])
        if is_slow
        else pytest.param(some, id=name)
        for (name, is_slow), some in found.items()
    ]
    return lambda test: pytest.mark.parametrize("some", params)(_in_turn(test))


def _in_turn(test: Test) -> Callable[[list[Case]], None]:
    def whole(some: list[Case]) -> None:
        for case in some:
            try:
                test(case)
            except pytest.skip.Exception:
                if len(some) == 1:
                    raise
            except BaseException as error:
                error.add_note(f"in {case.name}")
                raise

    whole.__doc__, whole.__name__ = test.__doc__, test.__name__
    whole.__dict__.update(test.__dict__)
    return whole


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
