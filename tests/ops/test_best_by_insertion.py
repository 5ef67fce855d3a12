"""The best few elements of rows of unknown numbers: inserted into registers, or by a heap."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import bessemer
from bessemer.compiler.driver import build
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import While
from bessemer.compiler.ir.types import Array, DType, TensorType, bf16, f16, f32, f64, i8, i64, u64
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.options import Options
from bessemer.runtime.errors import ExecutionError

_FREE = tuple(dims.symbol(name) for name in "abc")
_SHAPES = [(9, 11, 5), (8, 8, 40), (20, 9, 1), (8, 8, 0)]


def _graph(dtype: DType, axis: int, k: int, largest: bool) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, _FREE))
    return b.finish(b.apply_many("top_k", x, k=k, axis=axis, largest=largest))


def _wanted(x: Array, axis: int, k: int, largest: bool) -> tuple[Array, Array]:
    """By a stable sort of what falls as elements get better."""
    wide = widened(x)
    if wide.dtype.kind == "f":
        # The sort puts NaN last, where it is best.
        rank = np.where(np.isnan(wide), np.inf, np.arctan(wide.astype(np.float64)))
        falling = -rank if largest else rank
    else:
        falling = ~wide if largest else wide
    places = np.take(np.argsort(falling, axis=axis, kind="stable"), np.arange(k), axis=axis)
    return np.take_along_axis(x, places, axis), places


def _elements(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> list[Array]:
    """Many of them equal; some NaN, or the least or greatest that there are."""
    if dtype.is_float:
        few = np.array([-1.5, -0.0, 0.0, 2.0, np.nan, np.inf, -np.inf], dtype.numpy)
    else:
        least, most = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
        few = np.array([least, most, 0, 3], dtype.numpy)
    return [rng.choice(few, shape), *(np.full(shape, one, dtype.numpy) for one in few[:2])]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("axis", "k"), [(0, 3), (1, 8)])
@pytest.mark.parametrize("dtype", [f32, f64, f16, bf16, i8, i64, u64], ids=str)
def test_elements_are_those_of_a_stable_sort(
    dtype: DType, axis: int, k: int, largest: bool, rng: np.random.Generator
) -> None:
    model = bessemer.compile(_graph(dtype, axis, k, largest), cache=False)
    for shape in _SHAPES:
        for x in _elements(dtype, shape, rng):
            for found, wanted in zip(model.run({"x": x}), _wanted(x, axis, k, largest)):
                np.testing.assert_array_equal(widened(found), widened(wanted))


@pytest.mark.parametrize("dtype", [f32, i64], ids=str)
def test_the_best_are_those_of_onnxruntime(dtype: DType, rng: np.random.Generator) -> None:
    kind = {f32: "float", i64: "int64"}[dtype]
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 18]>
        agraph ({kind}[a, b, c] x) => ({kind}[5, b, c] y, int64[5, b, c] i)
        <int64[1] k = {{5}}> {{ y, i = TopK<axis = 0>(x, k) }}"""
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = {"x": rng.integers(-4, 5, (17, 3, 50)).astype(dtype.numpy)}
    found = bessemer.compile(model, cache=False).run(feed)
    for one, wanted in zip(found, session.run(None, feed), strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("dtype", [f32, i64], ids=str)
def test_too_few_elements_end_the_run(dtype: DType) -> None:
    model = bessemer.compile(_graph(dtype, 0, 3, largest=True), cache=False)
    for shape in ((2, 4, 5), (0, 1, 1)):
        with pytest.raises(ExecutionError, match="more elements than its axis has"):
            model.run({"x": np.zeros(shape, dtype.numpy)})


@pytest.mark.parametrize(
    ("dtype", "axis", "k", "inserted"),
    [
        (f32, 0, 5, True),
        (f32, 2, 8, True),
        (f32, 2, 9, False),
        (f32, 0, 40, False),
        (i64, 1, 8, True),
    ],
)
def test_few_are_kept_in_registers_and_more_in_a_heap(
    dtype: DType, axis: int, k: int, inserted: bool
) -> None:
    program = build(_graph(dtype, axis, k, largest=True), Options()).program
    (launch,) = launches(program.steps)
    assert inserted == (not any(isinstance(one, While) for one in walk(launch.kernel.body)))
