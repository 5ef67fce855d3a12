"""Kernels for GPUs on the emulator under four schedules, against NumPy in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.codegen.ptx import exchange
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, bf16, f32
from bessemer.compiler.ops.composite.composite import binary, cast
from bessemer.compiler.ops.composite.composite_activation import gelu
from bessemer.compiler.ops.composite.composite_normalize import layer_norm, rms_norm
from bessemer.compiler.ops.composite.composite_reduce import log_softmax, mean, reduce, softmax
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import SM80
from emulator.errors import EmulationError
from tests.device_runs import assert_close, graph_of, run_compiled, run_device

BF16 = np.dtype(ml_dtypes.bfloat16)
EACH_FLOAT = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Standard normal numbers, rounded to the dtype."""
    drawn = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return drawn.astype(BF16 if dtype == "bfloat16" else dtype)


def wide(x: Array) -> Array:
    """The same numbers in float64."""
    return x.astype(np.float64)


# Pointwise


@pytest.mark.parametrize(
    "shape",
    [(1,), (3,), (31,), (1000,), (4096,), (7, 5), (2, 3, 129), (64, 128), (33, 1031), (0, 4)],
)
def test_neighbours_are_computed_together(shape: tuple[int, ...]) -> None:
    x, y = numbers(*shape), numbers(*shape, seed=1)

    def build(b: GraphBuilder, x: Value, y: Value) -> Value:
        return binary(b, "add", b.apply("tanh", x), binary(b, "mul", y, 0.5))

    assert_close(run_device(build, x, y)[0], np.tanh(wide(x)) + 0.5 * wide(y))


@EACH_FLOAT
@pytest.mark.parametrize("shape", [(5,), (256,), (3, 77)])
def test_every_float_has_its_own_vectors(dtype: str, shape: tuple[int, ...]) -> None:
    x, y = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    (found,) = run_device(lambda b, x, y: b.apply("max", x, b.apply("neg", y)), x, y)
    assert found.dtype == x.dtype
    assert_close(found, np.maximum(wide(x), -wide(y)))


