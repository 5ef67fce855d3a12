"""Gradients of what a loop captures and reads in parts: collected, and added up once behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, boolean, f64, i64
from bessemer.compiler.ops.composite.composite import binary, reshape
from bessemer.compiler.passes.differentiation.differentiate import gradients

torch = pytest.importorskip("torch")
ROWS, WIDTH, TRIPS = 7, 3, 5
_PLACES = np.array([4, 0, 4, 6, -2])
_Read = Callable[[GraphBuilder, Value, Value], Value]


def _row(r: GraphBuilder, table: Value, at: Value) -> Value:
    return r.apply("gather", table, at, axis=0)


def _column(r: GraphBuilder, table: Value, at: Value) -> Value:
    transposed = r.apply("transpose", table, permutation=(1, 0))
    return r.apply("gather", transposed, at, axis=1)


def _two_and_all(r: GraphBuilder, table: Value, at: Value) -> Value:
    """Two rows, of which one is always the same, and the mean of all."""
    same = r.apply("gather", table, r.constant(np.array(1)), axis=0)
    mean = binary(r, "div", r.apply("reduce_sum", table, axes=(0,)), float(ROWS))
    return r.apply("add", r.apply("mul", _row(r, table, at), same), mean)


def _elements(r: GraphBuilder, table: Value, at: Value) -> Value:
    places = r.apply("broadcast_to", reshape(r, at, (1, 1)), shape=(1, WIDTH))
    return reshape(r, r.apply("gather_elements", table, places, axis=0), (WIDTH,))


def _loop(
    b: GraphBuilder, x: Value, table: Value, places: Value, trips: Value, read: _Read
) -> Value:
    r = GraphBuilder("region", b)
    i, going = r.input("i", TensorType(i64, ())), r.input("going", TensorType(boolean, ()))
    state, own, indices = (r.input("", value.type) for value in (x, table, places))
    at = r.apply("gather", indices, i, axis=0)
    new = r.apply("tanh", r.apply("add", state, read(r, own, at)))
    (y,) = b.apply_many(
        "loop", trips, b.constant(np.array(True)), x, table, places,
        regions=(r.finish([going, new]),), carried=1, has_trips=True, has_condition=False,
        scans=0, count="",
    )  # fmt: skip
    return y


def _graph(read: _Read, second: bool = False) -> Graph:
    """The loss and its gradients by x and table; or those of the sum of the gradients' squares."""
    b = GraphBuilder("captured")
    x, table = (
        b.input("x", TensorType(f64, (WIDTH,))),
        b.input("table", TensorType(f64, (ROWS, WIDTH))),
    )
    places, trips = (
        b.input("places", TensorType(i64, (TRIPS,))),
        b.input("trips", TensorType(i64, ())),
    )
    y = _loop(b, x, table, places, trips, read)
    loss = b.apply("reduce_sum", b.apply("mul", y, y), axes=(0,))
    found = gradients(b, loss, [x, table])
    if second:
        parts = [
            b.apply("reduce_sum", b.apply("mul", g, g), axes=tuple(range(g.type.rank)))
            for g in found
        ]
        loss = b.apply("add", *parts)
        found = gradients(b, loss, [x, table])
    return b.finish([loss, *found])


_READS: dict[_Read, Callable[[object, int], object]] = {
    _row: lambda t, at: t[at],  # type: ignore[index]
    _column: lambda t, at: t.T[:, at],  # type: ignore[attr-defined]
    _two_and_all: lambda t, at: t[at] * t[1] + t.sum(0) / ROWS,  # type: ignore[index,attr-defined]
    _elements: lambda t, at: t[at],  # type: ignore[index]
}


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("trips", [0, 1, TRIPS])
@pytest.mark.parametrize("read", list(_READS))
def test_what_is_read_of_a_captured_table_has_torchs_gradient(
    read: _Read, trips: int, second: bool
) -> None:
    rng = np.random.default_rng(3)
    feeds = {
        "x": rng.standard_normal(WIDTH), "table": rng.standard_normal((ROWS, WIDTH)),
        "places": _PLACES, "trips": np.array(trips),
    }  # fmt: skip
    x, table = (torch.tensor(feeds[name], requires_grad=True) for name in ("x", "table"))
    state = x
    for at in _PLACES[:trips]:
        state = torch.tanh(state + _READS[read](table, int(at)))
    loss = (state * state).sum()
    options = {"allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(loss, [x, table], create_graph=second, **options)
    if second:
        loss = sum((g * g).sum() for g in found)
        found = torch.autograd.grad(loss, [x, table], **options)
    wanted = [value.detach().numpy() for value in (loss, *found)]
    graph = _graph(read, second)
    runs = [run_graph(graph, feeds)]
    if trips == TRIPS or read is _row:
        runs.append(bessemer.compile(graph).run(feeds))
    for arrays in runs:
        for ours, theirs in zip(arrays, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("read", [_row, _column, _elements])
def test_no_iteration_touches_the_whole_table(read: _Read) -> None:
    backward = _graph(read).nodes
    (region,) = [
        node.regions[0] for node in backward if "backward" in [r.name for r in node.regions]
    ]
    wanted, names = set(region.outputs), []
    for node in reversed(region.nodes):
        if any(output in wanted for output in node.outputs):
            names.append(node.operator.name)
            wanted.update(node.inputs)
    assert "tanh" in names
    assert not [name for name in names if "scatter" in name]
