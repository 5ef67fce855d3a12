"""Rows of few elements: softmax, norms and sums side by side, and operands that repeat."""

from collections.abc import Callable

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.composite.composite_normalize import layer_norm
from bessemer.compiler.ops.composite.composite_reduce import log_softmax, softmax
from bessemer.compiler.options import Options
from bessemer.compiler.targets.choose import host_target

ROWS = 133


def _compiled(
    shapes: dict[str, tuple[Size, ...]],
    make: Callable[..., list[Value]],
    target: str = "host",
) -> Compilation:
    b = GraphBuilder("rows")
    values = [b.input(name, TensorType(f32, shape)) for name, shape in shapes.items()]
    return build(b.finish(make(b, *values)), Options(target=target))


def _run(compiled: Compilation, **inputs: Array) -> list[Array]:
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    return model.run(inputs)


def _rows(b: GraphBuilder, x: Value) -> list[Value]:
    return [
        softmax(b, x, (1,)),
        log_softmax(b, x, (1,)),
        layer_norm(b, x, None, None, (1,), 1e-5),
        b.apply("reduce_max", x, axes=(1,)),
        b.apply("reduce_sum", x, axes=(1,)),
    ]


def _expected(x: Array) -> list[Array]:
    shifted = x - x.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    norm = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return [np.exp(shifted) / total, shifted - np.log(total), norm, x.max(axis=1), x.sum(axis=1)]


def _targets() -> list[str]:
    return ["host", "x86_64-avx2"] if host_target().name.startswith("x86_64-avx512") else ["host"]


@pytest.mark.parametrize("columns", [3, 8, 12])
def test_short_rows_are_what_numpy_computes(columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal((ROWS, columns), np.float32)
    for rows in (ROWS, symbol("rows")):
        for got, want in zip(
            _run(_compiled({"x": (rows, columns)}, _rows), x=x), _expected(x.astype(np.float64))
        ):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("target", _targets())
def test_extreme_short_rows(target: str) -> None:
    x = np.random.default_rng(0).standard_normal((128, 4), np.float32)
    x[5, 2], x[20, 3], x[64] = np.nan, -np.inf, -np.finfo(np.float32).max
    with np.errstate(all="ignore"):
        want = _expected(x.astype(np.float64))
    got = _run(_compiled({"x": x.shape}, _rows, target), x=x)
    for place in (0, 3):
        np.testing.assert_allclose(got[place], want[place], rtol=2e-6)


def test_short_rows_that_are_read_from_far_apart() -> None:
    """Rows of channels of two images with the channels outermost, joined; rows that repeat in an
    outer axis; and some columns of longer rows."""
    pixels = symbol("pixels")

    def rows(b: GraphBuilder, x: Value, y: Value, z: Value) -> list[Value]:
        turned = [b.apply("transpose", v, permutation=(1, 0)) for v in (x, y)]
        sizes = (3, 40, 4)
        spread = b.apply("broadcast_to", b.apply("reshape", x, shape=(1, 40, 4)), shape=sizes)
        part = b.apply("slice", z, starts=(0, 0, 1), shape=sizes, steps=(1, 1, 1))
        joined = b.apply("concat", *turned, axis=0)
        return [softmax(b, joined, (1,)), softmax(b, b.apply("add", part, spread), (2,))]

    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[Size, ...]] = {"x": (4, 40), "y": (4, pixels), "z": (3, 40, 9)}
    given = {
        name: rng.standard_normal([n if isinstance(n, int) else 35 for n in shape], np.float32)
        for name, shape in shapes.items()
    }
    compiled = _compiled(shapes, rows)
    joined: Array = np.concatenate([given["x"].T, given["y"].T]).astype(np.float64)
    added: Array = given["z"][:, :, 1:5] + given["x"].reshape(40, 4).astype(np.float64)
    for got, sums in zip(_run(compiled, **given), [joined, added]):
        want = np.exp(sums) / np.exp(sums).sum(-1, keepdims=True)
        np.testing.assert_allclose(got, want, rtol=2e-6)
    kernels = [step.kernel for step in compiled.program.steps if isinstance(step, Launch)]
    assert sum("vector i" in text and "unroll" in text for text in map(print_kernel, kernels)) == 2


REPEATED: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((37, 29, 4), (37, 1, 4)),
    ((1001, 4), (4,)),
    ((1001, 4), (1001, 1)),
    ((5, 64, 8), (5, 64, 1)),
    ((9, 50, 3), (9, 1, 3)),
    ((64, 48, 3), (3,)),
    ((31, 33, 5), (31, 33, 1)),
    ((997, 7), (7,)),
    ((2, 96, 6), (2, 1, 6)),
]


@pytest.mark.parametrize("target", _targets())
@pytest.mark.parametrize(("shape", "other"), REPEATED)
def test_operands_that_repeat_along_a_short_axis(
    shape: tuple[int, ...], other: tuple[int, ...], target: str
) -> None:
    def difference(b: GraphBuilder, x: Value, y: Value) -> list[Value]:
        padded = b.apply("reshape", y, shape=(1,) * (len(shape) - len(other)) + other)
        return [b.apply("sub", x, b.apply("broadcast_to", padded, shape=shape))]

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal(shape, np.float32), rng.standard_normal(other, np.float32)
    compiled = _compiled({"x": shape, "y": other}, difference, target)
    (got,) = _run(compiled, x=x, y=y)
    np.testing.assert_array_equal(got, x - y)


def test_a_short_axis_and_the_one_before_it_are_one_loop() -> None:
    def difference(b: GraphBuilder, x: Value, y: Value) -> list[Value]:
        return [b.apply("sub", x, b.apply("broadcast_to", y, shape=(37, 29, 4)))]

    compiled = _compiled({"x": (37, 29, 4), "y": (37, 1, 4)}, difference)
    (launch,) = [step for step in compiled.program.steps if isinstance(step, Launch)]
    assert "in 0..116 by" in print_kernel(launch.kernel)


def test_rows_of_three_are_vectors_of_known_places() -> None:
    """Sixteen of them are three vectors; of an image alone, parts are taken in parallel."""

    def difference(b: GraphBuilder, x: Value, y: Value) -> list[Value]:
        return [b.apply("sub", x, b.apply("broadcast_to", y, shape=(224, 224, 3)))]

    compiled = _compiled({"x": (224, 224, 3), "y": (1, 1, 3)}, difference, "x86_64-avx512")
    (launch,) = [step for step in compiled.program.steps if isinstance(step, Launch)]
    text = print_kernel(launch.kernel)
    assert "parallel" in text and "unroll" in text and "in 0..3 by" not in text
