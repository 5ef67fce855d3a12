"""Sequences and optionals as a model's inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.frontends import onnx_backend
from tests.onnx_check import agrees, floats, parsed

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(FLOATS)


def _model(
    node: onnx.NodeProto, inputs: dict[str, onnx.TypeProto], outputs: dict[str, onnx.TypeProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "sequences",
        [helper.make_value_info(name, type) for name, type in inputs.items()],
        [helper.make_value_info(name, type) for name, type in outputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_sequences_go_in_and_come_out_as_lists() -> None:
    node = helper.make_node("SequenceInsert", ["s", "x"], ["t"])
    model = _model(node, {"s": SEQUENCE, "x": FLOATS}, {"t": SEQUENCE})
    prepared = onnx_backend.prepare(model)
    for length in (0, 2):
        given = [floats(2, n + 1) for n in range(length)]
        (found,) = prepared.run([given, floats(5)])
        assert len(found) == length + 1
        for one, wanted in zip(found, [*given, floats(5)]):
            np.testing.assert_array_equal(one, wanted)


def test_a_sequence_at_the_end_is_several_outputs() -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)
    x = helper.make_tensor_type_proto(TensorProto.FLOAT, [3, 2])
    compiled = bessemer.compile(_model(node, {"x": x}, {"parts": SEQUENCE}), cache=False)
    assert [output.name for output in compiled.signature.outputs] == [
        "parts[0]", "parts[1]", "parts[2]",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(compiled.run({"x": floats(3, 2)})), floats(3, 2))


def test_a_body_over_a_sequence_sees_the_names_around_it() -> None:
    model = parsed(
        """g (float[3, 4] x, float[4] k) => (float[n, 4] y) {
             parts = SplitToSequence <axis = 0, keepdims = 0> (x)
             scaled = SequenceMap <body = b (float[4] e) => (float[4] o) { o = Mul(e, k) }> (parts)
             y = ConcatFromSequence <axis = 0, new_axis = 1> (scaled)
           }"""
    )
    agrees(model, {"x": floats(3, 4), "k": floats(4) + 1})


def test_a_sequence_of_unknown_length_cannot_be_compiled() -> None:
    node = helper.make_node("SequenceLength", ["s"], ["n"])
    count = helper.make_tensor_type_proto(TensorProto.INT64, [])
    model = _model(node, {"s": SEQUENCE}, {"n": count})
    with pytest.raises(CompileError, match="input 's': is a sequence, not a tensor"):
        bessemer.compile(model, cache=False)
    assert onnx_backend.run_model(model, [[floats(1), floats(2)]])[0] == 2


def test_optionals_are_there_or_not() -> None:
    node = helper.make_node("OptionalHasElement", ["o"], ["there"])
    truth = helper.make_tensor_type_proto(TensorProto.BOOL, [])
    model = _model(node, {"o": helper.make_optional_type_proto(FLOATS)}, {"there": truth})
    prepared = onnx_backend.prepare(model)
    assert prepared.run([floats(2)])[0] and not prepared.run([None])[0]
    node = helper.make_node("Identity", ["o"], ["p"])
    optional = helper.make_optional_type_proto(FLOATS)
    prepared = onnx_backend.prepare(_model(node, {"o": optional}, {"p": optional}))
    assert prepared.run([None]) == (None,)
    np.testing.assert_array_equal(prepared.run([floats(2)])[0], floats(2))
    (found,) = onnx_backend.run_node(
        helper.make_node("SequenceAt", ["s", "i"], ["y"]), [[floats(2), floats(3)], np.array(1)]
    )
    np.testing.assert_array_equal(found, floats(3))


@pytest.mark.parametrize("place", [None, 0, -2])
def test_erasing_takes_one_tensor_out(place: int | None) -> None:
    parts = [floats(2), floats(3), floats(4)]
    nodes = [
        helper.make_node("SequenceConstruct", ["a", "b", "c"], ["s"]),
        helper.make_node("SequenceErase", ["s"] if place is None else ["s", "place"], ["t"]),
        helper.make_node("SequenceLength", ["t"], ["length"]),
        helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, part.shape)
        for name, part in zip("abc", parts)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("length", "y")]
    places = [] if place is None else [onnx.numpy_helper.from_array(np.array(place), "place")]
    graph = helper.make_graph(nodes, "erased", inputs, outputs, places)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    agrees(model, dict(zip("abc", parts)))


def test_an_optional_is_what_it_was_made_of() -> None:
    nodes = [
        helper.make_node("Optional", ["x"], ["o"]),
        helper.make_node("OptionalHasElement", ["o"], ["there"]),
        helper.make_node("OptionalGetElement", ["o"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3))
    outputs = [
        helper.make_tensor_value_info("there", TensorProto.BOOL, ()),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3)),
    ]
    graph = helper.make_graph(nodes, "optional", [x], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    agrees(model, {"x": floats(2, 3)})
