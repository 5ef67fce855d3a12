"""One model against onnxruntime, in this process; results as lines of JSON, the last one counts.

    python -m benchmarks.compare MODEL [--threads 2] [--seconds 0.5]

The parent (run_models.py) gives it a time limit: a crash or a hang is one failed row there.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bessemer
from benchmarks.inputs import has_two_settings, make_inputs
from benchmarks.interleaved import interleaved_medians
from benchmarks.light_nets import with_weights
from benchmarks.recipes import RECIPES, Array, Recipe
from bessemer.compiler.ir.graph import Graph
from bessemer.frontends.cli.rivals import onnxruntime_session
from bessemer.frontends.float64_reference import run_in_float64
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import index_limits
from bessemer.frontends.relative_error import relative_error

TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--id", default="", help="name of the recipe; default: the file's name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--optimize", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="bessemer-compare-") as folder:
        path = with_weights(given.model, Path(folder))
        recipe = RECIPES.get(given.id or given.model.stem, Recipe())
        _compare(path, recipe, given)


def tell(row: Mapping[str, Any]) -> None:
    """Writes what is known so far."""
    print(json.dumps(row), flush=True)


def _compare(path: Path, recipe: Recipe, given: argparse.Namespace) -> None:
    row: dict[str, Any] = {"status": "failed"}
    proto = onnx.load(path, load_external_data=False)
    try:
        graph, fixed = _read(path, proto, recipe)
    except bessemer.CompileError as error:
        kind = isinstance(error, bessemer.UnsupportedError)
        items = list(error.items)[:3] if isinstance(error, bessemer.UnsupportedError) else []
        row |= {"status": "unsupported" if kind else "wrong", "why": "; ".join(items) or str(error)}
        tell(row)
        return
    row["fixed"] = sorted(fixed)
    count = 2 if has_two_settings(proto) else 1
    limits = index_limits(graph)
    settings = [make_inputs(proto, recipe, number, limits) for number in range(count)]
    start = time.perf_counter()
    model = bessemer.compile(
        path, threads=given.threads, values=fixed, optimize=given.optimize, cache=False
    )
    row["compile"] = time.perf_counter() - start
    tell(row | {"why": "the run did not end"})
    session = onnxruntime_session(path, given.threads)
    theirs = [[_as_array(output) for output in session.run(None, each)] for each in settings]
    ours: list[list[Array]] = []
    errors: list[float] = []
    for inputs, expected in zip(settings, theirs, strict=True):
        ours.append(model.run(_without(inputs, fixed)))
        errors.append(_worst(expected, ours[-1]))
        row["errors"] = errors
        tell(row | {"why": "the run did not end"})
    row["sizes"] = [[list(a.shape) for a in inputs.values()] for inputs in settings]
    flushed = onnxruntime_session(path, given.threads, flush=True)
    runs: dict[str, Callable[[], object]] = {
        "ms": lambda: model.run(_without(settings[0], fixed)),
        "ort_ms": lambda: session.run(None, settings[0]),
        "ort_flushed_ms": lambda: flushed.run(None, settings[0]),
    }
    times = interleaved_medians(runs, 3, given.seconds / 3)
    row |= {name: seconds * 1e3 for name, seconds in times.items()}
    row["status"] = "ok" if max(errors) <= TOLERANCE else "differs"
    tell(row)
    if row["status"] == "differs":
        tell(row | _exactness(graph, fixed, settings, ours, theirs, errors))


def _read(path: Path, proto: onnx.ModelProto, recipe: Recipe) -> tuple[Graph, dict[str, Array]]:
    """The graph; inputs that the recipe names are fixed where it cannot be had otherwise."""
    try:
        return as_graph(path), {}
    except bessemer.CompileError:
        if not recipe.fixed:
            raise
    inputs = make_inputs(proto, recipe)
    fixed = {name: inputs[name] for name in recipe.fixed if name in inputs}
    return as_graph(path, values=fixed), fixed


def _without(inputs: Mapping[str, Array], fixed: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in inputs.items() if name not in fixed}


def _as_array(output: Any) -> Array:
    """Onnxruntime gives classes' scores as a list of maps from the class; a row each, with us."""
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.array([list(row.values()) for row in output], np.float32)
    return np.asarray(output)


def _worst(expected: list[Array], found: list[Array]) -> float:
    pairs = zip(expected, found, strict=True)
    worst = max((relative_error(theirs, ours) for theirs, ours in pairs), default=0.0)
    return worst if math.isfinite(worst) else 1e30  # JSON has no infinity


def _exactness(
    graph: Graph,
    fixed: Mapping[str, Array],
    settings: list[dict[str, Array]],
    ours: list[list[Array]],
    theirs: list[list[Array]],
    errors: list[float],
) -> dict[str, Any]:
    """How far both are from float64; where that is onnxruntime's fault, the model is fine."""
    try:
        exact = [run_in_float64(graph, _without(inputs, fixed)) for inputs in settings]
    except Exception as error:
        return {"why": f"no float64 result: {type(error).__name__}: {str(error)[:200]}"}
    own = [_worst(right, found) for right, found in zip(exact, ours, strict=True)]
    other = [_worst(right, found) for right, found in zip(exact, theirs, strict=True)]
    found = {"float64_errors": own, "ort_float64_errors": other}
    if all(a <= b for a, b, error in zip(own, other, errors) if error > TOLERANCE):
        return found | {"status": "ok", "why": "onnxruntime is farther from float64"}
    return found


if __name__ == "__main__":
    main()
