"""Runs command lines in this process, and makes small models for them."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.ir.types import Array
from bessemer.frontends.cli import main


def run_command(*words: object) -> tuple[int, str, str]:
    """The exit code of a command line, its stdout and its stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def save_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[Any],
    outputs: list[Any],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
) -> Path:
    """Writes a model of an operator set; other domains than ONNX's are of version 1."""
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(weights))
    others = {node.domain for node in nodes if node.domain}
    versions = {"": opset, **dict.fromkeys(others, 1)}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _weights() -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    w = rng.standard_normal((30, 9)).astype(np.float32)
    return w, rng.standard_normal(9).astype(np.float32)


def save_net(folder: Path) -> Path:
    """y = relu(x @ w + b) for any batch, as net.onnx."""
    w, b = _weights()
    return save_model(
        folder / "net.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
            helper.make_node("Add", ["p", "b"], ["s"], "shift"),
            helper.make_node("Relu", ["s"], ["y"], "clamp"),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 9])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )


def expected_of_net(x: Array) -> Array:
    """What net.onnx computes, in float64."""
    w, b = _weights()
    return np.asarray(np.maximum(x.astype(np.float64) @ w + b, 0))


def save_unsupported(folder: Path) -> Path:
    """A model with two things that nobody compiles, as pictures.onnx."""
    return save_model(
        folder / "pictures.onnx",
        [
            helper.make_node("Sharpen", ["t"], ["u"], "left", domain="com.example"),
            helper.make_node("Sharpen", ["t"], ["y"], "right", domain="com.example"),
        ],
        [helper.make_tensor_value_info("t", TensorProto.UINT8, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["h", "w", 3]) for name in "uy"],
        opset=20,
    )