@pytest.mark.parametrize("name", ["exp", "log", "erf", "sigmoid", "sqrt", "sin", "cos", "log1p"])
def test_functions_need_no_library(name: str) -> None:
    x = np.abs(numbers(2, 67)) + np.float32(0.1)
    (found,) = run_device(lambda b, x: b.apply(name, x), x)
    others: dict[str, Callable[[Array], Array]] = {
        "erf": np.vectorize(math.erf),
        "sigmoid": lambda v: np.asarray(1 / (1 + np.exp(-v))),
    }
    expected = others[name] if name in others else getattr(np, name)
    assert_close(found, expected(wide(x)), 4e-7)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_integers_wrap_and_divide(dtype: str) -> None:
    random = np.random.default_rng(1)
    x, y = (random.integers(0, 100, (3, 50)).astype(dtype) for _ in range(2))

    def build(b: GraphBuilder, x: Value, y: Value) -> tuple[Value, Value]:
        return b.apply("mul", x, y), b.apply("mod", x, b.apply("max", y, y))

    product, rest = run_device(build, x, y)
    np.testing.assert_array_equal(product, x * y)
    np.testing.assert_array_equal(rest, np.where(y == 0, 0, x % np.maximum(y, 1)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_remainders_of_floats_are_exact(dtype: str) -> None:
    x, y = numbers(3, 50, dtype=dtype) * 1000, numbers(3, 50, dtype=dtype, seed=1)
    y[0, :3] = 0, np.inf, 1e-30
    found = run_device(lambda b, x, y: (b.apply("mod", x, y), b.apply("fmod", x, y)), x, y)
    with np.errstate(all="ignore"):
        for actual, expected in zip(found, (np.mod(x, y), np.fmod(x, y)), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_conditions_choose() -> None:
    x, y = numbers(4, 37), numbers(4, 37, seed=2)
    (found,) = run_device(lambda b, x, y: b.apply("select", b.apply("lt", x, y), y, x), x, y)
    np.testing.assert_array_equal(found, np.maximum(x, y))


@pytest.mark.parametrize("sizes", [(5, 1), (1, 130), (65, 33)])
def test_a_kernel_serves_all_sizes(sizes: tuple[int, int]) -> None:
    x, scale = numbers(*sizes), numbers(sizes[1], seed=3)

    def build(b: GraphBuilder, x: Value, scale: Value) -> Value:
        return gelu(b, binary(b, "mul", x, scale))

    (found,) = run_device(build, x, scale, symbolic=[s for s in sizes if s > 1])
    z = wide(x) * wide(scale)
    erf = np.vectorize(math.erf)
    assert_close(found, 0.5 * z * (1 + erf(z / np.sqrt(2))))


# Rows

ROWS = [(1, 1), (5, 31), (9, 128), (3, 768), (40, 100), (2, 1000), (2, 4096), (3, 1025), (1, 9000)]


@pytest.mark.parametrize("shape", ROWS)
def test_softmax(shape: tuple[int, int]) -> None:
    x = 3 * numbers(*shape)
    (found,) = run_device(lambda b, x: softmax(b, x, (-1,)), x)
    e = np.exp(wide(x) - wide(x).max(-1, keepdims=True))
    assert_close(found, e / e.sum(-1, keepdims=True), 3e-7)


@EACH_FLOAT
def test_softmax_of_every_float(dtype: str) -> None:
    x = numbers(6, 264, dtype=dtype)
    (found,) = run_device(lambda b, x: softmax(b, x, (-1,)), x)
    e = np.exp(wide(x) - wide(x).max(-1, keepdims=True))
    assert_close(found, e / e.sum(-1, keepdims=True), 3e-7)


@pytest.mark.parametrize("shape", [(4, 32), (3, 768), (7, 33), (2, 2048), (600, 96)])
def test_layer_norm(shape: tuple[int, int]) -> None:
    x, scale, bias = 2 + numbers(*shape), numbers(shape[1], seed=1), numbers(shape[1], seed=2)

    def build(b: GraphBuilder, x: Value, scale: Value, bias: Value) -> Value:
        return layer_norm(b, x, scale, bias, (-1,), 1e-5)

    (found,) = run_device(build, x, scale, bias)
    z = wide(x) - wide(x).mean(-1, keepdims=True)
    z /= np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5)
    assert_close(found, z * wide(scale) + wide(bias))


def test_layer_norm_in_bfloat16_computes_in_float32() -> None:
    x, scale = 2 + numbers(5, 256, dtype="bfloat16"), numbers(256, dtype="bfloat16", seed=1)

    def build(b: GraphBuilder, x: Value, scale: Value) -> Value:
        return cast(b, rms_norm(b, cast(b, x, f32), cast(b, scale, f32), (-1,), 1e-5), bf16)

    (found,) = run_device(build, x.astype(BF16), scale)
    z = wide(x.astype(BF16))
    z /= np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5)
    assert_close(found, z * wide(scale))


@pytest.mark.parametrize("shape", [(3, 10), (64, 1000), (5, 33)])
def test_cross_entropy(shape: tuple[int, int]) -> None:
    x = numbers(*shape)
    labels = np.random.default_rng(0).integers(0, shape[1], (shape[0], 1))

    def build(b: GraphBuilder, x: Value, labels: Value) -> Value:
        chosen = b.apply("gather_elements", log_softmax(b, x, (-1,)), labels, axis=1)
        return b.apply("neg", mean(b, chosen, (0, 1)))

    (found,) = run_device(build, x, labels)
    z = wide(x) - wide(x).max(-1, keepdims=True)
    logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    assert_close(found, -np.take_along_axis(logs, labels, 1).mean())


@pytest.mark.parametrize("sizes", [(3, 129), (17, 64)])
def test_rows_of_any_length(sizes: tuple[int, int]) -> None:
    x = numbers(*sizes)
    (found,) = run_device(lambda b, x: softmax(b, x, (-1,)), x, symbolic=sizes)
    e = np.exp(wide(x) - wide(x).max(-1, keepdims=True))
    assert_close(found, e / e.sum(-1, keepdims=True), 3e-7)


# Reductions

REDUCED = [
    ((7,), (0,)),
    ((5, 1000), (1,)),
    ((300, 64), (0,)),
    ((1000, 3), (0,)),
    ((4, 9, 33), (1,)),
    ((4, 9, 33), (0, 2)),
    ((6, 7, 5, 16), (0, 1, 2)),
    ((2, 6, 7, 16), (1, 2)),
    ((2, 16, 7, 7), (2, 3)),
    ((40, 2, 3), (0, 1, 2)),
]


@pytest.mark.parametrize(("shape", "axes"), REDUCED)
@pytest.mark.parametrize("name", ["sum", "max"])
def test_reductions(shape: tuple[int, ...], axes: tuple[int, ...], name: str) -> None:
    x = numbers(*shape)
    (found,) = run_device(lambda b, x: reduce(b, name, x, axes), x)
    assert_close(found, getattr(np, name)(wide(x), axis=axes))


def test_a_long_sum_is_shared_by_the_processors() -> None:
    x = numbers(20000, 8)
    (found,) = run_device(lambda b, x: reduce(b, "sum", x, (0,)), x)
    assert_close(found, wide(x).sum(0), 1e-6)


def test_integers_and_truth_are_reduced_over_a_block() -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, (3, 3000))
    found = run_device(
        lambda b, x: (reduce(b, "sum", x, (1,)), b.apply("arg_max", x, axis=1, last=False)), x
    )
    np.testing.assert_array_equal(found[0], x.sum(1))
    np.testing.assert_array_equal(found[1], x.argmax(1))


def test_parts_of_one_length_or_not_give_the_whole() -> None:
    for rows in (9973, 10000):  # a prime, and a number with divisors
        x = numbers(rows, 3)
        graph = graph_of(lambda b, x: binary(b, "mul", reduce(b, "max", x, (0,)), 2.0), [x])
        made = build_for_device(graph, Options(), SM80)
        assert made.artifact.kernels[0].name == "parts"
        assert_close(run_compiled(made, [x])[0], 2 * wide(x).max(0))


