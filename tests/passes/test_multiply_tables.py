"""Tables are multiplied in place of the many rows that are looked up in them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, TensorType, dtype_of
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.compiler.passes.gathers.multiply_tables import multiply_tables
from bessemer.compiler.passes.simplification.remove_dead import remove_dead

WORDS, FEATURES, WIDTH = 7, 5, 6


def _network(batch: int, time: int, axis: int = 0) -> tuple[Graph, dict[str, Array]]:
    """A text's words looked up, steps first, multiplied and squared; the gradients of both."""
    rng = np.random.default_rng(batch)
    feeds = {
        "tokens": rng.integers(-WORDS, WORDS, (batch, time)),
        "table": rng.standard_normal((WORDS, FEATURES)),
        "weights": rng.standard_normal((FEATURES, WIDTH)),
    }
    b = GraphBuilder("text")
    tokens, table, weights = (
        b.input(name, TensorType(dtype_of(a), a.shape)) for name, a in feeds.items()
    )
    if axis:
        rows = b.apply("gather", b.apply("transpose", table, permutation=(1, 0)), tokens, axis=1)
        rows = b.apply("transpose", rows, permutation=(1, 2, 0))
    else:
        rows = b.apply("gather", table, tokens, axis=0)
    steps = b.apply("transpose", rows, permutation=(1, 0, 2))
    found = b.apply("matmul", steps, weights)
    loss = b.apply("reduce_sum", b.apply("mul", found, found), axes=(0, 1, 2))
    parts = gradients(b, loss, [table, weights])
    return b.finish([found, *parts], ["found", "table's", "weights'"]), feeds


def _expected(feeds: dict[str, Array]) -> tuple[Array, Array, Array]:
    tokens, table, weights = feeds.values()
    rows = table[tokens].transpose(1, 0, 2)
    found = rows @ weights
    of_rows = 2 * found @ weights.T
    of_table = np.zeros_like(table)
    np.add.at(of_table, tokens.T, of_rows)
    return found, of_table, np.einsum("tbk,tbn->kn", rows, 2 * found)


def _largest_product(graph: Graph) -> int:
    shapes = [node.inputs[0].type.static_shape for node in graph.walk() if "matmul" in str(node)]
    return max(int(np.prod(shape)) for shape in shapes)


@pytest.mark.parametrize(("batch", "time"), [(3, 9), (1, 40), (2, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_results_and_gradients_stay(batch: int, time: int, axis: int) -> None:
    graph, feeds = _network(batch, time, axis)
    model = bessemer.compile(graph, cache=False)
    for result, wanted in zip(model.run(feeds), _expected(feeds), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-12)


def test_every_product_is_one_of_the_table() -> None:
    graph, _ = _network(3, 9)
    after = remove_dead(multiply_tables(graph))
    assert _largest_product(graph) >= 27 * FEATURES
    assert _largest_product(after) <= WORDS * max(FEATURES, WIDTH)


def test_half_precision_stays() -> None:
    b = GraphBuilder("text")
    tokens = b.input("tokens", TensorType(dtype_of(np.zeros(1, np.int64)), (30,)))
    table = b.constant(np.ones((WORDS, FEATURES), np.float16))
    rows = b.apply("gather", table, tokens, axis=0)
    product = b.apply("matmul", rows, b.constant(np.ones((FEATURES, WIDTH), np.float16)))
    graph = b.finish([product], ["product"])
    assert multiply_tables(graph) is graph


def test_few_rows_are_multiplied_themselves() -> None:
    graph, _ = _network(2, 6)
    assert multiply_tables(graph) is graph


def test_rows_that_are_used_otherwise_stay() -> None:
    b = GraphBuilder("text")
    tokens = b.input("tokens", TensorType(dtype_of(np.zeros(1, np.int64)), (30,)))
    table, weights = (
        b.constant(np.ones(shape, np.float32)) for shape in ((WORDS, FEATURES), (FEATURES, WIDTH))
    )
    rows = b.apply("gather", table, tokens, axis=0)
    graph = b.finish([rows, b.apply("matmul", rows, weights)], ["rows", "product"])
    counts = Counter(node.operator.name for node in multiply_tables(graph).nodes)
    assert counts == {"gather": 2, "matmul": 1}
