"""Networks of float16 on processors, which compute in float32 between inputs and outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, bf16, f16, f32, type_of
from bessemer.compiler.passes.precision.compute_half_wide import compute_half_wide
from tests.op_cases import Case, each_case


def _graph(*shapes: tuple[int, ...]) -> tuple[GraphBuilder, list[Value]]:
    b = GraphBuilder("half")
    return b, [b.input(f"x{at}", TensorType(f16, shape)) for at, shape in enumerate(shapes)]


def _types(graph: Graph) -> list[str]:
    return [f"{node.operator.name} {node.output.type.dtype}" for node in graph.nodes]


def test_the_network_rounds_once(rng: np.random.Generator) -> None:
    """Twenty steps of float16 would be off by more than one rounding."""
    b, (x,) = _graph((64,))
    value = x
    for _ in range(20):
        value = b.apply("mul", b.apply("tanh", b.apply("add", value, x)), x)
    given = rng.uniform(0.5, 1.5, 64).astype(np.float16)
    exact = given.astype(np.float64)
    for _ in range(20):
        exact = np.tanh(exact + given.astype(np.float64)) * given.astype(np.float64)
    made = bessemer.compile(b.finish([value]), threads=1).run([given])[0]
    np.testing.assert_array_equal(made, exact.astype(np.float16))


def test_what_is_moved_alone_stays_narrow() -> None:
    """Keys that a decoder keeps are joined and handed on as they are."""
    b, (past, new) = _graph((2, 3), (2, 1))
    graph = b.finish([b.apply("concat", past, new, axis=1)])
    assert _types(compute_half_wide(graph)) == _types(graph)


def test_a_rounding_of_the_network_stays() -> None:
    """There and back again is what a network does to round."""
    b, (x,) = _graph((4,))
    doubled = b.apply("cast", b.apply("add", x, x), dtype=f32)
    rounded = b.apply("cast", b.apply("exp", doubled), dtype=f16)
    outputs = [b.apply("cast", rounded, dtype=f32), b.apply("add", rounded, rounded)]
    graph = b.finish(outputs)
    once = compute_half_wide(graph)
    assert compute_half_wide(once) is once
    assert _types(once).count("add f32") == 2
    given = np.array([0.1, 0.2, 0.3, 1], np.float16)
    made = bessemer.compile(graph, threads=1).run([given])
    exact = np.exp(2 * given.astype(np.float64))
    np.testing.assert_array_equal(made[0], exact.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(made[1], (2 * exact).astype(np.float16))


@pytest.mark.parametrize(
    ("operator", "exact"),
    [("HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)), ("HardSigmoid", None)],
)
def test_functions_whose_numbers_have_more_than_16_bits(operator: str, exact: object) -> None:
    """At -3 a sixth of 16 bits gave -3.7e-4 in place of 0."""
    x = np.linspace(-4, 4, 33).astype(np.float16)
    node = helper.make_node(operator, ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [33]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    wide = x.astype(np.float64)
    wanted = exact(wide) if callable(exact) else np.clip(0.2 * wide + 0.5, 0, 1)
    made = bessemer.compile(model, threads=1).run({"x": x})[0]
    np.testing.assert_array_equal(made, wanted.astype(np.float16))


def test_a_softmax_is_not_rounded_before_the_model_widens_it(rng: np.random.Generator) -> None:
    """Tools that convert a model keep its outputs' type by a conversion at the end."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["shares"]),
        helper.make_node("Cast", ["shares"], ["y"], to=TensorProto.FLOAT),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4, 30])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 30])
    graph = helper.make_graph(nodes, "g", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = rng.standard_normal((4, 30)).astype(np.float16)
    powers = np.exp(x.astype(np.float64))
    shares = bessemer.compile(model, threads=1).run({"x": x})[0]
    np.testing.assert_allclose(shares, powers / powers.sum(1, keepdims=True), rtol=1e-6)


def test_a_rounding_by_another_tensors_type_stays() -> None:
    nodes = [
        helper.make_node("CastLike", ["x", "half"], ["rounded"]),
        helper.make_node("CastLike", ["rounded", "x"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    half = numpy_helper.from_array(np.zeros(1, np.float16), "half")
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [half])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.array([0.1, 1.0001, 3.3, 7e4], np.float32)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(bessemer.compile(model, threads=1).run({"x": x})[0], wanted)


@each_case(where=lambda case: any(type_of(x).dtype in (f16, bf16) for x in case.arrays))
def test_every_operator_of_halves_can_be_widened(case: Case) -> None:
    """What an operator's attributes say of types (sums in float32) must not stand in the way."""
    b = GraphBuilder("half")
    types = [type_of(array) for array in case.arrays]
    halves = [replace(kind, dtype=f16) if kind.dtype is bf16 else kind for kind in types]
    inputs = [b.input(f"x{at}", kind) for at, kind in enumerate(halves)]
    graph = b.finish(b.apply_many(case.operator.name, *inputs, **case.attributes))
    changed = compute_half_wide(graph)
    assert [value.type for value in changed.outputs] == [value.type for value in graph.outputs]
