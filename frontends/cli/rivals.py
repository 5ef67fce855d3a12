"""Other systems that run ONNX models, if installed, each as a function of the inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.compiler.ir.types import Array

Run = Callable[[], list[Array]]
"""One run on the inputs that it was started with; its outputs in the model's order."""


def onnxruntime_session(path: Path, threads: int, flush: bool = False) -> Any:
    """A session on the processor; 0 threads means all processors. `flush` makes denormals zeros."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if flush:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def start_onnxruntime(
    path: Path, threads: int, inputs: Mapping[str, Array], flush: bool = False
) -> Run:
    """An onnxruntime_session that runs on these inputs."""
    session = onnxruntime_session(path, threads, flush)
    arrays = dict(inputs)
    return lambda: [_as_array(output) for output in session.run(None, arrays)]


def _as_array(output: Any) -> Any:
    """A list of maps, one a sample, as rows of what they hold; anything else as it is."""
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.array([list(row.values()) for row in output])
    return output


def start_openvino(
    path: Path, threads: int, inputs: Mapping[str, Array], precision: str = "f32"
) -> Run:
    """A compiled model in float32 or "bf16", for the shapes of these inputs."""
    runtime: Any = importlib.import_module("openvino")
    model = runtime.Core().read_model(str(path))
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        # By default, what narrow weights are multiplied by is rounded to 8 bits.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = runtime.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    arrays = dict(inputs)

    def run() -> list[Array]:
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [np.asarray(found[output]) for output in compiled.outputs]

    return run


Start = Callable[[Path, int, Mapping[str, Array]], Run]

RIVALS: dict[str, Start] = {"onnxruntime": start_onnxruntime, "openvino": start_openvino}
"""By the name of the package that they need."""

VARIANTS: dict[str, tuple[str, Start]] = {
    "onnxruntime_flushed": ("onnxruntime", partial(start_onnxruntime, flush=True)),
    "openvino_bf16": ("openvino", partial(start_openvino, precision="bf16")),
}
"""Other settings of them: the package, and how to start."""


def start_system(system: str, path: Path, threads: int, inputs: Mapping[str, Array]) -> Run:
    """Starts one of RIVALS or VARIANTS."""
    own = RIVALS.get(system) or VARIANTS[system][1]
    return own(path, threads, inputs)


def package_of(system: str) -> str:
    """The package that a system needs."""
    return VARIANTS[system][0] if system in VARIANTS else system
