"""What is written as ONNX computes in onnxruntime what the graph means."""

from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NotImplemented,
    RuntimeException,
)

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, boolean, dtype_of, f32, i64
from bessemer.compiler.ops.composite_activation import (
    elu,
    gelu,
    hard_swish,
    mish,
    selu,
    softplus,
    softsign,
)
from bessemer.compiler.ops.composite_normalize import batch_norm, layer_norm
from bessemer.compiler.ops.composite_reduce import log_softmax, mean, softmax
from bessemer.frontends import zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.op_cases import Case, each_case

Feed = dict[str, Array]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _run(graph: Graph, feed: Feed) -> list[Array]:
    """By onnxruntime; by the onnx package where onnxruntime lacks a kernel for the element type."""
    model = write_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    if all(array.dtype != ml_dtypes.bfloat16 for array in feed.values()):
        try:
            return [np.asarray(array) for array in _session(model).run(None, feed)]
        except (NotImplemented, InvalidGraph, Fail, InvalidArgument, RuntimeException, RuntimeError):
            pass
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feed)]


def _assert_near(actual: Array, expected: Array, tolerance: float) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    wide = (array.astype(np.float64) for array in (actual, expected))
    np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)
