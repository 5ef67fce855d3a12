"""Small ONNX models with strings, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from bessemer.compiler.ir.types import Array

WORDS = np.array([["red", "blue", "red"], ["", "grün", "blue"]], object)
TEXTS = np.array(["The cat sat", "a cat, a bat", "", "Éa 12 cat"], object)


def string_model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, int],
    constants: Mapping[str, Array] | None = None,
    opset: int = 18,
    ml: int = 3,
    named: bool = True,
) -> onnx.ModelProto:
    """A model of these nodes; sizes of inputs are names, unless they are not `named`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(
                name,
                TensorProto.STRING
                if array.dtype == object
                else helper.np_dtype_to_tensor_dtype(array.dtype),
                [f"{name}{axis}" for axis in range(array.ndim)] if named else array.shape,
            )
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(name, code, None) for name, code in outputs.items()],
        [onnx.numpy_helper.from_array(a, name) for name, a in (constants or {}).items()],
    )
    opsets = [
        helper.make_opsetid(domain, version)
        for domain, version in (("", opset), ("ai.onnx.ml", ml), ("com.microsoft", 1))
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def one_node(
    operator: str,
    x: Array,
    kind: int = TensorProto.STRING,
    domain: str = "",
    opset: int = 18,
    ml: int = 3,
    **attributes: Any,
) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    return string_model([node], {"x": x}, {"y": kind}, opset=opset, ml=ml)