# Movement


@pytest.mark.parametrize(
    ("shape", "permutation"),
    [
        ((5, 7), (1, 0)),
        ((64, 96), (1, 0)),
        ((2, 3, 5, 8), (0, 2, 3, 1)),
        ((3, 4, 5), (2, 0, 1)),
        ((2, 70, 45), (0, 2, 1)),
        ((33, 3, 100), (2, 1, 0)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transposes(shape: tuple[int, ...], permutation: tuple[int, ...], dtype: str) -> None:
    x = numbers(*shape, dtype=dtype)
    (found,) = run_device(lambda b, x: b.apply("transpose", x, permutation=permutation), x)
    np.testing.assert_array_equal(found, x.transpose(permutation))


def test_parts_are_put_together_and_borders_added() -> None:
    x, y = numbers(3, 5), numbers(3, 8, seed=1)

    def build(b: GraphBuilder, x: Value, y: Value) -> Value:
        both = b.apply("concat", b.apply("neg", x), b.apply("relu", y), axis=1)
        return b.apply("pad", both, low=(1, 2), high=(0, 3), mode="constant", value=7)

    (found,) = run_device(build, x, y)
    both = np.concatenate([-x, np.maximum(y, 0)], 1)
    np.testing.assert_array_equal(found, np.pad(both, ((1, 0), (2, 3)), constant_values=7))


@pytest.mark.parametrize("rows", [1, 33])
def test_rows_are_gathered(rows: int) -> None:
    table = numbers(50, 24)
    index = np.random.default_rng(0).integers(-50, 50, rows)
    (found,) = run_device(lambda b, t, i: b.apply("gather", t, i, axis=0), table, index)
    np.testing.assert_array_equal(found, table[index])


def test_negative_strides_and_broadcasts() -> None:
    x = numbers(6, 20)

    def build(b: GraphBuilder, x: Value) -> tuple[Value, ...]:
        part = b.apply("slice", x, starts=(1, 19), shape=(5, 7), steps=(1, -2))
        return part, b.apply(
            "broadcast_to", b.apply("reshape", part, shape=(5, 7, 1)), shape=(5, 7, 4)
        )

    part, spread = run_device(build, x)
    np.testing.assert_array_equal(part, x[1:, 19:5:-2])
    np.testing.assert_array_equal(spread, np.repeat(part[..., None], 4, 2))


# Optimizers


@pytest.mark.parametrize("size", [1, 1000, 4099])
def test_a_step_of_adam(size: int) -> None:
    weight, gradient, mean, square = (numbers(size, seed=k) for k in range(4))
    square = np.abs(square)

    def build(b: GraphBuilder, w: Value, g: Value, m: Value, v: Value) -> tuple[Value, ...]:
        m = binary(b, "add", binary(b, "mul", m, 0.9), binary(b, "mul", g, 0.1))
        v = binary(
            b, "add", binary(b, "mul", v, 0.999), binary(b, "mul", b.apply("mul", g, g), 1e-3)
        )
        step = b.apply("div", m, binary(b, "add", b.apply("sqrt", v), 1e-8))
        return binary(b, "sub", w, binary(b, "mul", step, 0.01)), m, v

    found = run_device(build, weight, gradient, mean, square)
    m = 0.9 * wide(mean) + 0.1 * wide(gradient)
    v = 0.999 * wide(square) + 1e-3 * wide(gradient) ** 2
    for one, expected in zip(found, (wide(weight) - 0.01 * m / (np.sqrt(v) + 1e-8), m, v)):
        assert_close(one, expected)


def test_a_step_of_momentum_in_bfloat16_rounds_where_it_stores() -> None:
    weight, gradient, speed = (numbers(300, dtype="bfloat16", seed=k) for k in range(3))

    def build(b: GraphBuilder, w: Value, g: Value, s: Value) -> tuple[Value, ...]:
        speed = binary(b, "add", binary(b, "mul", cast(b, s, f32), 0.9), cast(b, g, f32))
        moved = binary(b, "sub", cast(b, w, f32), binary(b, "mul", speed, 0.1))
        return cast(b, moved, bf16), cast(b, speed, bf16)

    found = run_device(build, weight, gradient, speed)
    after = 0.9 * wide(speed) + wide(gradient)
    assert_close(found[0], wide(weight) - 0.1 * after)
    assert_close(found[1], after)


# What would be wrong


def test_a_missing_barrier_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator tells when a block's threads read what others may not have written yet."""
    x = numbers(2, 3000)
    graph = graph_of(lambda b, x: softmax(b, x, (-1,)), [x])
    monkeypatch.setattr(exchange, "barrier", lambda state: None)
    made = build_for_device(graph, Options(), SM80)
    with pytest.raises(EmulationError):
        run_compiled(made, [x])
