"""Chains of look-ups in constants are computed at compile time, arithmetic alone is not."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32, i64
from bessemer.compiler.passes.gathers.fold_tables import LEAST_GROWTH, fold_tables
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from tests.pass_runs import changed


def _relative(count: int, rng: np.random.Generator, *, look_up: bool = True) -> Graph:
    """Scores with a number for every distance of two of `count` places."""
    b = GraphBuilder("g")
    shape = (count, count)
    x = b.input("x", TensorType(f32, shape))
    rows, columns = (b.apply("iota", shape=shape, axis=axis, dtype=i64) for axis in (0, 1))
    middle = b.apply("full", shape=shape, value=count - 1, dtype=i64)
    places = b.apply("add", b.apply("sub", rows, columns), middle)
    table = b.constant(rng.standard_normal(2 * count - 1).astype(np.float32))
    bias = (
        b.apply("gather", table, places, axis=0) if look_up else b.apply("cast", places, dtype=f32)
    )
    return b.finish([b.apply("add", x, bias)])


def test_relative_positions_are_looked_up_once(rng: np.random.Generator) -> None:
    result = changed(_relative(160, rng), [fold_tables, remove_dead], rng)
    assert [node.operator.name for node in result.nodes] == ["add"]


def test_what_would_make_the_model_much_larger_stays(rng: np.random.Generator) -> None:
    graph = _relative(int((LEAST_GROWTH / 4) ** 0.5) + 1, rng)
    assert changed(graph, [fold_tables], rng) is graph


def test_arithmetic_alone_stays(rng: np.random.Generator) -> None:
    graph = _relative(64, rng, look_up=False)
    assert changed(graph, [fold_tables], rng) is graph


def _kernel(channels: int, states: int, length: int, rng: np.random.Generator) -> Graph:
    """x times a state-space model's kernel: for every place a sum of exponentials of it."""
    b = GraphBuilder("g")
    shape = (channels, states, length)
    x = b.input("x", TensorType(f32, (channels, length)))
    places = b.apply("cast", b.apply("iota", shape=shape, axis=2, dtype=i64), dtype=f32)
    decay = b.constant(-rng.random((channels, states, 1), np.float32))
    powers = b.apply("exp", b.apply("mul", places, b.apply("broadcast_to", decay, shape=shape)))
    return b.finish([b.apply("mul", x, b.apply("reduce_sum", powers, axes=(1,)))])


def test_what_is_added_up_on_the_way_does_not_count(rng: np.random.Generator) -> None:
    result = changed(_kernel(8, 64, 96, rng), [fold_constants, fold_tables, remove_dead], rng)
    assert [node.operator.name for node in result.nodes] == ["mul"]


def test_weights_of_bytes_stay_bytes(rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (64,)))
    weights = b.constant(rng.integers(-128, 128, (64, 300)).astype(np.int8))
    rows = b.constant(np.arange(0, 300, 2))
    wide = b.apply("gather", b.apply("cast", weights, dtype=f32), rows, axis=1)
    graph = b.finish([b.apply("matmul", b.apply("reshape", x, shape=(1, 64)), wide)])
    assert changed(graph, [fold_tables], rng) is graph
