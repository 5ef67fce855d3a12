"""ONNX models in onnxruntime, which most tests compare with."""

from pathlib import Path

import onnx
import onnxruntime


def session_of(model: onnx.ModelProto | Path, plain: bool = False) -> onnxruntime.InferenceSession:
    """A session on one thread of the processor that is silent about errors; `plain`: without what
    onnxruntime fuses, which is rounded otherwise."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
