"""Gradients through choices and loops, compiled, against differences and against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, boolean, f64, i64
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.frontends.onnx_reader.read import read_onnx

SCALAR, VECTOR = TensorType(f64, ()), TensorType(f64, (4,))
rng = np.random.default_rng(11)
X, W = rng.standard_normal(4), rng.standard_normal(4)


def _total(b: GraphBuilder, x: Value) -> Value:
    return b.apply("reduce_sum", x, axes=tuple(range(x.type.rank)))


def _region(
    b: GraphBuilder, types: Sequence[TensorType], write: Callable[..., Sequence[Value]]
) -> Graph:
    inner = GraphBuilder("region", b)
    inputs = [inner.input(f"v{k}", type) for k, type in enumerate(types)]
    return inner.finish(write(inner, *inputs))


def _check(graph: Graph, feeds: dict[str, Array], names: Sequence[str]) -> None:
    """The gradients behind the loss, interpreted and compiled, against differences."""
    plain = run_graph(graph, feeds)
    compiled = bessemer.compile(graph).run(feeds)
    for name, by_reference, by_code in zip(names, plain[1:], compiled[1:], strict=True):
        wanted = np.zeros_like(feeds[name])
        for place in np.ndindex(wanted.shape):
            step = np.zeros_like(wanted)
            step[place] = 1e-6
            up, down = (
                run_graph(graph, {**feeds, name: feeds[name] + sign * step})[0] for sign in (1, -1)
            )
            wanted[place] = (up - down) / 2e-6
        np.testing.assert_allclose(by_reference, wanted, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(by_code, by_reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("condition", [True, False])
def test_a_choice_hands_back_what_the_taken_branch_does(condition: bool) -> None:
    b = GraphBuilder("choice")
    c = b.input("c", TensorType(boolean, ()))
    x, w = b.input("x", VECTOR), b.input("w", VECTOR)
    regions = (
        _region(b, [VECTOR, VECTOR], lambda r, x, w: [r.apply("mul", r.apply("exp", x), w), x]),
        _region(b, [VECTOR, VECTOR], lambda r, x, w: [(y := r.apply("sin", x)), y]),
    )
    y, z = b.apply_many("if", c, x, w, regions=regions)
    loss = _total(b, b.apply("mul", y, b.apply("mul", z, w)))
    graph = b.finish([loss, *gradients(b, loss, [x, w])])
    _check(graph, {"c": np.array(condition), "x": X, "w": W}, ["x", "w"])


def _loop(b: GraphBuilder, x: Value, w: Value, trips: Value) -> tuple[Value, ...]:
    """x, n = sin(x) * w * (1 + n / 8), n + 1; gives x * x of each iteration too."""

    def body(r: GraphBuilder, i: Value, going: Value, x: Value, n: Value, w: Value) -> list[Value]:
        part = r.apply("mul", r.apply("cast", i, dtype=f64), r.constant(np.array(0.125)))
        scale = r.apply("broadcast_to", r.apply("add", part, r.constant(np.array(1.0))), shape=(4,))
        y = r.apply("mul", r.apply("mul", r.apply("sin", x), w), scale)
        more = r.apply("add", n, r.constant(np.array(1)))
        going = r.apply("lt", more, r.constant(np.array(5)))
        return [going, y, more, r.apply("mul", x, x)]

    types = [TensorType(i64, ()), TensorType(boolean, ()), VECTOR, TensorType(i64, ()), VECTOR]
    return b.apply_many(
        "loop", trips, b.constant(np.array(True)), x, b.constant(np.array(0)), w,
        regions=(_region(b, types, body),), carried=2, has_trips=True, has_condition=True, scans=1,
        count="made",
    )  # fmt: skip


@pytest.mark.parametrize("trips", [0, 1, 3, 9])
def test_a_loop_is_run_backwards_over_its_stored_states(trips: int) -> None:
    b = GraphBuilder("loop")
    count = b.input("trips", TensorType(i64, ()))
    x, w = b.input("x", VECTOR), b.input("w", VECTOR)
    y, _, squares = _loop(b, x, w, count)
    loss = b.apply("add", _total(b, b.apply("mul", y, w)), _total(b, squares))
    graph = b.finish([loss, *gradients(b, loss, [x, w])])
    _check(graph, {"trips": np.array(trips), "x": X, "w": W}, ["x", "w"])


def test_the_gradient_of_a_loops_gradient() -> None:
    b = GraphBuilder("loop")
    count = b.input("trips", TensorType(i64, ()))
    x, w = b.input("x", VECTOR), b.input("w", VECTOR)
    y, *_ = _loop(b, x, w, count)
    (first,) = gradients(b, _total(b, b.apply("mul", y, y)), [x])
    loss = _total(b, b.apply("mul", first, first))
    graph = b.finish([loss, *gradients(b, loss, [x, w])])
    _check(graph, {"trips": np.array(3), "x": X, "w": W}, ["x", "w"])


def test_a_choice_inside_a_loop() -> None:
    b = GraphBuilder("nested")
    x, w = b.input("x", VECTOR), b.input("w", VECTOR)

    def body(r: GraphBuilder, i: Value, going: Value, x: Value, w: Value) -> list[Value]:
        is_odd = r.apply("eq", r.apply("mod", i, r.constant(np.array(2))), r.constant(np.array(1)))
        regions = (
            _region(r, [VECTOR, VECTOR], lambda q, x, w: [q.apply("mul", x, w)]),
            _region(r, [VECTOR, VECTOR], lambda q, x, w: [q.apply("tanh", x)]),
        )
        return [going, *r.apply_many("if", is_odd, x, w, regions=regions)]

    types = [TensorType(i64, ()), TensorType(boolean, ()), VECTOR, VECTOR]
    (y,) = b.apply_many(
        "loop", b.constant(np.array(5)), b.constant(np.array(True)), x, w,
        regions=(_region(b, types, body),), carried=1, has_trips=True, has_condition=False,
        scans=0, count="",
    )  # fmt: skip
    loss = _total(b, b.apply("mul", y, y))
    graph = b.finish([loss, *gradients(b, loss, [x, w])])
    _check(graph, {"x": X, "w": W}, ["x", "w"])


def test_a_scan_and_an_if_of_an_onnx_model() -> None:
    """sum over steps of state = tanh(state * w + row), of which If takes one of two functions."""
    row, state = (helper.make_tensor_value_info(n, TensorProto.DOUBLE, [3]) for n in ("row", "s"))
    new, out = (helper.make_tensor_value_info(n, TensorProto.DOUBLE, [3]) for n in ("t", "o"))
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["s", "w"], ["sw"]),
            helper.make_node("Add", ["sw", "row"], ["a"]),
            helper.make_node("Tanh", ["a"], ["t"]),
            helper.make_node("Identity", ["t"], ["o"]),
        ],
        "body", [state, row], [new, out],
    )  # fmt: skip
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["rows"], [f"{kind}y"])], kind, [],
            [helper.make_tensor_value_info(f"{kind}y", TensorProto.DOUBLE, [5, 3])],
        )
        for kind in ("Exp", "Sin")
    ]  # fmt: skip
    shapes = {"s0": [3], "x": [5, 3], "w": [3]}
    names, found = list(shapes), [f"d{name}" for name in shapes]
    nodes = [
        helper.make_node("Scan", ["s0", "x"], ["last", "rows"], body=body, num_scan_inputs=1),
        helper.make_node("ReduceSum", ["last"], ["size"], keepdims=0),
        helper.make_node("Greater", ["size", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1]
        ),
        helper.make_node("ReduceSum", ["y"], ["part"], keepdims=0),
        helper.make_node("Mul", ["part", "size"], ["loss"]),
        helper.make_node(
            "Gradient", names, found, domain="ai.onnx.preview.training", xs=names, y="loss"
        ),
    ]
    graph = helper.make_graph(
        nodes, "model",
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, s) for n, s in shapes.items()],
        [
            helper.make_tensor_value_info("loss", TensorProto.DOUBLE, []),
            *(helper.make_tensor_value_info(f"d{n}", TensorProto.DOUBLE, shapes[n]) for n in names),
        ],
        [helper.make_tensor("zero", TensorProto.DOUBLE, [], [0.0])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.preview.training", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    onnx.checker.check_model(model)
    feeds = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    _check(read_onnx(model), feeds, names)
