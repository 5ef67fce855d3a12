"""Kernels that differ in numbers only are one function, and give what the numbers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.codegen.kernels.parameterize_constants import parameterize_constants
from bessemer.compiler.driver import Compilation, build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, DType, TensorType, f32, i8, u8
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.pointwise.cast import saturating_cast
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target

COUNT = 1037
_Layer = Callable[[GraphBuilder, Value], Value]


def _number(b: GraphBuilder, value: float) -> Value:
    return b.apply("full", shape=(COUNT,), value=value, dtype=f32)


def _quantize(scale: float, zero: float, dtype: DType = u8) -> _Layer:
    def layer(b: GraphBuilder, x: Value) -> Value:
        steps = b.apply("round", b.apply("div", x, _number(b, scale)))
        return b.apply("cast", b.apply("add", steps, _number(b, zero)), dtype=dtype)

    return layer


def _linear(factor: float, term: float, divisor: float) -> _Layer:
    def layer(b: GraphBuilder, x: Value) -> Value:
        product = b.apply("mul", x, _number(b, factor))
        return b.apply("div", b.apply("add", product, _number(b, term)), _number(b, divisor))

    return layer


def _shifted_gelu(slope: float, term: float) -> _Layer:
    """GELU, if the slope is the right one, of x and a number."""

    def layer(b: GraphBuilder, x: Value) -> Value:
        y = b.apply("add", x, _number(b, term))
        curve = b.apply("erf", b.apply("mul", y, _number(b, slope)))
        gate = b.apply("add", curve, _number(b, 1.0))
        return b.apply("mul", b.apply("mul", y, gate), _number(b, 0.5))

    return layer


def _built(layers: Sequence[_Layer], options: Options | None = None) -> Compilation:
    """A network of an input and an output for each layer."""
    b = GraphBuilder("numbers")
    inputs = [b.input(f"x{k}", TensorType(f32, (COUNT,))) for k in range(len(layers))]
    graph = b.finish([layer(b, x) for layer, x in zip(layers, inputs, strict=True)])
    return build(graph, options or Options())


def _run(made: Compilation, arrays: Sequence[Array]) -> list[Array]:
    return load_code(made.code, made.weights, machine_of(made.target), 1).run(arrays)


def _inputs(count: int, rng: np.random.Generator) -> list[Array]:
    found = [rng.standard_normal(COUNT).astype(np.float32) * 40 for _ in range(count)]
    for x in found:
        x[:6] = [0, -0.0, np.inf, -np.inf, np.nan, 3e38]
    return found


@pytest.mark.parametrize(("dtype", "zeros"), [(u8, (3, 117, 250)), (i8, (-101, 7, 90))])
@pytest.mark.parametrize("target", ["", "x86_64-avx2"])
def test_scales_and_zero_points_are_given(
    dtype: DType, zeros: tuple[float, ...], target: str, rng: np.random.Generator
) -> None:
    scales = (0.0013906117528676987, 0.1, 0.7)
    layers = [_quantize(*pair, dtype) for pair in zip(scales, zeros, strict=True)]
    made = _built(layers, Options(target=target))
    assert len(kernels_of(made.program.steps)) == 1
    given = _inputs(3, rng)
    for x, scale, zero, found in zip(given, scales, zeros, _run(made, given), strict=True):
        with np.errstate(all="ignore"):
            steps = np.rint(x / np.float32(scale)) + np.float32(zero)
        np.testing.assert_array_equal(found, saturating_cast(steps, dtype))


def test_factors_terms_and_divisors_are_given(rng: np.random.Generator) -> None:
    numbers = [(0.3, -7.5, 0.7), (-1.7, 1e-3, 11.0), (5.0, 3.0, 1e-17)]
    made = _built([_linear(*three) for three in numbers])
    assert len(kernels_of(made.program.steps)) == 1
    given = _inputs(3, rng)
    for x, three, found in zip(given, numbers, _run(made, given), strict=True):
        factor, term, divisor = np.array(three, np.float32)
        with np.errstate(all="ignore"):
            wanted = (x * factor + term) / divisor
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "layers",
    [
        [_linear(1.0, 0.3, 0.7), _linear(2.0, 0.3, 0.7), _linear(0.3, 0.3, 0.7)],  # folded
        [_linear(0.3, 0.3, 4.0), _linear(0.3, 0.3, 0.7)],  # a multiplication
        [_linear(0.3, 5.0, 0.7), _linear(0.3, 5.0, 0.3)],  # two numbers or three
        [_quantize(0.1, 3), _quantize(0.1, 256)],  # no zero point of this type
        [_quantize(0.1, 3), _quantize(-0.1, 3)],
        [_shifted_gelu(0.5**0.5, 0.3), _shifted_gelu(0.6, 0.3)],  # another function
    ],
)
def test_numbers_that_make_other_instructions_stay(layers: list[_Layer]) -> None:
    assert len(kernels_of(_built(layers).program.steps)) == len(layers)


def test_a_known_function_stays_one_with_given_numbers_inside(rng: np.random.Generator) -> None:
    layers = [_shifted_gelu(0.5**0.5, term) for term in (0.3, 0.7)]
    shared = _built(layers)
    assert len(kernels_of(shared.program.steps)) == 1
    assert any("gelu" in text and text.startswith("define") for text in shared.texts)
    given = [x[6:] for x in _inputs(2, rng)]
    given = [np.resize(x, COUNT) for x in given]
    for x, layer, found in zip(given, layers, _run(shared, given), strict=True):
        np.testing.assert_array_equal(found, _run(_built([layer]), [x])[0])


def test_equal_numbers_stay_in_the_code() -> None:
    made = _built([_linear(0.3, 5.0, 0.7), _linear(0.3, 6.0, 0.7)])
    (kernel,) = kernels_of(made.program.steps)
    assert kernel.symbols == ("bessemer_number0",)
    assert [launch.sizes for launch in launches(made.program.steps)] == [
        (int(np.float32(term).view(np.uint32)),) for term in (5.0, 6.0)
    ]


def test_a_shared_kernel_reads_back_and_means_the_same(rng: np.random.Generator) -> None:
    b = GraphBuilder("numbers")
    x = b.input("x", TensorType(f32, (COUNT,)))
    graph = b.finish([_linear(*three)(b, x) for three in ((0.3, 5.0, 0.7), (-0.9, 6.0, 0.1))])
    plain = build_program(graph, host_target())
    (shared,) = parameterize_constants([plain])
    array = rng.standard_normal(COUNT).astype(np.float32)
    for before, after in zip(launches(plain.steps), launches(shared.steps), strict=True):
        verify_kernel(after.kernel)
        assert print_kernel(parse_kernel(print_kernel(after.kernel))) == print_kernel(after.kernel)
        sizes = (size for size in after.sizes if isinstance(size, int))
        symbols = dict(zip(after.kernel.symbols, sizes, strict=True))
        results = [
            run_kernel(kernel, [array], sizes).outputs[0]
            for kernel, sizes in ((before.kernel, {}), (after.kernel, symbols))
        ]
        np.testing.assert_array_equal(results[0], results[1])
