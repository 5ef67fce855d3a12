"""Softmax, norms and the like over axes before the last, or over one that was before a transpose:
one kernel, and what NumPy computes."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, number, symbol
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import Block, For
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, DType, TensorType, f16, f32
from bessemer.compiler.ir.walk_loops import blocks
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.jit import load_code
from bessemer.compiler.ops.composite.composite_normalize import layer_norm
from bessemer.compiler.ops.composite.composite_reduce import log_softmax, lp_normalize, softmax
from bessemer.compiler.options import Options
from bessemer.compiler.targets.choose import host_target

Make = Callable[..., list[Value]]


def _compiled(
    shapes: Sequence[tuple[Size, ...]], make: Make, target: str = "host", dtype: DType = f32
) -> Compilation:
    b = GraphBuilder("columns")
    values = [b.input(f"x{n}", TensorType(dtype, shape)) for n, shape in enumerate(shapes)]
    return build(b.finish(make(b, *values)), Options(target=target))


def _run(compiled: Compilation, *arrays: Array) -> list[Array]:
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    return model.run({f"x{n}": array for n, array in enumerate(arrays)})


def _launches(compiled: Compilation) -> int:
    return sum(isinstance(step, Launch) for step in compiled.program.steps)


def _columns(b: GraphBuilder, x: Value, y: Value, z: Value) -> list[Value]:
    return [softmax(b, x, (1,)), log_softmax(b, y, (1,)), lp_normalize(b, z, 1, 2)]


def _expected(*arrays: Array) -> list[Array]:
    x, y, z = (array.astype(np.float64) for array in arrays)
    x, y = (v - v.max(axis=1, keepdims=True) for v in (x, y))
    totals = [np.exp(v).sum(axis=1, keepdims=True) for v in (x, y)]
    length = np.sqrt((z * z).sum(axis=1, keepdims=True))
    return [np.exp(x) / totals[0], y - np.log(totals[1]), z / length]


def _arrays(*shapes: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def _targets() -> list[str]:
    return ["host", "x86_64-avx2"] if host_target().name.startswith("x86_64-avx512") else ["host"]


@pytest.mark.parametrize("target", _targets())
def test_columns_are_what_numpy_computes(target: str) -> None:
    """150 elements are more than a sum takes in one part."""
    arrays = _arrays((2, 150, 151), (3, 7, 512), (1, 150, 40))
    compiled = _compiled([x.shape for x in arrays], _columns, target)
    assert _launches(compiled) == 3
    for got, want in zip(_run(compiled, *arrays), _expected(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


def test_columns_of_free_sizes() -> None:
    shape = (symbol("batch"), 21, symbol("columns"))
    compiled = _compiled([shape] * 3, _columns)
    for size in ((2, 21, 151), (1, 21, 1), (3, 21, 300)):
        arrays = _arrays(size, size, size)
        for got, want in zip(_run(compiled, *arrays), _expected(*arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


def test_columns_of_16_bits() -> None:
    arrays = [x.astype(np.float16) for x in _arrays(*[(2, 19, 70)] * 3)]
    compiled = _compiled([x.shape for x in arrays], _columns, dtype=f16)
    for got, want in zip(_run(compiled, *arrays), _expected(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)


def test_extreme_columns() -> None:
    arrays = _arrays(*[(1, 21, 64)] * 3)
    for x in arrays[:2]:
        x[0, 5, 2], x[0, 20, 3], x[0, :, 7] = np.nan, -np.inf, -np.finfo(np.float32).max
    with np.errstate(all="ignore"):
        expected = _expected(*arrays)
    results = _run(_compiled([x.shape for x in arrays], _columns), *arrays)
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


def _turned(b: GraphBuilder, *values: Value) -> list[Value]:
    x, y, z = (b.apply("transpose", v, permutation=(0, 2, 1)) for v in values)
    return [softmax(b, x, (2,)), log_softmax(b, y, (2,)), layer_norm(b, z, None, None, (2,), 1e-5)]


def _expected_turned(*arrays: Array) -> list[Array]:
    x, y, _ = (np.moveaxis(v, 1, 2) for v in _expected(*arrays))
    z = np.moveaxis(arrays[2].astype(np.float64), 1, 2)
    norm = (z - z.mean(2, keepdims=True)) / np.sqrt(z.var(2, keepdims=True) + 1e-5)
    return [x, y, norm]


@pytest.mark.parametrize("target", _targets())
def test_rows_that_are_transposed_behind_their_sums(target: str) -> None:
    arrays = _arrays((2, 150, 131), (3, 21, 256), (1, 80, 45))
    compiled = _compiled([x.shape for x in arrays], _turned, target)
    assert _launches(compiled) == 3
    for got, want in zip(_run(compiled, *arrays), _expected_turned(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


def test_transposed_rows_of_free_sizes() -> None:
    compiled = _compiled([(symbol("batch"), 21, symbol("columns"))] * 3, _turned)
    for size in ((2, 21, 151), (1, 21, 1), (3, 21, 300)):
        arrays = _arrays(size, size, size)
        for got, want in zip(_run(compiled, *arrays), _expected_turned(*arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


def test_norms_of_channels_with_parameters_of_each_channel() -> None:
    x = np.random.default_rng(0).standard_normal((2, 24, 6, 7), np.float32)
    scale, shift = np.linspace(0.5, 2, 24, dtype=np.float32), np.arange(24, dtype=np.float32)

    def norm(b: GraphBuilder, x: Value) -> list[Value]:
        made = layer_norm(b, x, None, None, (1,), 1e-5)
        places = [b.constant(v.reshape(24, 1, 1)) for v in (scale, shift)]
        a, c = (b.apply("broadcast_to", v, shape=x.type.shape) for v in places)
        return [b.apply("add", b.apply("mul", made, a), c)]

    (got,) = _run(_compiled([x.shape], norm), x)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    want = want * scale.reshape(24, 1, 1) + shift.reshape(24, 1, 1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_totals_of_columns_that_rows_use_are_computed_first() -> None:
    """In a square, the totals of columns fit to its rows, too; each would be computed for every
    element."""

    def crossed(b: GraphBuilder, x: Value) -> list[Value]:
        totals = b.apply("reduce_sum", x, axes=(0,))
        spread = b.apply("broadcast_to", b.apply("reshape", totals, shape=(32, 1)), shape=(32, 32))
        return [b.apply("div", x, spread)]

    x = np.random.default_rng(0).uniform(1, 2, (32, 32)).astype(np.float32)
    compiled = _compiled([x.shape], crossed)
    assert _launches(compiled) == 2
    np.testing.assert_allclose(_run(compiled, x)[0], x / x.sum(0)[:, None], rtol=2e-6)


def _statements(block: Block) -> int:
    """How many statements a block carries out, at most; loops of a last block's length have 128
    steps at most."""
    count = len(block)
    for statement in block:
        inner = sum(map(_statements, blocks(statement)))
        known = statement.extent if isinstance(statement, For) else 1
        count += inner * (known if isinstance(known, int) else 128)
    return count


def _spread(b: GraphBuilder, x: Value, axis: int) -> Value:
    shape = x.type.shape
    scale = np.linspace(0.5, 2, number(shape[axis]), dtype=np.float32)
    places = [-1 if a == axis else 1 for a in range(len(shape))]
    return b.apply(
        "mul", x, b.apply("broadcast_to", b.constant(scale.reshape(places)), shape=shape)
    )


def test_no_reduction_is_computed_for_every_element() -> None:
    """Where what follows keeps columns apart, or cuts the axis that is summed, too."""

    def make(b: GraphBuilder, x: Value, y: Value, z: Value, w: Value) -> list[Value]:
        y = b.apply("reshape", softmax(b, y, (0, 1)), shape=(21, 5, 64))
        w = b.apply("transpose", log_softmax(b, w, (1,)), permutation=(1, 0, 2))
        return [softmax(b, x, (1,)), _spread(b, y, 1), _spread(b, softmax(b, z, (0,)), 2), w]

    arrays = _arrays((1, 80, 6, 50), (21, 5, 64), (40, 21, 64), (2, 64, 84))
    compiled = _compiled([x.shape for x in arrays], make)
    counts = [_statements(launch.kernel.body) for launch in launches(compiled.program.steps)]
    assert sum(counts) < 20 * sum(x.size for x in arrays)
    *_, w = arrays
    e = np.exp(w.astype(np.float64))
    want = np.log(e / e.sum(1, keepdims=True)).swapaxes(0, 1)
    np.testing.assert_allclose(_run(compiled, *arrays)[3], want, rtol=2e-6, atol=1e-6)
