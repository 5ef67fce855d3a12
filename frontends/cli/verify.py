"""`bessemer verify`: compares a model's results with another implementation's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.array_files import read_arrays
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.exit_codes import FAILED_RUN
from bessemer.frontends.cli.output import Phases, print_json, print_table, write_note
from bessemer.frontends.cli.rivals import start_onnxruntime
from bessemer.frontends.code_arrays import Interpreter, run_on_arrays
from bessemer.frontends.compile import compile
from bessemer.frontends.float64_reference import run_in_float64
from bessemer.frontends.given_sizes import check_dimensions
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    known_texts,
    random_arrays,
)
from bessemer.frontends.relative_error import relative_error
from bessemer.runtime.model import CompiledModel

Reference = Literal["auto", "onnxruntime", "interpreter"]


def command(
    model: arguments.ModelPath,
    against: Annotated[
        Reference,
        typer.Option(
            "--against", help="auto: onnxruntime if it is installed, else the interpreter."
        ),
    ] = "auto",
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--sizes",
            metavar="NAME=SIZE,...",
            help="Sizes of symbolic dimensions; repeat it for several runs of one compilation.",
        ),
    ] = None,
    dim: arguments.Dims = None,
    inputs: arguments.Inputs = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0.0, help="The largest relative error (2-norm) to accept."),
    ] = 1e-5,
    float64: Annotated[
        bool,
        typer.Option(
            "--float64", help="Also evaluate in float64, to see which result is more accurate."
        ),
    ] = False,
    seed: arguments.Seed = 0,
    threads: arguments.Threads = 0,
    precision: arguments.PrecisionChoice = "float32",
    optimize: arguments.Optimize = 2,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:
    """Compare a model's results with onnxruntime's, or with the interpreter's.

    The error of an output is the 2-norm of the difference divided by that of the reference. With
    --float64, an output for which Bessemer is closer to the float64 result passes.
    """
    if inputs and sizes:
        raise typer.BadParameter("--sizes are for random inputs: --inputs have their own.")
    dims = arguments.parse_dims(dim)
    reference = _choose(against)
    cases = [arguments.parse_dims([text], "--sizes") for text in sizes or [""] if text] or [{}]
    given = read_arrays(inputs) if inputs else None
    phases = Phases(2 + len(cases), quiet)
    with phases.phase(f"Read {model.name}"):
        graph = as_graph(model, dims)
    with phases.phase("Compile"):
        ours = compile(model, dims=dims, threads=threads, precision=precision, optimize=optimize)
    bound = ours.signature.symbols[: ours.signature.input_symbols]
    symbols = tuple(default_sizes(ours.inputs, bound))
    rows: list[dict[str, Any]] = []
    for case in cases:
        arrays, label = given, str(inputs)
        if arrays is None:
            arrays, label = _random_case(ours, graph, case, symbols, seed)
        with phases.phase(f"Compare, {label}"):
            found = dict(zip(graph.output_names, ours.run(arrays), strict=True))
            theirs = _reference(reference, model, graph, arrays, threads)
            exact = _interpreted(graph, arrays, run_in_float64) if float64 else {}
        rows += [
            _row(label, name, found[name], theirs[name], exact.get(name), tolerance)
            for name in graph.output_names
        ]
    _finish(rows, reference, as_json)


def _random_case(
    ours: CompiledModel, graph: Graph, case: Mapping[str, int], symbols: tuple[str, ...], seed: int
) -> tuple[dict[str, Array], str]:
    """Inputs for the sizes asked for, and those sizes as text."""
    check_dimensions(graph.name, case, symbols)
    chosen = {**default_sizes(ours.inputs, symbols), **case}
    texts = known_texts(graph.strings)
    arrays = random_arrays(ours.inputs, chosen, seed, index_limits(graph), texts)
    return arrays, ", ".join(f"{name}={size}" for name, size in chosen.items()) or "as it is"


def _choose(against: Reference) -> Reference:
    installed = importlib.util.find_spec("onnxruntime") is not None
    if against == "onnxruntime" and not installed:
        raise CompileError("onnxruntime is not installed: pip install onnxruntime")
    if against == "auto":
        return "onnxruntime" if installed else "interpreter"
    return against


def _reference(
    kind: Reference, model: Path, graph: Any, arrays: Mapping[str, Array], threads: int
) -> dict[str, Array]:
    if kind == "onnxruntime":
        return _named(graph, _run_by_onnxruntime(model, threads, arrays))
    return _interpreted(graph, arrays, run_graph)


def _run_by_onnxruntime(model: Path, threads: int, arrays: Mapping[str, Array]) -> list[Array]:
    try:
        return start_onnxruntime(model, threads, arrays)()
    except Exception as error:  # onnxruntime's classes of errors have no common base but this one.
        raise CompileError(
            f"onnxruntime does not run {model}: {error}\n"
            "To compare without it: --against interpreter"
        ) from error


def _interpreted(graph: Graph, arrays: Mapping[str, Array], run: Interpreter) -> dict[str, Array]:
    return _named(graph, run_on_arrays(graph, arrays, run))


def _named(graph: Any, arrays: list[Array]) -> dict[str, Array]:
    return dict(zip(graph.output_names, arrays, strict=True))


def _row(
    label: str, name: str, ours: Array, theirs: Array, exact: Array | None, tolerance: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"sizes": label, "output": name, "shape": list(ours.shape)}
    row["error"] = relative_error(theirs, ours)
    row["largest"] = _largest(theirs, ours)
    row["ok"] = row["error"] <= tolerance
    if exact is not None:
        row["error_to_float64"] = relative_error(exact, ours)
        row["reference_error_to_float64"] = relative_error(exact, theirs)
        row["ok"] |= row["error_to_float64"] <= row["reference_error_to_float64"]
    return row


def _largest(theirs: Array, ours: Array) -> float:
    """The largest absolute difference; infinite where the shapes differ."""
    if theirs.shape != ours.shape or not ours.size:
        return 0.0 if theirs.shape == ours.shape else float("inf")
    if ours.dtype == object:
        return float((ours != theirs).any())
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(theirs.astype(np.float64) - ours.astype(np.float64))))


def _finish(rows: list[dict[str, Any]], reference: str, as_json: bool) -> None:
    ok = all(row["ok"] for row in rows)
    if as_json:
        print_json({"reference": reference, "ok": ok, "outputs": rows})
    else:
        columns = ["sizes", "output", "error", "largest"]
        columns += ["error_to_float64", "reference_error_to_float64"] if len(rows[0]) > 6 else []
        cells = [[_cell(row[column]) for column in columns] for row in rows]
        cells = [[*cell, "" if row["ok"] else "differs"] for cell, row in zip(cells, rows)]
        print_table([*columns, ""], cells, f"against {reference}", right="llrrrrl")
    if not ok:
        write_note("The results differ.", style="red")
        raise typer.Exit(FAILED_RUN)


def _cell(entry: object) -> str:
    return f"{entry:.2e}" if isinstance(entry, float) else str(entry)
