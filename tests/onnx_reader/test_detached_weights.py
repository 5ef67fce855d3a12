"""Weights that are cut out of a file before protobuf parses it are those that it holds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.errors import CompileError
from bessemer.frontends.onnx_reader import detached_weights
from bessemer.frontends.onnx_reader.detached_weights import LARGE, cut_weights
from bessemer.frontends.onnx_reader.read import read_onnx

_RANDOM = np.random.default_rng(7)


def _model(columns: int) -> onnx.ModelProto:
    """x times weights of several types and forms, of which large ones are raw."""
    floats = _RANDOM.standard_normal((3, columns)).astype(np.float32)
    told = numpy_helper.from_array(floats, "told")
    told.doc_string = "with a text"
    weights = [
        numpy_helper.from_array(floats[0], "first"),
        helper.make_tensor("typed", TensorProto.FLOAT, [columns], floats[1].tolist()),
        numpy_helper.from_array(np.array(2, np.float32), "small"),
        numpy_helper.from_array(floats.astype(np.float16), "halves"),
        told,
        numpy_helper.from_array(_RANDOM.integers(-9, 9, (2, columns)), "integers"),
    ]
    nodes, product = [], "x"
    for tensor in weights:
        nodes.append(helper.make_node("Cast", [tensor.name], [f"{tensor.name}_cast"], to=1))
        names = [product, f"{tensor.name}_cast"]
        is_pair = tensor.name == "integers"
        if is_pair:
            nodes.append(helper.make_node("ReduceSum", names[1:], ["sum"], keepdims=1))
            names[1] = "sum"
        product = f"{tensor.name}_product"
        nodes.append(helper.make_node("Mul", names, [product]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, columns])
    y = helper.make_tensor_value_info(product, TensorProto.FLOAT, [3, columns])
    graph = helper.make_graph(nodes, "weighty", [x], [y], weights)
    opsets = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model


def _restored(model: bytes) -> onnx.ModelProto:
    """What protobuf makes of the rest, with the weights put back."""
    rest, weights = cut_weights(model)
    proto: onnx.ModelProto = onnx.ModelProto.FromString(rest)
    for place, raw in weights.items():
        assert not proto.graph.initializer[place].HasField("raw_data")
        proto.graph.initializer[place].raw_data = bytes(raw)
    return proto


def test_large_raw_weights_are_cut_and_nothing_else() -> None:
    model = _model(LARGE)
    file = model.SerializeToString()
    rest, weights = cut_weights(file)
    assert list(weights) == [0, 3, 4, 5]
    assert len(rest) < 6 * LARGE  # the typed one
    assert _restored(file) == model


def test_a_graph_has_the_weights_of_the_file() -> None:
    model = _model(LARGE)
    graph = read_onnx(model.SerializeToString())
    found = {value.name: array for value, array in graph.constants.items()}
    assert {tensor.name for tensor in model.graph.initializer} <= found.keys()
    for tensor in model.graph.initializer:
        wanted = numpy_helper.to_array(tensor)
        assert found[tensor.name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[tensor.name], wanted)


def test_a_weight_that_is_too_short_is_refused_as_before() -> None:
    model = _model(LARGE)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    said = []
    for source in (model, model.SerializeToString()):
        with pytest.raises(CompileError, match="bytes of raw_data") as caught:
            read_onnx(source)
        said.append(str(caught.value).partition(": ")[2])
    assert said[0] == said[1]


def test_damaged_files_are_what_protobuf_says_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached_weights, "LARGE", 16)
    file = _model(8).SerializeToString()
    read = 0
    for _ in range(600):
        damaged = bytearray(file)
        for _ in range(_RANDOM.integers(1, 4)):
            damaged[_RANDOM.integers(len(damaged))] = _RANDOM.integers(256)
        data = bytes(damaged[: _RANDOM.integers(len(file) // 2, 2 * len(file))])
        try:
            wanted = onnx.ModelProto.FromString(data)
        except DecodeError:
            with pytest.raises(DecodeError):
                _restored(data)
        else:
            assert _restored(data).SerializeToString() == wanted.SerializeToString()
            read += 1
    assert read > 60
