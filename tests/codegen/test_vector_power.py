"""Our pow against NumPy: f32 against float64, f64 against long double, both as compiled."""

from typing import Any

import numpy as np
import pytest

from tests.codegen.test_vector_math import LONG_DOUBLE_ONLY, assert_close, evaluate
from tests.compiled_math import DTYPES, RUNNABLE, Array


@pytest.fixture(scope="module", autouse=True)
def quiet_numpy() -> Any:
    with np.errstate(all="ignore"):
        yield


def power_samples(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array]:
    """Bases and exponents of all sizes, many with results near the ends of the range."""
    top = float(np.log(np.finfo(dtype).max))
    count = 30_000
    base = np.concatenate(
        [
            2.0 ** rng.uniform(-top, top, count),
            rng.uniform(0.5, 2, count),
            rng.uniform(0, 20, count),
        ]
    ).astype(dtype)
    exponent = np.concatenate(
        [
            rng.uniform(-top, top, count) / np.log(base[:count].astype(np.float64)),
            rng.choice([-1, 1], count) * 2.0 ** rng.uniform(-3, 9.5, count),
            rng.integers(-30, 30, count),
        ]
    ).astype(dtype)
    base[-count // 2 :] *= -1
    return base, exponent


@pytest.mark.parametrize("target", RUNNABLE)
def test_pow_f32_is_within_one_ulp(target: str, rng: np.random.Generator) -> None:
    x, y = power_samples(rng, np.float32)
    reference = np.power(x.astype(np.float64), y.astype(np.float64))
    assert_close(evaluate("pow", "f32", x, y, target=target), reference, 1, x, y)


@LONG_DOUBLE_ONLY
@pytest.mark.parametrize("target", RUNNABLE)
def test_pow_f64_is_within_two_ulp(target: str, rng: np.random.Generator) -> None:
    x, y = power_samples(rng, np.float64)
    reference = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    assert_close(evaluate("pow", "f64", x, y, lanes=8, target=target), reference, 2, x, y)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_pow_has_the_special_cases_of_c(dtype: str, target: str) -> None:
    info = np.finfo(DTYPES[dtype])
    values = [0.0, 0.5, 1, 1.5, 2, 3, 1e30, 2.0**53, info.max, info.tiny, np.inf]
    values = [sign * value for value in values for sign in (1, -1)] + [np.nan]
    x, y = (grid.ravel().astype(DTYPES[dtype]) for grid in np.meshgrid(values, values))
    expected = np.power(x, y)
    got = evaluate("pow", dtype, x, y, lanes=4, target=target)
    assert_close(got, expected.astype(np.longdouble), 2, x, y)
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))
    exact = number & ((expected == 0) | np.isinf(expected) | (np.abs(expected) == 1))
    assert np.array_equal(got[exact], expected[exact])
