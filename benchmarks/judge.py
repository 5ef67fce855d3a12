"""Measures errors against the network evaluated in float64, in a process with a time limit.

    python -m benchmarks.judge MODEL INPUTS.npz OUTPUTS.npz ...

prints the errors of each file of outputs as a list of JSON.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from bessemer.compiler.ir.types import Array
from bessemer.frontends.array_files import read_arrays, write_arrays
from bessemer.frontends.float64_reference import run_in_float64
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.relative_error import relative_error

EXACT, HALF = 1e-5, 3e-3
"""Errors up to which float32 results, and those of networks in 16 bits, are right whatever they are
compared with."""
LIMIT = 120.0
"""Seconds that an evaluation may take."""


def main() -> None:
    model, inputs, *outputs = map(Path, sys.argv[1:])
    exact = run_in_float64(as_graph(model), read_arrays(inputs))
    print(json.dumps([_worst(exact, read_arrays(path)) for path in outputs]))


def _worst(exact: Sequence[Array], found: Mapping[str, Array]) -> float | None:
    """The worst output's error; None for infinite ones, which JSON does not have."""
    errors = [relative_error(right, found[str(k)]) for k, right in enumerate(exact)]
    worst = max(errors, default=0.0)
    return worst if math.isfinite(worst) else None


def float64_errors(
    model: Path, inputs: Path, outputs: Sequence[Sequence[Array]], folder: Path
) -> list[float | None] | None:
    """The error of each system's outputs; None where no float64 result is to be had in time."""
    files = [folder / f"judged{number}.npz" for number in range(len(outputs))]
    for file, arrays in zip(files, outputs, strict=True):
        write_arrays(file, {str(k): array for k, array in enumerate(arrays)})
    command = [sys.executable, "-m", "benchmarks.judge", str(model), str(inputs), *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    found: list[float | None] = json.loads(done.stdout)
    return found


def has_halves(model: Path) -> bool:
    """Whether a network has weights or inputs of 16 bits: then every system rounds elsewhere."""
    graph = onnx.load(model, load_external_data=False).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in graph.input}
    return not kinds.isdisjoint((onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16))


NOT_COMPARED = "not compared"


def verdict(row: Mapping[str, Any]) -> str:
    """Whether our float32 results are right, in words: "right", or what is wrong with them;
    NOT_COMPARED where there is nothing to compare them with."""
    if "failed" in row:
        return str(row["failed"])
    ours, reference = row.get("bessemer", {}), row.get("onnxruntime", {})
    if "failed" in ours:
        return NOT_COMPARED if "failed" in reference else f"failed: {ours['failed']}"
    if "error" not in ours:
        return NOT_COMPARED
    right = HALF if row.get("halves") else EXACT
    if ours["error"] is not None and ours["error"] <= right:
        return "right"
    errors = row.get("float64_errors")
    if errors is None or None in errors:
        return "differs" if errors is None else "wrong"
    mine, theirs = errors
    if mine <= max(right, theirs):
        return "right"
    return f"differs: {mine:.1e} from float64, onnxruntime {theirs:.1e}"


if __name__ == "__main__":
    main()
