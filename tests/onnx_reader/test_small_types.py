"""Types of two to eight bits: casts, files, texts, headers, against onnx's own evaluator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.codegen.artifact.header import header_text
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.text.parse_graph import parse_graph
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.types import SMALL_FLOATS, Array, TensorType, f8e4m3fn, f32, i4
from bessemer.frontends.onnx_reader.read import read_onnx

SMALL = (
    "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1", "INT4", "UINT4",
    "INT2", "UINT2",
)  # fmt: skip
X = np.concatenate(
    [
        np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 447, 464, 465, 6e4, -1e9], np.float32),
        np.random.default_rng(3).standard_normal(90).astype(np.float32) * 3,
    ]
)


def _model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Array], outputs: list[str], *constants: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])


def _agree(
    model: onnx.ModelProto, inputs: dict[str, Array], is_compiled: bool = True
) -> list[Array]:
    """Asserts that compiled code (or the interpreter) gives what the evaluator does."""
    if is_compiled:
        ours = list(bessemer.compile(model, cache=False).run(inputs))
    else:
        ours = list(run_graph(read_onnx(model), inputs))
    with np.errstate(all="ignore"):
        theirs = ReferenceEvaluator(model).run(None, inputs)
    for name, actual, wanted in zip([o.name for o in model.graph.output], ours, theirs):
        assert actual.dtype == wanted.dtype, name
        np.testing.assert_array_equal(actual.astype(np.float64), wanted.astype(np.float64), name)
    return ours


def test_casts_are_those_of_the_evaluator() -> None:
    nodes, outputs = [], []
    for name in SMALL:
        code = getattr(TensorProto, name)
        for saturate in (0, 1) if "FLOAT8" in name else (1,):
            made = f"{name}_{saturate}"
            # What is beyond an integer's range is left open by ONNX.
            source = "x" if "FLOAT" in name else "few"
            cast = helper.make_node("Cast", [source], [made], to=code, saturate=saturate)
            back = helper.make_node("Cast", [made], [f"{made}_back"], to=TensorProto.FLOAT)
            nodes += [cast, back]
            outputs += [made, f"{made}_back"]
    few = np.arange(-9, 16).astype(np.float32) + np.float32(0.3)
    inputs = {"x": X, "few": few}
    _agree(_model(nodes, inputs, outputs), inputs)


def test_powers_of_two_are_rounded_as_asked() -> None:
    nodes, outputs = [], []
    for mode in ("up", "down", "nearest"):
        for saturate in (0, 1):
            made = f"{mode}{saturate}"
            code = TensorProto.FLOAT8E8M0
            given: dict[str, Any] = {"to": code, "saturate": saturate, "round_mode": mode}
            nodes.append(helper.make_node("Cast", ["x"], [made], **given))
            outputs.append(made)
    x = np.array([1, 1.5, 1.4, 1.6, 3, 5e-9, 3.3e38, 0, -7, np.inf, np.nan], np.float32)
    _agree(_model(nodes, {"x": x}, outputs), {"x": x})


def test_bits_are_those_of_the_evaluator() -> None:
    nodes = [
        helper.make_node("BitCast", ["x"], ["words"], to=TensorProto.INT32),
        helper.make_node("BitCast", ["words"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("BitCast", ["truth"], ["bytes"], to=TensorProto.UINT8),
    ]
    inputs = {"x": X, "truth": X > 1}
    graph = read_onnx(_model(nodes, inputs, ["words", "back", "bytes"]))
    words, back, single = run_graph(graph, inputs)
    np.testing.assert_array_equal(words, X.view(np.int32))
    np.testing.assert_array_equal(back, X)
    np.testing.assert_array_equal(single, (X > 1).view(np.uint8))


@pytest.mark.parametrize("name", ["INT4", "UINT2", "FLOAT8E5M2", "FLOAT4E2M1"])
def test_quantization_is_that_of_the_evaluator(name: str) -> None:
    code = getattr(TensorProto, name)
    scales = np.array([0.5, 0.25, 2.0], np.float32)
    made = {"axis": 0, "output_dtype": code}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], **made),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], axis=0),
    ]
    inputs = {"x": X[10:40].reshape(3, 10)}
    model = _model(nodes, inputs, ["q", "y"], numpy_helper.from_array(scales, "scale"))
    _agree(model, inputs, is_compiled=False)


def test_a_quotient_that_is_rounded_is_divided() -> None:
    """The product with the reciprocal of this scale is 127.5, the quotient a little less."""
    x, scale = np.array([-2.5, 1.0], np.float32), np.array(5 / 255, np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], output_dtype=TensorProto.INT8)
    inputs = {"x": x, "scale": scale}
    (q,) = _agree(_model([node], inputs, ["q"]), inputs)
    assert q[0] == -127


@pytest.mark.parametrize("raw", [True, False])
def test_packed_elements_of_a_file_are_taken_apart(raw: bool) -> None:
    nibbles = np.array([-8, 7, -1, 3, 5], np.int8).astype(ml_dtypes.int4)
    if raw:
        tensor = numpy_helper.from_array(nibbles, "c")
    else:
        tensor = TensorProto(name="c", data_type=TensorProto.INT4, dims=[5])
        tensor.int32_data.extend([0x78, 0x3F, 0x05])
    node = helper.make_node("Cast", ["c"], ["y"], to=TensorProto.INT8)
    graph = read_onnx(_model([node], {}, ["y"], tensor))
    (array,) = graph.constants.values()
    np.testing.assert_array_equal(array.astype(np.int8), nibbles.astype(np.int8))


def test_a_file_with_too_few_bytes_is_refused() -> None:
    tensor = TensorProto(name="c", data_type=TensorProto.UINT2, dims=[9], raw_data=b"ab")
    node = helper.make_node("Cast", ["c"], ["y"], to=TensorProto.INT8)
    with pytest.raises(CompileError, match="has 2 bytes of raw_data, its type and shape need 3"):
        read_onnx(_model([node], {}, ["y"], tensor))


def test_graphs_with_small_types_are_read_back() -> None:
    b = GraphBuilder("small")
    x = b.input("x", TensorType(f32, (3,)))
    constant = b.constant(np.array([-8, 0, 7]).astype(ml_dtypes.int4), "c")
    nan = b.constant(np.array([np.nan, 448, -0.5]).astype(ml_dtypes.float8_e4m3fn), "n")
    same = b.apply("reinterpret", b.apply("cast", x, dtype=f8e4m3fn), dtype=i4)
    graph = b.finish([constant, nan, same])
    text = print_graph(graph)
    assert "constant : i4[3] = [-8.0, 0.0, 7.0]" in text
    assert print_graph(parse_graph(text)) == text


def test_small_types_are_not_computed_with() -> None:
    b = GraphBuilder("small")
    for dtype in (i4, *SMALL_FLOATS):
        x = b.input("x", TensorType(dtype, (3,)))
        with pytest.raises(CompileError, match="Cast the input first"):
            b.apply("add", x, x)


def test_the_header_names_them() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)
    compiled = bessemer.compile(_model([node], {"x": X}, ["y"]), cache=False)
    text = header_text(compiled.signature)
    assert "y: float8_e4m3fn [100] (uint8_t holding float8_e4m3fn)" in text
    assert "_FLOAT8_E4M3FN = 17" in text
