"""Pools ask where the image ends only at its borders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.dims import (
    Size,
    Symbol,
    atom,
    mod,
    number,
    rename,
    symbol,
    upper_bound,
)
from bessemer.compiler.ir.expr import Buffer, Expression, as_index, less, reduce, select, within
from bessemer.compiler.ir.loops import For, Statement
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import f32, i64
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.nests.window_parts import WindowPart, asks_in_windows, window_parts
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.x86 import AVX512
from bessemer.frontends.models_in import as_graph

_AXIS = Symbol("i", 35)
_X = Buffer("x", f32, (35,))


def _window(taps: int, low: int, stride: int = 1, size: int = 35) -> Expression:
    """The sum of what a window sees of a row."""
    tap = Symbol("k", taps)
    place: Size = stride * atom(_AXIS) + atom(tap) - low
    return reduce("add", [tap], select(within(place, size), _X[place], 0.0))


@pytest.mark.parametrize(
    ("value", "lanes", "parts"),
    [
        (_window(3, 1), 1, [(0, 1), (1, 33), (34, 1)]),
        (_window(3, 1), 16, [(0, 16), (16, 16), (32, 3)]),
        (_window(3, 0), 16, [(0, 32), (32, 3)]),
        (_window(3, 2), 16, [(0, 16), (16, 19)]),
        (_window(3, 1, 2, 70), 1, [(0, 1), (1, 34)]),
        (_window(3, 1, 2, 69), 1, [(0, 1), (1, 33), (34, 1)]),
        (_window(21, 10), 1, [(0, 35)]),
    ],
)
def test_parts_of_an_axis(value: Expression, lanes: int, parts: list[tuple[int, Size]]) -> None:
    assert asks_in_windows(value)
    assert [(part.first, part.length) for part in window_parts(value, _AXIS, lanes)] == parts


def _free_parts(taps: Size, low: int, stride: int = 1) -> list[WindowPart]:
    axis, size, tap = Symbol("i", symbol("n")), symbol("n"), Symbol("k", taps)
    place = stride * atom(axis) + atom(tap) - low
    value = reduce("add", [tap], select(within(place, stride * size), _X[place], 0.0))
    return window_parts(value, axis, 16)


def test_borders_that_may_be_long_are_no_short_ones() -> None:
    """A pool's are as long as its window; a row of a triangle ends anywhere."""

    def parts(taps: Size, low: int) -> list[tuple[bool, bool]]:
        return [(part.is_inside, part.is_short) for part in _free_parts(taps, low, 2)]

    assert parts(4, 1) == [(False, True), (True, False), (False, True)]
    assert parts(81, 40) == [(False, False), (True, False), (False, False)]


def test_rows_of_any_size_begin_at_whole_vectors() -> None:
    """The rest of a row is known to be one vector, or two of a large window's."""
    parts = _free_parts(3, 1)
    assert [(part.is_inside, part.is_begun) for part in parts] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    for n in (1, 15, 16, 17, 31, 32, 33, 56, 160):
        covered: list[int] = []
        for part in parts:
            first, length = (number(rename(s, {"n": n})) for s in (part.first, part.length))
            covered += range(first, first + length)
        assert covered == list(range(n))
    assert mod(parts[1].length, 16) == 0
    assert upper_bound(parts[2].length) == 16
    assert upper_bound(_free_parts(5, 2)[2].length) == 32
    assert not isinstance(upper_bound(_free_parts(symbol("n"), 0)[-1].length), int)


def test_an_axis_that_data_moves_a_window_along_is_not_cut() -> None:
    tap = Symbol("k", 3)
    place = atom(_AXIS) + atom(tap) + as_index(Buffer("shift", i64, (1,))[0])
    value = reduce("add", [tap], select(less(place, 35), _X[place], 0.0))
    assert asks_in_windows(value)
    assert window_parts(value, _AXIS, 16) == [WindowPart(0, 35)]


@pytest.mark.parametrize(
    "text",
    [
        """(float[n, 3, rows, columns] x) => (float[n, 3, h, w] y) {
            y = MaxPool<kernel_shape = [2, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x) }""",
        """(float[n, s, t] x, float[n, s, t] y) => (float[n, u] z)
            <int64[1] axes = {1}> {
            both = Concat<axis = 2>(x, y)
            z = ReduceSum<keepdims = 0>(both, axes) }""",
    ],
)
def test_rows_of_any_size_that_cannot_be_cut_are_vectors(text: str) -> None:
    header = '<ir_version: 9, opset_import: ["": 19]> agraph'
    graph = as_graph(onnx.parser.parse_model(f"{header} {text}"))
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    (kernel,) = kernels_of(build_program(graph, AVX512).steps)
    assert "vector" in print_kernel(kernel)


