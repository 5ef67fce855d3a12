"""Our vector math against NumPy: f32 against float64, f64 against long double, both as compiled."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.math.vector_math import (
    BINARY,
    COMPOSED,
    UNARY,
    definition,
    least_lanes,
)
from tests.compiled_math import (
    RUNNABLE,
    TARGETS,
    Array,
    object_for,
    run,
    undefined_symbols,
)

BEST = RUNNABLE[-1]
X86_ONLY = pytest.mark.skipif("sse4.2" not in RUNNABLE, reason="x86 machines only")
LONG_DOUBLE_ONLY = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no better than double here"
)


def evaluate(
    name: str, dtype: str, *inputs: Array, lanes: int = 16, target: str = BEST, flush: bool = False
) -> Array:
    has_lookup = target == "avx512" and lanes >= least_lanes(name, dtype, True)
    function = definition(name, dtype, lanes, TARGETS[target][2], has_lookup)
    return run(function, [dtype] * (len(inputs) + 1), lanes, target, *inputs, flush=flush)


def ulps(got: Array, reference: Array) -> Array:
    """Errors in units in the last place of the reference rounded to got's dtype.

    0 where both are NaN or overflow alike, and where both are at most the smallest normal number
    with no opposite signs; infinite where only one is NaN.
    """
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(reference), reference.dtype.type(info.tiny))
        _, exponent = np.frexp(np.where(np.isfinite(size), size, 1))
        unit = np.ldexp(reference.dtype.type(1), exponent - 1 - info.nmant)
        error: Array = np.abs(got.astype(reference.dtype) - reference) / unit
        error[got == reference.astype(got.dtype)] = 0
    flushed = (np.abs(reference) < info.tiny) & (np.abs(got) <= info.tiny) & (got * reference >= 0)
    error[flushed | (np.isnan(got) & np.isnan(reference))] = 0
    error[np.isnan(got) != np.isnan(reference)] = np.inf
    return error


def assert_close(got: Array, reference: Array, limit: float, *inputs: Array) -> None:
    error = ulps(got, reference)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, (
        f"{error[worst]:.3f} ulp at {[x[worst] for x in inputs]}:"
        f" {got[worst]!r}, not {reference[worst]!r}"
    )


def erf_reference(x: Array) -> Array:
    """erf(x) = 2 / sqrt(pi) exp(-x^2) sum 2^n x^(2n + 1) / (1 3 5 ... (2n + 1)): all one sign."""
    bounded = np.clip(x, -7, 7)
    term, total = bounded.copy(), bounded.copy()
    for n in range(1, 260):
        term = term * (2 * bounded * bounded / (2 * n + 1))
        total = total + term
    sqrt_pi = np.sqrt(x.dtype.type(4) * np.arctan(x.dtype.type(1)))
    return np.where(np.abs(x) < 6.5, 2 / sqrt_pi * np.exp(-bounded * bounded) * total, np.sign(x))


NUMPY_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh"}
NUMPY_NAMES |= {"acosh": "arccosh", "atanh": "arctanh"}


def reference_of(name: str) -> Callable[[Array], Array]:
    match name:
        case "erf":
            return erf_reference
        case "sigmoid":
            return lambda x: 1 / (1 + np.exp(-x))
        case _:
            function: Callable[[Array], Array] = getattr(np, NUMPY_NAMES.get(name, name))
            return function


# Where exp(-x) is a little more than 2^24, the sum of 1 and it is a tie.
ULPS = {"sigmoid": 2.5}
PERIODIC = ("sin", "cos", "tan")
BOTH_SIGNS = [0, np.inf, 1, 0.5, 0.6, 0.65, 5, 1e-45, 2.0**-126, 126, 3.4028235e38]
THRESHOLDS = [88.72283, 88.72284, -87.33654, -87.33655, 89.4159, 89.41599, 127.99999, -126.00001]
EDGES = np.array([*BOTH_SIGNS, *np.negative(BOTH_SIGNS), *THRESHOLDS, 128, np.nan], np.float32)


def f32_patterns(step: int) -> Array:
    """Every step-th bit pattern of float32, NaNs and denormals too, and the edges."""
    patterns = np.arange(step // 3, 2**32, step, dtype=np.uint64).astype(np.uint32)
    quarter_turns = (np.arange(1, 2**24, 1 + step // 4) * (np.pi / 2)).astype(np.float32)
    return np.concatenate([patterns.view(np.float32), EDGES, quarter_turns])


def reduced_to_domain(name: str, x: Array, largest: float) -> Array:
    return x[~(np.isfinite(x) & (np.abs(x) > largest))] if name in PERIODIC else x


@pytest.fixture(scope="module", autouse=True)
def quiet_numpy() -> Any:
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("name", UNARY)
def test_f32_is_within_two_ulp_over_its_whole_range(name: str) -> None:
    x = f32_patterns(1 << 10)
    if name == "erf":
        # math.erf is as good as the series and takes four million arguments quickly.
        reference = np.array([math.erf(value) for value in x.tolist()])
    else:
        reference = reference_of(name)(x.astype(np.float64))
    assert_close(evaluate(name, "f32", x), reference, ULPS.get(name, 2), x)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", ["erf", "tanh", "sigmoid"])
def test_functions_that_level_off_end_at_one(name: str, target: str) -> None:
    x = np.array([*np.linspace(9.02, 9.6, 59), 10, 17, 100, 3e38, np.inf], np.float32)
    got = evaluate(name, "f32", 2 * x if name == "sigmoid" else x, lanes=16, target=target)
    assert (got == 1).all()


NEAR_ONE = np.concatenate([1 + 2.0**e * np.linspace(-1, 1, 20_001) for e in (-20, -10, -4, -1)])


@pytest.mark.parametrize("name", ["log", "log1p"])
def test_logarithms_are_within_two_ulp_where_they_are_small(name: str) -> None:
    x = NEAR_ONE if name == "log" else np.concatenate([NEAR_ONE - 1, (NEAR_ONE - 1) * 2.0**-30])
    x = x.astype(np.float32)
    got = evaluate(name, "f32", x, flush=True)
    assert_close(got, reference_of(name)(x.astype(np.float64)), 2, x)


@pytest.mark.skipif("avx512" not in RUNNABLE, reason="only where there are lookups")
@pytest.mark.parametrize("lanes", [16, 64])
def test_one_plus_erf_errs_by_no_more_than_the_sum_of_two(lanes: int) -> None:
    x = f32_patterns(1 << 10)
    reference = 1 + np.array([math.erf(value) for value in x.tolist()])
    got = evaluate("one_plus_erf", "f32", x, lanes=lanes, target="avx512")
    number = ~np.isnan(reference)
    assert np.isnan(got[~number]).all()
    assert np.abs(got - reference)[number].max() <= 2.0**-23
    assert (got[x == 0] == 1).all()
    assert (got[x < -4] == 0).all()
    assert (got[x > 4] == 2).all()


@pytest.mark.skipif("avx512" not in RUNNABLE, reason="only where there are lookups")
def test_exponentials_of_what_is_not_positive_err_by_little_more_than_others() -> None:
    x = f32_patterns(1 << 9)
    x = x[~(x > 0)]
    reference = np.exp(x.astype(np.float64))
    got = evaluate("exp_nonpositive", "f32", x, lanes=64, target="avx512", flush=True)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    beside = reference * np.abs(x) * 5e-9 / np.spacing(reference.astype(np.float32))
    number = reference > 2.0**-126
    assert (ulps(got, reference) - beside)[number].max() <= 2
    assert (got[reference < 2.0**-126] == 0).all()
    assert (got[x == 0] == 1).all()


def gelu_reference(x: Array) -> Array:
    found: Array = x * np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])
    return found


def gelu_by_tanh_reference(x: Array) -> Array:
    found: Array = x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return found


@pytest.mark.skipif("avx512" not in RUNNABLE, reason="only where there are lookups")
@pytest.mark.parametrize("name", ["gelu", "gelu_by_tanh"])
def test_gelu_is_exact_where_the_sum_of_one_and_erf_would_cancel(name: str) -> None:
    x = f32_patterns(1 << 14)
    # As artifacts have it: no denormals.
    x = x[((x == 0) | ~(np.abs(x) < 2.0**-125)) & ~np.isinf(x)]
    x = np.concatenate([x, np.linspace(-8, 8, 30_000, dtype=np.float32)])
    wide = x.astype(np.float64)
    reference = gelu_reference(wide) if name == "gelu" else gelu_by_tanh_reference(wide)
    reference[x < -20] = 0
    got = evaluate(name, "f32", x, lanes=64, target="avx512", flush=True)
    for lowest, limit in ((0.0, 1.3), (-2.0, 2), (-3.0, 9), (-4.0, 250), (-5.0, 2000)):
        part = ~(x < lowest)
        assert_close(got[part], reference[part], limit, x[part])
    assert np.abs(got - reference)[~np.isnan(x)].max(where=x[~np.isnan(x)] < 1, initial=0) < 6e-8
    assert (got[x < -6] == 0).all()
    assert (got[x > 6] == x[x > 6]).all()
    ends = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)
    got = evaluate(name, "f32", ends, lanes=16, target="avx512", flush=True)
    np.testing.assert_array_equal(got, np.array([np.inf, np.nan, np.nan, 0, 0], np.float32))
    assert np.signbit(got[4])


@pytest.mark.skipif("avx512" not in RUNNABLE, reason="only where there are lookups")
def test_the_slope_of_gelu_errs_by_little_more_than_a_sum_with_one() -> None:
    x = np.linspace(-12, 12, 50_001, dtype=np.float32)
    wide = x.astype(np.float64)
    share = np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in wide.tolist()])
    reference = share + wide * np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    got = evaluate("gelu_slope", "f32", x, lanes=64, target="avx512", flush=True)
    assert np.abs(got - reference).max() < 1e-7
    assert np.abs(got - reference)[x < 0].max() < 3e-8
    ends = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, -30.0], np.float32)
    got = evaluate("gelu_slope", "f32", ends, lanes=16, target="avx512", flush=True)
    np.testing.assert_array_equal(got, np.array([1, 0, np.nan, 0.5, 0.5, 0], np.float32))


@pytest.mark.parametrize("target", RUNNABLE)
def test_silu_is_within_three_ulp(target: str) -> None:
    x = f32_patterns(1 << 14)
    x = x[((x == 0) | ~(np.abs(x) < 2.0**-125)) & ~((x < -87) & (x > -100))]
    wide = x.astype(np.float64)
    got = evaluate("silu", "f32", x, lanes=64, target=target, flush=True)
    assert_close(got, wide / (1 + np.exp(-wide)), 3, x)
    assert np.signbit(got[x == 0]).sum() == np.signbit(x[x == 0]).sum()


@pytest.mark.parametrize("target", RUNNABLE)
def test_mish_is_within_four_ulp(target: str) -> None:
    x = f32_patterns(1 << 14)
    x = x[((x == 0) | ~(np.abs(x) < 2.0**-125)) & ~((x < -87) & (x > -100))]
    wide = x.astype(np.float64)
    power = np.exp(np.minimum(wide, 50))
    reference = wide * (power * (power + 2) / (power * (power + 2) + 2))
    got = evaluate("mish", "f32", x, lanes=64, target=target, flush=True)
    assert_close(got, reference, 4.5, x)
    assert np.signbit(got[x == 0]).sum() == np.signbit(x[x == 0]).sum()


@pytest.mark.parametrize("target", RUNNABLE)
def test_softplus_is_within_four_ulp(target: str) -> None:
    x = f32_patterns(1 << 14)
    x = x[((x == 0) | ~(np.abs(x) < 2.0**-125)) & ~((x < -87.3) & (x > -100))]
    x = np.concatenate([x, np.linspace(-87, 20, 40_001), np.linspace(-1, 1, 40_001)]).astype(
        np.float32
    )
    got = evaluate("softplus", "f32", x, lanes=64, target=target, flush=True)
    wide = x.astype(np.float64)
    assert_close(got, np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide))), 4, x)
    assert (got[x < -100] == 0).all()


@pytest.mark.skipif("avx512" not in RUNNABLE, reason="only where there are lookups")
def test_lookups_are_the_same_at_every_width() -> None:
    x = f32_patterns(1 << 16)
    for name in ("exp", "erf", "log", "log1p", "sigmoid", "tanh", "gelu", "gelu_slope", "silu"):
        narrow = evaluate(name, "f32", x, lanes=16, target="avx512")
        for lanes in (32, 64):
            wide = evaluate(name, "f32", x, lanes=lanes, target="avx512")
            np.testing.assert_array_equal(wide.view(np.int32), narrow.view(np.int32))


@pytest.mark.parametrize(("target", "lanes"), [(t, n) for t in RUNNABLE for n in (1, 4, 8, 64)])
def test_f32_is_within_two_ulp_at_every_width_on_every_instruction_set(
    target: str, lanes: int
) -> None:
    for name in UNARY:
        x = f32_patterns(1 << 20)
        reference = reference_of(name)(x.astype(np.float64))
        got = evaluate(name, "f32", x, lanes=lanes, target=target)
        assert_close(got, reference, ULPS.get(name, 2), x)


@X86_ONLY
@pytest.mark.parametrize("target", [name for name in ("sse4.2", "avx512") if name in RUNNABLE])
@pytest.mark.parametrize("name", UNARY)
def test_f32_with_denormals_flushed_errs_by_no_more_than_a_denormal(name: str, target: str) -> None:
    x = f32_patterns(1 << 16)
    x = x[(x == 0) | ~(np.abs(x) < 2.0**-126)]
    got = evaluate(name, "f32", x, target=target, flush=True)
    reference = reference_of(name)(x.astype(np.float64))
    normal = ~(np.abs(got - reference) <= 2.0**-126)
    assert normal.any()
    assert_close(got[normal], reference[normal], ULPS.get(name, 2), x[normal])


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", PERIODIC)
def test_f32_turns_any_number_of_times(name: str, target: str) -> None:
    """Angles of up to 3e38, alone, beside small ones, and beside infinity."""
    x = np.ldexp(np.arange(2**23, 2**24, 1 << 12), 8).astype(np.float32)
    x = np.concatenate([np.ldexp(x, k) for k in range(97)] + [np.array([3.4028235e38], np.float32)])
    assert np.isfinite(x).all() and x.min() == 2.0**31
    for angles in (x, -x, np.stack([x, x / 2.0**40, np.full_like(x, np.inf)]).T.ravel()):
        reference = reference_of(name)(angles.astype(np.float64))
        assert_close(evaluate(name, "f32", angles, target=target), reference, 2, angles)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_quarter_turns_stay_between_minus_one_and_one(name: str, target: str) -> None:
    """Around the ends of the ranges that are reduced in one way, too."""
    peaks = np.arange(0, 83_445) * (np.pi / 2)
    x = (peaks[:, None] + np.linspace(-0.02, 0.02, 9)).astype(np.float32).ravel()
    x = np.concatenate([x, 2.0**17 + np.linspace(-10, 10, 1000), 2.0**31 + np.arange(0, 9999, 999)])
    x = x.astype(np.float32)
    got = evaluate(name, "f32", x, target=target)
    assert np.abs(got).max() <= 1
    assert_close(got, reference_of(name)(x.astype(np.float64)), 2, x)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_huge_angles_stay_between_minus_one_and_one(name: str, target: str) -> None:
    wide = np.ldexp(np.float64(1.2345), np.arange(31, 1023))
    assert np.abs(evaluate(name, "f64", wide, target=target)).max() <= 1


def f64_samples(rng: np.random.Generator, count: int) -> Array:
    """All magnitudes, the neighbourhoods of 0 and +-1, and the ranges where exp lives."""
    sign = rng.choice([-1.0, 1.0], count)
    return np.concatenate(
        [
            sign * 2.0 ** rng.uniform(-1022, 1024, count),
            sign * 2.0 ** rng.uniform(-60, 10, count),
            sign * (1 - 2.0 ** rng.uniform(-53, 0, count)),
            sign * (1 + 2.0 ** rng.uniform(-52, 0, count)),
            *(rng.uniform(-bound, bound, count) for bound in (2, 30, 710, 1023)),
            np.rint(2.0 ** rng.uniform(0, 29, count)) * (np.pi / 2),
            EDGES.astype(np.float64),
            np.array([709.78, 709.79, -708.39, -708.4, 710.47, 710.48, 1e-310, -1e-310, 1e308]),
        ]
    )


@LONG_DOUBLE_ONLY
@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", UNARY)
def test_f64_is_within_three_ulp(name: str, target: str, rng: np.random.Generator) -> None:
    x = reduced_to_domain(name, f64_samples(rng, 8000), 2.0**30)
    reference = reference_of(name)(x.astype(np.longdouble))
    assert_close(evaluate(name, "f64", x, lanes=8, target=target), reference, 3, x)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", UNARY)
def test_zeros_keep_their_sign_where_the_function_is_odd(name: str, dtype: str) -> None:
    zeros = np.array([0.0, -0.0])
    expected = reference_of(name)(zeros)
    got = evaluate(name, dtype, zeros, lanes=2)
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))


# Vectors that are wider than the machine's are several of these.
@pytest.mark.parametrize("lanes", [1, 2, 16])
@pytest.mark.parametrize("target", TARGETS)
def test_objects_call_no_library(target: str, lanes: int) -> None:
    for name in (*UNARY, *COMPOSED, *BINARY):
        for dtype in ("f32", "f64"):
            function = definition(name, dtype, lanes, TARGETS[target][2])
            kinds = [dtype] * (3 if name in BINARY else 2)
            assert undefined_symbols(object_for(function, kinds, lanes, target)) == set(), name


def test_what_is_not_offered_is_refused() -> None:
    with pytest.raises(ValueError, match="no vector math function named cbrt"):
        definition("cbrt", "f32", 8)
    with pytest.raises(ValueError, match="for f32 and f64, not f16"):
        definition("exp", "f16", 8)
    with pytest.raises(ValueError, match="64 lanes, not 12"):
        definition("exp", "f32", 12)


def test_symbols_and_types_follow_the_lanes() -> None:
    assert definition("exp", "f32", 1).text.startswith(
        "define internal float @bessemer_exp_f32(float %x)"
    )
    assert definition("pow", "f64", 8).text.startswith(
        "define internal <8 x double> @bessemer_pow_v8f64(<8 x double> %x, <8 x double> %y)"
    )
