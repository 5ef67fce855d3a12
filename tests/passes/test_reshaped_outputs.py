"""Kernels of their own loops read inputs of the network, and write its outputs, in other shapes."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import Alias, Copy, Launch
from bessemer.compiler.ir.types import TensorType, f32, i64
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target


def _scattered(*, twice: bool = False) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, 3)))
    places = b.input("places", TensorType(i64, (2, 3)))
    flat = [b.apply("reshape", value, shape=(6,)) for value in (places, x)]
    zeros = b.apply("full", shape=(12,), value=0.0, dtype=f32)
    y = b.apply("scatter_elements", zeros, *flat, axis=0, reduction="none")
    whole = b.apply("reshape", y, shape=(3, 4))
    return b.finish([whole, b.apply("reshape", y, shape=(4, 3))] if twice else [whole])


@pytest.mark.parametrize("twice", [False, True])
def test_numbers_are_those_of_copies(twice: bool) -> None:
    x, places = np.arange(1, 7, dtype=np.float32).reshape(2, 3), np.array([[3, 0, 7], [11, 2, 5]])
    expected = np.zeros(12, np.float32)
    expected[places.reshape(-1)] = x.reshape(-1)
    found = bessemer.compile(_scattered(twice=twice)).run({"x": x, "places": places})
    for array in found:
        np.testing.assert_array_equal(array.reshape(-1), expected)


def test_a_kernel_of_its_own_loops_may_read_them_in_a_third_shape() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (4,)))
    first, rows = b.constant(np.array([1, 0, 3, 2])), b.constant(np.array([[1, 1], [0, 0]]))
    y = b.apply("scatter_elements", x, first, x, axis=0, reduction="none")
    square = b.apply("reshape", y, shape=(2, 2))
    turned = b.apply("scatter_elements", square, rows, square, axis=0, reduction="none")
    graph = b.finish([b.apply("reshape", y, shape=(4, 1)), turned])
    given = np.arange(4, dtype=np.float32)
    column, found = bessemer.compile(graph).run({"x": given})
    np.testing.assert_array_equal(column[:, 0], [1, 0, 3, 2])
    np.testing.assert_array_equal(found, [[3, 2], [1, 0]])


def test_nothing_is_copied() -> None:
    program = build_program(_scattered(), host_target(), optimize=2)
    launches = [step for step in program.steps if isinstance(step, Launch)]
    assert [launch.values[-1] for launch in launches] == [program.outputs[0]] * 2
    assert not any(isinstance(step, Copy) for step in program.steps)
    sources = {step.source for step in program.steps if isinstance(step, Alias)}
    assert sources == set(program.inputs)
