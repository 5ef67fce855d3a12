"""The remainder of floats against C's fmod, bit for bit, on numbers of all sizes."""

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.math.float_remainder import float_remainder
from bessemer.compiler.ir.types import DType, f32, f64
from tests.compiled_math import RUNNABLE, TARGETS, Array, run

WITH_FMA = [name for name in RUNNABLE if TARGETS[name][2]]
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.5, 3e38, 1.2e-38, 5.0, 1e-45]


def numbers(dtype: Any) -> tuple[Array, Array]:
    """Random bits; numbers of like size; multiples and their neighbours; all special pairs."""
    random = np.random.default_rng(7)
    bits = random.integers(0, 256, (2, 4000 * dtype().nbytes), np.uint8).view(dtype)
    near = random.standard_normal((2, 4000)).astype(dtype) * dtype(100)
    divisor = random.standard_normal(4000).astype(dtype)
    multiple = divisor * random.integers(1, 1 << 20, 4000).astype(dtype)
    multiple = np.nextafter(multiple, dtype(random.choice([-1e30, 1e30])), dtype=dtype)
    left, right = (pair.ravel() for pair in np.meshgrid(dtype(SPECIAL), dtype(SPECIAL)))
    x = np.concatenate([bits[0], near[0], multiple, left])
    y = np.concatenate([bits[1], near[1], divisor, right])
    return x, y


@pytest.mark.parametrize("target", WITH_FMA)
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("kind", [f32, f64], ids=str)
def test_remainder_is_that_of_c(kind: DType, lanes: int, target: str) -> None:
    x, y = numbers(kind.numpy.type)
    with np.errstate(all="ignore"):
        expected = np.fmod(x, y)
    got = run(float_remainder(kind, lanes), [kind.name] * 3, lanes, target, x, y)
    np.testing.assert_array_equal(got, expected)
    whole = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[whole]), np.signbit(expected[whole]))


@pytest.mark.parametrize("target", WITH_FMA)
@pytest.mark.parametrize("most", [5000, 1 << 30], ids=["small quotients", "large ones"])
def test_only_remainders_below_the_normal_numbers_are_flushed(most: int, target: str) -> None:
    """Not those that such a number lacks of the divisor."""
    random = np.random.default_rng(7)
    y = (random.uniform(1, 2, 4000) * 2.0 ** random.integers(-125, -100, 4000)).astype(np.float32)
    multiple = y * random.integers(1, most, 4000).astype(np.float32)
    x = np.nextafter(multiple, np.float32(0), dtype=np.float32)
    expected = np.fmod(x, y)
    expected[np.abs(expected) < 2.0**-126] = 0
    got = run(float_remainder(f32, 8), ["f32"] * 3, 8, target, x, y, flush=True)
    np.testing.assert_array_equal(got, expected)
