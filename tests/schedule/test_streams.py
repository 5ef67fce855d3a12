"""Packed operands that no cache keeps are written by streaming stores, and are what they were."""

import re
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.kernels.cpu import emit_kernel
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import parse_target


def _product(rows: int, depth: int, columns: int, transposed: bool = False) -> Graph:
    builder = GraphBuilder("g")
    a = builder.input("a", TensorType(f32, (rows, depth)))
    b = builder.input("b", TensorType(f32, (columns, depth) if transposed else (depth, columns)))
    right = builder.apply("transpose", b, permutation=(1, 0)) if transposed else b
    return builder.finish([builder.apply("matmul", a, right)])


def _streaming(graph: Graph) -> list[str]:
    """The kernels whose code has streaming stores."""
    target = parse_target("x86_64-avx512")
    kernels = kernels_of(build_program(graph, target).steps)
    return [k.name for k in kernels if "!nontemporal" in emit_kernel(k, target).text]


def test_what_is_small_stays_in_the_caches() -> None:
    assert _streaming(_product(192, 2048, 512)) == ["pack"]
    assert _streaming(_product(64, 2048, 512, transposed=True)) == ["pack"]
    assert _streaming(_product(192, 1024, 512)) == []


def _pack_of(graph: Graph) -> str:
    steps = build_program(graph, parse_target("x86_64-avx512")).steps
    (pack,) = (print_kernel(k) for k in kernels_of(steps) if k.name == "pack")
    return pack


def test_some_steps_of_the_depth_are_packed_to_a_panel_before_the_next_panel_s() -> None:
    def loops(graph: Graph) -> list[int]:
        return [int(n) for n in re.findall(r"(?:parallel|for) i\d+ in 0\.\.(\d+)", _pack_of(graph))]

    assert loops(_product(192, 1024, 512)) == [64, 16, 16]  # turns, panels, steps
    assert loops(_product(192, 1031, 512)) == [1031, 16]  # a prime number of rows


@pytest.mark.parametrize(("columns", "transposed"), [(1024, False), (1000, True)])
def test_a_product_of_large_inputs_is_numpy_s(
    columns: int, transposed: bool, rng: np.random.Generator
) -> None:
    graph = _product(33, 1100, columns, transposed)
    inputs: dict[str, Any] = {
        value.name: rng.standard_normal(value.type.static_shape).astype(np.float32)
        for value in graph.inputs
    }
    (one,), (two,) = (bessemer.compile(graph, threads=count).run(inputs) for count in (1, 2))
    np.testing.assert_array_equal(one, two)
    right = inputs["b"].astype(np.float64)
    wanted = inputs["a"].astype(np.float64) @ (right.T if transposed else right)
    np.testing.assert_allclose(one, wanted, atol=5e-4)
