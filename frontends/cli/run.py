"""`bessemer run`: one run of a model or an artifact, and what came out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Precision
from bessemer.frontends.array_files import read_arrays, write_arrays
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.models import inputs_for, is_artifact, open_model, open_on_device
from bessemer.frontends.cli.output import (
    Phases,
    count_of,
    format_seconds,
    print_json,
    print_table,
    write_note,
)
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.cuda.program_place import is_program_file
from bessemer.runtime.model import CompiledModel

_SHOWN = 5
"""How many different strings of an output are shown."""


def command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|ARTIFACT", help="An ONNX file, or a compiled .so or .bessemer."
        ),
    ],
    inputs: arguments.Inputs = None,
    outputs: Annotated[
        Path | None,
        typer.Option("--outputs", metavar="FILE.npz", help="Write the outputs to this file."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="NAME", help="Run on a GPU: cuda, or a level such as nvptx:sm_80."
        ),
    ] = "",
    dim: arguments.Dims = None,
    seed: arguments.Seed = 0,
    threads: arguments.Threads = 0,
    precision: arguments.PrecisionChoice = "float32",
    optimize: arguments.Optimize = 2,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:
    """Run a model or an artifact once, and describe its outputs.

    An artifact runs without LLVM and onnx.
    """
    phases = Phases(2, quiet)
    dims = arguments.parse_dims(dim)
    arguments.check_folders(outputs)
    arguments.note_crowding(threads, quiet)
    given = read_arrays(inputs) if inputs else None
    with phases.phase(f"{'Load' if is_artifact(model) else 'Compile'} {model.name}"):
        compiled = _opened(model, dims, threads, target, precision, optimize)
    arrays = inputs_for(compiled, model, dims, seed, quiet) if given is None else given
    start = time.perf_counter()
    with phases.phase("Run"):
        results = compiled.run(arrays)
    seconds = time.perf_counter() - start
    named = {info.name: array for info, array in zip(compiled.outputs, results, strict=True)}
    if outputs is not None:
        write_arrays(outputs, named)
        write_note(f"wrote {outputs}")
    rows = [describe(name, array) for name, array in named.items()]
    if as_json:
        print_json({"seconds": seconds, **_where(compiled), "outputs": rows})
        return
    columns = ["name", "dtype", "shape", "min", "mean", "max", "norm", "nan"]
    if any("texts" in row for row in rows):
        columns.append("texts")
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    print_table(["output", *columns[1:]], cells, right="lllrrrrrl"[: len(columns)])
    (name, place), *_ = _where(compiled).items()
    place = count_of(place, "thread") if name == "threads" else place
    write_note(f"first run {format_seconds(seconds)}, {place}")


def _opened(
    model: Path, dims: Mapping[str, int], threads: int, target: str,
    precision: Precision, optimize: int,
) -> CompiledModel | DeviceModel:  # fmt: skip
    if target and not target.startswith(("cuda", "nvptx")):
        raise typer.BadParameter(f"--target {target}: a model is run here, or on a GPU (cuda).")
    if (is_artifact(model) or is_program_file(model)) and (precision, optimize) != ("float32", 2):
        raise typer.BadParameter(f"--precision and -O do nothing: {model} is compiled already.")
    if target or is_program_file(model):
        return open_on_device(model, dims, target, precision=precision, optimize=optimize)
    return open_model(model, dims, threads, precision=precision, optimize=optimize)


def _where(model: CompiledModel | DeviceModel) -> dict[str, Any]:
    if isinstance(model, DeviceModel):
        return {"target": model.signature.target}
    return {"threads": model.threads}


def describe(name: str, array: Array) -> dict[str, Any]:
    """A few statistics of an array; `norm` is the 2-norm, `nan` counts what is not finite. Of
    strings the most frequent."""
    is_text = array.dtype == object
    dtype = "string" if is_text else str(array.dtype)
    row: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(array.shape)}
    if is_text:
        counts = Counter(array.reshape(-1).tolist()).most_common(_SHOWN)
        row["texts"] = ", ".join(f"{text} ({count})" for text, count in counts)
    if is_text or not array.size:
        return row
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    row["nan"] = int(numbers.size - finite.size)
    if finite.size:
        row["min"], row["max"] = float(finite.min()), float(finite.max())
        row["mean"], row["norm"] = float(finite.mean()), float(np.linalg.norm(finite))
    return row


def _cell(entry: object) -> str:
    match entry:
        case None:
            return ""
        case float():
            return f"{entry:.6g}"
        case Sequence() if not isinstance(entry, str):
            return "×".join(str(size) for size in entry) or "scalar"
        case _:
            return str(entry)
