"""Runs one ONNX node by an independent implementation, to compare with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.ir.types import Array
from tests.onnxruntime_sessions import session_of


def run_node(
    name: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    evaluator: bool = False,
    opset: int = 20,
    **attributes: Any,
) -> list[Array]:
    """The outputs of a node by ONNX Runtime, or by the `onnx` package's own evaluator.

    None is an input left out.
    """
    given = {f"x{i}": array for i, array in enumerate(inputs) if array is not None}
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(name, names, results, **attributes)
    graph = helper.make_graph(
        [node],
        "node",
        [
            helper.make_tensor_value_info(
                key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for key, array in given.items()
        ],
        [onnx.ValueInfoProto(name=result) for result in results],
    )
    version = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=version, ir_version=9)
    if evaluator:
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, given)]
    return [np.asarray(y) for y in session_of(model).run(None, given)]