def test_what_is_asked_once_for_all_taps_is_no_window() -> None:
    tap = Symbol("k", 3)
    total = reduce("add", [tap], _X[atom(_AXIS) + atom(tap)])
    assert not asks_in_windows(select(less(atom(_AXIS), 30), total, 0.0))


def _model(pool: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    sizes = ", ".join(map(str, shape))
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[{sizes}] x) => (float[n, c, h, w] y) {{ y = {pool}(x) }}"""
    )


POOLS = [
    "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>",
    "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>",
    "AveragePool<kernel_shape = [3, 5], strides = [2, 3], pads = [0, 2, 1, 1], ceil_mode = 1>",
    "AveragePool<kernel_shape = [2, 3], dilations = [2, 3], pads = [1, 3, 1, 3]>",
    "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>",
    "MaxPool<kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]>",
    "MaxPool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>",
    "MaxPool<kernel_shape = [5, 4], strides = [3, 2], pads = [2, 1, 2, 3]>",
]


@pytest.mark.parametrize("shape", [(2, 3, 19, 35), (1, 20, 9, 64), (1, 1, 40, 17), (1, 17, 8, 8)])
@pytest.mark.parametrize("pool", POOLS)
def test_pools_are_those_of_the_reference(
    pool: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    model = _model(pool, shape)
    x = rng.standard_normal(shape).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (found,) = bessemer.compile(model, cache=False).run({"x": x})
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_any_size_are_those_of_the_reference(pool: str, rng: np.random.Generator) -> None:
    """Sizes at which parts of an axis are empty, and some at which none is."""
    names = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[n, 3, rows, columns] x) => (float[n, 3, h, w] y) {{ y = {pool}(x) }}"""
    )
    compiled = bessemer.compile(names, cache=False)
    for shape in ((2, 3, 3, 4), (1, 3, 4, 4), (1, 3, 5, 7), (1, 3, 19, 35), (3, 3, 40, 70)):
        x = rng.standard_normal(shape).astype(np.float32)
        (expected,) = ReferenceEvaluator(_model(pool, shape)).run(None, {"x": x})
        (found,) = compiled.run({"x": x})
        np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_nothing_is_asked_between_the_borders_of_an_image_of_any_size() -> None:
    text = """<ir_version: 9, opset_import: ["": 19]> agraph (float[n, 24, rows, columns] x)
        => (float[n, 24, h, w] y) { y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x) }"""
    graph = as_graph(onnx.parser.parse_model(text))
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    (kernel,) = kernels_of(build_program(graph, AVX512).steps)
    vectors = [text.split("out0")[0] for text in print_kernel(kernel).split("vector")[1:]]
    border, inside = (True, True, True), (True, False, True)
    assert ["select" in loop for loop in vectors] == [*border, *inside, *border]


def test_means_between_the_borders_of_an_image_of_any_size_have_one_divisor() -> None:
    text = f"""<ir_version: 9, opset_import: ["": 19]> agraph (float[n, 24, rows, columns] x)
        => (float[n, 24, h, w] y) {{ y = {POOLS[0]}(x) }}"""
    graph = as_graph(onnx.parser.parse_model(text))
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    (kernel,) = kernels_of(build_program(graph, AVX512).steps)
    assert print_kernel(kernel).count("/ 9.0") == 1


@pytest.mark.parametrize("pool", [POOLS[0], POOLS[4]])
def test_nothing_is_asked_between_borders(pool: str) -> None:
    graph = as_graph(_model(pool, (1, 24, 20, 64)))
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    (kernel,) = kernels_of(build_program(graph, AVX512).steps)

    def rows(body: tuple[Statement, ...]) -> Iterator[For]:
        yield from (s for s in walk(body) if isinstance(s, For) and s.kind == "vector")

    extents = [loop.extent for loop in rows(kernel.body)]
    assert extents == [16, 32, 16] * 3
    assert "select" in print_kernel(kernel)
    middle = [s for s in walk(kernel.body) if isinstance(s, For) and s.extent == 18]
    (inner,) = [loop for loop in rows(middle[0].body) if loop.extent == 32]
    assert "select" not in str(inner)


@pytest.mark.parametrize("sizes", ["13, 45", "h, w"])
def test_windows_that_see_a_nan_are_nan(sizes: str, rng: np.random.Generator) -> None:
    """Whichever tap sees it: NaNs are looked for in pairs of taps."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[2, 3, {sizes}] x) => (float[a, b, c, d] y, float[e, f, g] z)
            <int64[1] axes = {{1}}> {{
            y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)
            z = ReduceMin<keepdims = 0>(x, axes) }}"""
    )
    x = rng.standard_normal((2, 3, 13, 45)).astype(np.float32)
    x[rng.random(x.shape) < 0.03] = np.nan
    largest, least = bessemer.compile(model, cache=False).run({"x": x})
    wide = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(largest, windows.max(axis=(-1, -2)))
    np.testing.assert_array_equal(least, x.min(axis=1))
