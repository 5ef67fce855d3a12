"""Small ONNX models, and whether our graph of one computes what onnxruntime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnxruntime

from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.code_arrays import run_on_arrays
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnxruntime_sessions import session_of

onnxruntime.set_default_logger_severity(4)


def parsed(text: str, opset: int = 17, more: str = "") -> onnx.ModelProto:
    """A model from its text form, checked."""
    imports = f'"" : {opset}, "com.microsoft" : 1, "local" : 1'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> {text} {more}")
    return model


def expected(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    session = session_of(model, plain=True)
    return [np.asarray(array) for array in session.run(None, dict(inputs))]


def agrees(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    graph: Graph | None = None,
    tolerance: float = 2e-5,
) -> list[Array]:
    """Asserts that the graph computes what onnxruntime does; the outputs."""
    outputs = run_on_arrays(graph or read_onnx(model), inputs, run_graph)
    for ours, theirs in zip(outputs, expected(model, inputs), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if ours.dtype == object:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    return outputs


def operators(graph: Graph) -> list[str]:
    return [node.operator.name for node in graph.walk()]


def node_model(
    node: onnx.NodeProto,
    inputs: Sequence[tuple[str, Array]],
    opset: int,
    constants: Sequence[tuple[str, Array]] = (),
) -> onnx.ModelProto:
    """A model of one node; `opset` is the version of the node's domain."""
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
            )
            for name, a in inputs
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [onnx.numpy_helper.from_array(a, name) for name, a in constants],
    )
    imports = [onnx.helper.make_opsetid(node.domain, opset)]
    if node.domain:
        imports.append(onnx.helper.make_opsetid("", 17))
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def floats(*shape: int) -> Array:
    """The same normal numbers every time."""
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)
