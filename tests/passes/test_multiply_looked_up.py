"""Products by matrices that are looked up: mixtures of experts."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.passes.gathers.multiply_looked_up import multiply_looked_up
from tests.onnx_check import expected, parsed
from tests.pass_runs import N, changed

_WHICH = np.array([2, 0], np.int64)


def _looked_up(b: GraphBuilder, table: Value, nd: bool) -> Value:
    which = b.constant(_WHICH)
    if nd:
        column = b.apply("reshape", which, shape=(2, 1))
        return b.apply("gather_nd", table, column, batch_dims=0)
    return b.apply("gather", table, which, axis=0)


def _product(depth: int, columns: int, nd: bool = False, twice: bool = False) -> Graph:
    b = GraphBuilder("g")
    table = b.input("table", TensorType(f32, (3, 5, depth)))
    x = b.input("x", TensorType(f32, (2, depth, columns)))
    matrices = _looked_up(b, table, nd)
    outputs = [b.apply("matmul", matrices, x)]
    return b.finish([*outputs, b.apply("neg", matrices)] if twice else outputs)


def _operators(graph: Graph) -> set[str]:
    return {node.operator.name for node in graph.nodes}


@pytest.mark.parametrize("nd", [False, True])
def test_a_matrix_each_is_read_where_it_lies(nd: bool, rng: np.random.Generator) -> None:
    result = changed(_product(32, 1, nd), [multiply_looked_up], rng, rtol=1e-5)
    assert "reduce_sum" in _operators(result) and "matmul" not in _operators(result)


@pytest.mark.parametrize(
    "graph",
    [_product(8, 1), _product(32, 2), _product(32, 1, twice=True)],
    ids=["short rows", "two columns", "matrices that somebody else reads"],
)
def test_other_products_stay(graph: Graph) -> None:
    assert multiply_looked_up(graph) is graph


def test_matrices_that_an_operator_of_one_input_makes_stay() -> None:
    b = GraphBuilder("g")
    matrices = b.apply("neg", b.input("table", TensorType(f32, (3, 5, 32))))
    graph = b.finish([b.apply("matmul", matrices, b.input("x", TensorType(f32, (3, 32, 1))))])
    assert multiply_looked_up(graph) is graph


def test_vectors_that_share_a_matrix_stay() -> None:
    b = GraphBuilder("g")
    table = b.input("table", TensorType(f32, (3, 5, 32)))
    which = b.input("which", TensorType(i64, (1,)))
    x = b.input("x", TensorType(f32, (N, 32, 1)))
    graph = b.finish([b.apply("matmul", b.apply("gather", table, which, axis=0), x)])
    assert multiply_looked_up(graph) is graph


def test_a_mixture_of_experts_copies_no_matrix() -> None:
    model = parsed(
        """agraph (float[n, 64] x, float[4, 48, 64] w) => (float[n, 48] y) {
            k = Constant<value_ints = [1]>()
            last = Constant<value_ints = [-1]>()
            s = Slice(x, zero, size, last)
            score, which = TopK(s, k)
            matrices = GatherND(w, which)
            column = Unsqueeze(x, last)
            product = MatMul(matrices, column)
            y = Squeeze(product, last)
            zero = Constant<value_ints = [0]>()
            size = Constant<value_ints = [4]>()
        }"""
    )
    compiled = bessemer.compile(model, threads=2)
    generator = np.random.default_rng(0)
    w = generator.standard_normal((4, 48, 64)).astype(np.float32)
    for count in (1, 7, 40):
        given: dict[str, Array] = {
            "x": generator.standard_normal((count, 64)).astype(np.float32), "w": w
        }  # fmt: skip
        (result,) = compiled.run(given)
        np.testing.assert_allclose(result, expected(model, given)[0], rtol=2e-5, atol=2e-5)
