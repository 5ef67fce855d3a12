"""Other systems that run ONNX models, as far as they are installed, behind one kind of function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.compiler.ir.types import Array

Run = Callable[[], list[Array]]
"""One run on the inputs that it was started with; its outputs in the model's order."""


def start_onnxruntime(path: Path, threads: int, inputs: Mapping[str, Array]) -> Run:
    """A session on the processor; 0 threads means all processors."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = dict(inputs)
    return lambda: list(session.run(None, arrays))


def start_openvino(path: Path, threads: int, inputs: Mapping[str, Array]) -> Run:
    """A compiled model in float32, for the shapes of these inputs."""
    runtime: Any = importlib.import_module("openvino")
    model = runtime.Core().read_model(str(path))
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads  # type: ignore[assignment]
    compiled = runtime.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    arrays = dict(inputs)

    def run() -> list[Array]:
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [np.asarray(found[output]) for output in compiled.outputs]

    return run


RIVALS: dict[str, Callable[[Path, int, Mapping[str, Array]], Run]] = {
    "onnxruntime": start_onnxruntime,
    "openvino": start_openvino,
}
