"""Runs graphs as the ONNX models that they are written as."""

import ml_dtypes
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.onnxruntime_sessions import session_of

Feed = dict[str, Array]


def _by_onnxruntime(model: onnx.ModelProto, feed: Feed) -> list[Array]:
    return [np.asarray(array) for array in session_of(model).run(None, feed)]


REFUSALS = (
    "NOT_IMPLEMENTED", "not support", "Numpy type", "only supports", "Only 4-D", "greater than 0",
    "requires axis length", "exceeds maximum", "out of range",
)  # fmt: skip
"""How onnxruntime says that it has no kernel for an element type, a rank or a size."""


def run_written(graph: Graph, feed: Feed) -> list[Array]:
    """By onnxruntime; by the onnx package for what onnxruntime has no kernel for."""
    model = write_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    try:
        if all(array.dtype != ml_dtypes.bfloat16 for array in feed.values()):
            return _by_onnxruntime(model, feed)
    except Exception as error:
        if not any(text in str(error) for text in REFUSALS):
            raise
    with np.errstate(all="ignore"):
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feed)]


def assert_near(actual: Array, expected: Array, tolerance: float) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    wide = [array.astype(np.float64) for array in (actual, expected)]
    np.testing.assert_allclose(wide[0], wide[1], rtol=tolerance, atol=tolerance)
