"""bf16 and f16 conversions: every 16-bit pattern, and rounding against exact arithmetic."""

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.math.vector_math import conversion
from tests.compiled_math import DTYPES, RUNNABLE, TARGETS, Array, object_for, run, undefined_symbols

STORED = {"bf16": "i16", "f16": "i16", "f32": "f32", "f64": "f64"}
PAIRS = [
    (source, target)
    for source in STORED
    for target in STORED
    if source != target and {source, target} & {"bf16", "f16"}
]
FROM_16_BITS = [pair for pair in PAIRS if pair[0] in ("bf16", "f16")]
TO_16_BITS = [pair for pair in PAIRS if pair[1] in ("bf16", "f16")]
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
# Integer forms run anywhere; the instructions need F16C or AArch64.
FORMS = [(name, False) for name in RUNNABLE] + [(n, True) for n in RUNNABLE if n != "sse4.2"]
each_form = pytest.mark.parametrize(("instructions", "native_half"), FORMS)


def convert(
    pair: tuple[str, str],
    x: Array,
    instructions: str,
    native_half: bool,
    lanes: int = 8,
    flush: bool = False,
) -> Array:
    function = conversion(*pair, lanes, native_half)
    kinds = [STORED[kind] for kind in pair]
    return run(function, kinds, lanes, instructions, x, flush=flush)


def decoded(bits: Array, kind: str) -> Array:
    """The value of each pattern as float64; exact."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def rounded(x: Array, kind: str) -> Array:
    """float64 rounded once to the 16-bit kind, ties to even, as float64."""
    mantissa, smallest_exponent, largest = {"bf16": (7, -126, 2.0**128), "f16": (10, -14, 2.0**16)}[
        kind
    ]
    _, exponent = np.frexp(np.where(np.isfinite(x), x, 1))
    unit = np.ldexp(1.0, np.maximum(exponent - 1, smallest_exponent) - mantissa)
    nearest = np.rint(x / unit) * unit
    return np.where(np.abs(nearest) >= largest, np.copysign(np.inf, x), nearest)


def near_ties(kind: str, rng: np.random.Generator) -> Array:
    """Patterns of the kind, the middles between neighbours, and float64s beside the middles."""
    finite = np.unique(np.abs(decoded(PATTERNS, kind)))
    finite = finite[np.isfinite(finite)]
    middles = (finite[1:] + finite[:-1]) / 2
    nudges = [middles * (1 + sign * 2.0**-power) for sign in (1, -1) for power in (20, 30, 50)]
    sizes = np.concatenate([finite, middles, *nudges, 2.0 ** rng.uniform(-160, 140, 50_000)])
    special = [0.0, np.inf, np.nan, 65519.99, 65520.0, 1e300, 1e-300, 3.3961775e38, 3.4028236e38]
    return np.concatenate([sizes, -sizes, special, np.negative(special)])


@pytest.fixture(scope="module", autouse=True)
def quiet_numpy() -> Any:
    with np.errstate(all="ignore"):
        yield


def assert_same_numbers(got: Array, expected: Array) -> None:
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    number = ~np.isnan(expected)
    assert np.array_equal(got[number], expected[number])
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))


@each_form
@pytest.mark.parametrize("pair", [p for p in FROM_16_BITS if p[1] in ("f32", "f64")])
def test_every_16_bit_pattern_is_widened_exactly(
    pair: tuple[str, str], instructions: str, native_half: bool
) -> None:
    got = convert(pair, PATTERNS, instructions, native_half)
    assert got.dtype == DTYPES[pair[1]]
    assert_same_numbers(got.astype(np.float64), decoded(PATTERNS, pair[0]))


@each_form
@pytest.mark.parametrize("pair", [p for p in TO_16_BITS if p[0] in ("f32", "f64")])
def test_narrowing_rounds_once_to_nearest_even(
    pair: tuple[str, str], instructions: str, native_half: bool, rng: np.random.Generator
) -> None:
    x = near_ties(pair[1], rng).astype(DTYPES[pair[0]])
    got = decoded(convert(pair, x, instructions, native_half), pair[1])
    assert_same_numbers(got, rounded(x.astype(np.float64), pair[1]))


@each_form
@pytest.mark.parametrize("pair", [("bf16", "f16"), ("f16", "bf16")])
def test_between_the_16_bit_kinds_rounding_is_once_too(
    pair: tuple[str, str], instructions: str, native_half: bool
) -> None:
    got = decoded(convert(pair, PATTERNS, instructions, native_half), pair[1])
    assert_same_numbers(got, rounded(decoded(PATTERNS, pair[0]), pair[1]))


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_narrowing_makes_nan_quiet(kind: str) -> None:
    signalling = np.array([0x7F800001, 0xFFBFFFFF, 0x7F80FFFF], np.uint32).view(np.float32)
    got = convert(("f32", kind), signalling, RUNNABLE[0], False)
    quiet = {"bf16": 0x7FC0, "f16": 0x7E00}[kind]
    assert np.array_equal(got & quiet, np.full(3, quiet))


@pytest.mark.skipif("sse4.2" not in RUNNABLE, reason="x86 machines only")
def test_f16_denormals_survive_where_the_processor_flushes_its_own() -> None:
    wide = convert(("f16", "f32"), PATTERNS, "sse4.2", False, flush=True)
    assert_same_numbers(wide.astype(np.float64), decoded(PATTERNS, "f16"))
    finite = wide[np.isfinite(wide)]
    back = convert(("f32", "f16"), finite, "sse4.2", False, flush=True)
    assert np.array_equal(decoded(back, "f16"), finite.astype(np.float64))


@pytest.mark.parametrize("lanes", [1, 2, 16, 64])
@pytest.mark.parametrize("pair", PAIRS)
def test_all_widths_agree(pair: tuple[str, str], lanes: int, rng: np.random.Generator) -> None:
    x = PATTERNS if pair in FROM_16_BITS else near_ties(pair[1], rng).astype(DTYPES[pair[0]])
    eight = convert(pair, x, RUNNABLE[-1], False)
    same = convert(pair, x, RUNNABLE[-1], False, lanes=lanes)
    assert np.array_equal(same, eight, equal_nan=eight.dtype != np.uint16)


@pytest.mark.parametrize("lanes", [1, 8, 64])
@pytest.mark.parametrize("target", TARGETS)
def test_objects_call_no_library(target: str, lanes: int) -> None:
    for pair in PAIRS:
        kinds = [STORED[kind] for kind in pair]
        for native_half in {False, target != "sse4.2"}:
            elf = object_for(conversion(*pair, lanes, native_half), kinds, lanes, target)
            assert undefined_symbols(elf) == set(), pair


def test_plain_llvm_conversions_are_refused() -> None:
    with pytest.raises(ValueError, match="f32 to f64 is one LLVM instruction"):
        conversion("f32", "f64", 8)
    with pytest.raises(ValueError, match="no vector conversion from f16 to f16"):
        conversion("f16", "f16", 8)
