"""Rows are cut where a condition on their index changes, and each part is free of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.dims import Size, Symbol, atom, coefficient_of, symbol
from bessemer.compiler.ir.expr import Buffer, constant, less, reduce, select
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import For, Kernel, Store
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.row_parts import MOST_PARTS, row_parts
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.x86 import AVX512
from tests.pass_runs import Case


def _joined(channels: list[int]) -> Graph:
    """relu(concat(...) * vector), the vector an input."""
    c = Case()
    parts = [c.x(2, 9, 7, count) for count in channels]
    whole = c.of("concat", *parts, axis=3)
    factor = c.of("broadcast_to", c.x(sum(channels)), shape=whole.type.shape)
    return c.b.finish([c.of("relu", c.of("mul", whole, factor))])


def _kernel(graph: Graph) -> Kernel:
    for step in passes_of(Options(), AVX512):
        graph = step(graph)
    (kernel,) = kernels_of(build_program(graph, AVX512).steps)
    return kernel


@pytest.mark.parametrize(
    ("channels", "cuts"), [([64, 32, 32], 3), ([16, 48], 2), ([16, 20, 12], 1), ([5, 3], 1)]
)
def test_a_concat_s_parts_are_loops_of_their_own(
    channels: list[int], cuts: int, rng: np.random.Generator
) -> None:
    graph = _joined(channels)
    kernel = _kernel(graph)
    loops = [s for s in walk(kernel.body) if isinstance(s, For) and s.kind == "vector"]
    assert len(loops) == cuts
    assert ("select" in print_kernel(kernel)) == (cuts == 1)
    arrays = [rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs]
    (found,) = bessemer.compile(graph).run(arrays)
    wanted = np.maximum(np.concatenate(arrays[:-1], axis=3) * arrays[-1], 0)
    np.testing.assert_array_equal(found, wanted)


def test_a_padded_row_is_cut_at_its_borders(rng: np.random.Generator) -> None:
    c = Case()
    x = c.of("relu", c.x(3, 40, 32))
    graph = c.b.finish([c.of("pad", x, low=(0, 1, 0), high=(0, 2, 0), mode="constant", value=0)])
    given = rng.standard_normal((3, 40, 32)).astype(np.float32)
    (found,) = bessemer.compile(graph).run([given])
    wanted = np.pad(np.maximum(given, 0), ((0, 0), (1, 2), (0, 0)))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_a_row_is_cut_where_its_index_turns(
    mode: Literal["edge", "reflect"], rng: np.random.Generator
) -> None:
    c = Case()
    graph = c.b.finish([c.of("pad", c.x(5, 70), low=(2, 3), high=(1, 4), mode=mode, value=0)])
    loops = [s for s in walk(_kernel(graph).body) if isinstance(s, For) and s.kind == "vector"]
    assert [loop.extent for loop in loops] == [3, 69, 5]
    given = rng.standard_normal((5, 70)).astype(np.float32)
    (found,) = bessemer.compile(graph).run([given])
    np.testing.assert_array_equal(found, np.pad(given, ((2, 1), (3, 4)), mode))


@pytest.mark.parametrize("mode", ["edge", "reflect"])
@pytest.mark.parametrize(
    ("low", "high"), [((2, 3), (1, 4)), ((0, 0), (0, 5)), ((1, 4), (0, 0)), ((0, -1), (0, 3))]
)
def test_rows_of_unknown_sizes_are_cut_too(
    mode: Literal["edge", "reflect"],
    low: tuple[int, int],
    high: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    c = Case()
    x = c.b.input("x", TensorType(f32, (symbol("n"), symbol("m"))))
    graph = c.b.finish([c.of("pad", x, low=low, high=high, mode=mode, value=0)])
    loops = [s for s in walk(_kernel(graph).body) if isinstance(s, For) and s.kind == "vector"]
    assert sum(map(_reads_neighbours, loops)) == (1 if low[1] >= 0 else 0)
    model = bessemer.compile(graph)
    for shape in ((5, 70), (1, 1), (2, 2), (3, 3), (4, 1), (1, 300)):
        given = rng.standard_normal(shape).astype(np.float32)
        (found,) = model.run([given])
        widths = [(max(before, 0), after) for before, after in zip(low, high)]
        wanted = np.pad(given, widths, mode)[:, max(-low[1], 0) :]
        np.testing.assert_array_equal(found, wanted)


def test_a_row_that_is_read_by_quotient_and_remainder_goes_lap_by_lap(
    rng: np.random.Generator,
) -> None:
    c = Case()
    n, m = symbol("n"), symbol("m")
    padded = c.of("pad", c.b.input("x", TensorType(f32, (n, m))), low=(1, 0), high=(0, 0),
                  mode="wrap", value=0)  # fmt: skip
    padded = c.of("pad", padded, low=(0, 1), high=(0, 0), mode="constant", value=0)
    turned = c.of("reshape", padded, shape=(m + 1, n + 1))
    graph = c.b.finish([c.of("slice", turned, starts=(1, 0), shape=(m, n + 1), steps=(1, 1))])
    loops = [s for s in walk(_kernel(graph).body) if isinstance(s, For) and s.kind == "vector"]
    assert list(map(_reads_neighbours, loops)) == [True]
    model = bessemer.compile(graph)
    for shape in ((1, 1), (3, 2), (2, 70), (70, 3), (40, 33), (5, 0)):
        given = rng.standard_normal(shape).astype(np.float32)
        wanted = np.pad(np.pad(given, ((1, 0), (0, 0)), "wrap"), ((0, 0), (1, 0)))
        wanted = wanted.reshape(shape[1] + 1, shape[0] + 1)[1:]
        np.testing.assert_array_equal(model.run([given])[0], wanted)


def _reads_neighbours(loop: For) -> bool:
    stores = [s for s in loop.body if isinstance(s, Store)]
    loads = [load for store in stores for load in loads_of(store.value)]
    return [coefficient_of(load.indices[0], loop.index) for load in loads] == [1]


def test_where_rows_are_cut() -> None:
    i, out, x = Symbol("i", 96), Buffer("out", f32, (96,)), Buffer("x", f32, (96,))
    at = atom(i)

    def parts(*limits: int) -> list[tuple[Size, Size]]:
        value = x[at]
        for limit in limits:
            value = select(less(at, limit), value, constant(0, f32))
        return list(row_parts(Piece(out, at, value, (i,)), i, 16))

    assert parts() == [(0, 96)]
    assert parts(32, 64) == [(0, 32), (32, 32), (64, 32)]
    assert parts(96, 0) == [(0, 96)]
    assert parts(40) == [(0, 96)]  # a vector would be cut
    k = Symbol("k", 4)
    total = reduce("add", [k], select(less(at, 32), x[atom(k)], constant(0, f32)))
    assert row_parts(Piece(out, at, total, (i,)), i, 16) == [(0, 96)]
    long = Symbol("i", 16 * 2 * MOST_PARTS)
    value = x[atom(long)]
    for number in range(1, 2 * MOST_PARTS):
        value = select(less(atom(long), 16 * number), value, constant(0, f32))
    assert len(row_parts(Piece(out, atom(long), value, (long,)), long, 16)) == 1
