"""Rows that lie side by side in vectors: places of extremes and running sums along any axis."""

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir import loops, walk_loops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.types import Array, TensorType, dtype_of
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from tests.planned import planned

SHAPES = [
    ((2, 5, 1100), 1),  # more than one block of neighbours, with a rest
    ((1024, 8), 1),  # short rows along memory, two whole blocks: every eighth element
    ((600, 7), 1),
    ((100, 5, 3), 1),  # few neighbours
    ((3, 130), 1),  # long rows along memory
    ((130, 3, 16), 0),
    ((0, 5, 20), 1),  # no rows
]


def _numbers(shape: tuple[int, ...], dtype: type) -> Array:
    """Many ties, and NaNs where there are such."""
    rng = np.random.default_rng(7)
    x: Array = rng.integers(-4, 5, shape).astype(dtype)
    if dtype is np.float32:
        x[rng.random(shape) < 0.02] = np.nan
    return x


def _run(x: Array, shape: tuple[Size, ...], axis: int) -> list[Array]:
    b = GraphBuilder("rows")
    value = b.input("x", TensorType(dtype_of(x), shape))
    outputs = [
        b.apply("arg_max", value, axis=axis, last=False),
        b.apply("arg_min", value, axis=axis, last=True),
        b.apply("cumulative", value, axis=axis),
    ]
    compiled = build(b.finish(outputs), Options())
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    return model.run({"x": x})


def _check(x: Array, shape: tuple[Size, ...], axis: int) -> None:
    first, last, sums = _run(x, shape, axis)
    np.testing.assert_array_equal(first, np.argmax(x, axis))
    backwards = np.argmin(np.flip(x, axis), axis)
    np.testing.assert_array_equal(last, x.shape[axis] - 1 - backwards)
    np.testing.assert_array_equal(sums, np.cumsum(x, axis, dtype=x.dtype))


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_places_of_extremes_and_running_sums(shape: tuple[int, ...], axis: int) -> None:
    x = _numbers(shape, np.float32)
    _check(x, shape, axis)
    _check(x, tuple(symbol(f"s{axis}") for axis in range(len(shape))), axis)


@pytest.mark.parametrize(("shape", "axis"), SHAPES[3:])
def test_they_are_right_for_integers(shape: tuple[int, ...], axis: int) -> None:
    _check(_numbers(shape, np.int32), shape, axis)


@pytest.mark.parametrize(("rows", "items"), [(10, 1), (100, 7), (128, 8), (512, 16), (20_000, 40)])
def test_few_rows_are_shared_by_threads_too(rows: int, items: int) -> None:
    b = GraphBuilder("rows")
    x = b.input("x", TensorType(dtype_of(np.zeros(0, np.float32)), (rows, 1000)))
    best = b.apply_many("top_k", x, axis=1, k=5, largest=True)
    compiled = build(b.finish(best), Options())
    (launch,) = launches(compiled.program.steps)
    assert launch.kernel.parallel_extent == items


def test_places_are_found_in_full_vectors_though_they_are_stored_as_i64() -> None:
    b = GraphBuilder("rows")
    x = b.input("x", TensorType(dtype_of(np.zeros(0, np.float32)), (5, 4096)))
    made = planned(b.finish([b.apply("arg_max", x, axis=0, last=False)]), "x86_64-avx512")
    (launch,) = launches(made.program.steps)
    vectors = [s for s in walk_loops.walk(launch.kernel.body) if isinstance(s, loops.For)]
    assert [loop.lanes for loop in vectors if loop.kind == "vector"] == [16]
