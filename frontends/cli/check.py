"""`bessemer check`: everything that is wrong or unsupported in a model, at once."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path
from typing import Any

import typer

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import is_device
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.compiler_steps import schedule
from bessemer.frontends.cli.device_target import levels_of
from bessemer.frontends.cli.exit_codes import UNSUPPORTED, WRONG_MODEL
from bessemer.frontends.cli.output import (
    format_bytes,
    print_json,
    print_table,
    spinner,
    write,
    write_note,
)
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.save_device import compile_levels


def command(
    model: arguments.ModelPath,
    dim: arguments.Dims = None,
    target: arguments.TargetName = "",
    as_json: arguments.AsJson = False,
) -> None:
    """List everything in a model that is wrong or not supported.

    Exit code 0: it compiles; 1: the model is wrong; 3: it needs something that is not supported.
    """
    report, code = _checked(model, arguments.parse_dims(dim), target)
    if as_json:
        print_json(report)
    else:
        _print(report)
    raise typer.Exit(code)


def _checked(model: Path, dims: dict[str, int], target: str) -> tuple[dict[str, Any], int]:
    """What there is to say about a model, and the exit code."""
    report: dict[str, Any] = {"model": str(model), "problems": [], "warnings": []}
    with warnings.catch_warnings(record=True) as caught, spinner(f"Checking {model.name}"):
        warnings.simplefilter("always")
        try:
            graph = as_graph(model, dims, broadcasts=not is_device(target))
            report |= _described(graph)
            if is_device(target):
                compile_levels(graph, Options(target), levels_of(target)[-1:])
            else:
                schedule(graph, Options(target))
            code = 0
        except UnsupportedError as error:
            report["problems"] = list(error.items) or [str(error)]
            code = UNSUPPORTED
        except CompileError as error:
            report["problems"] = [str(error).removeprefix(f"{model}: ")]
            code = WRONG_MODEL
    report["warnings"] = [str(warning.message) for warning in caught]
    report["status"] = {0: "ok", WRONG_MODEL: "wrong", UNSUPPORTED: "unsupported"}[code]
    return report, code


def _described(graph: Graph) -> dict[str, Any]:
    count = collections.Counter(node.operator.name for node in graph.walk())
    return {
        "inputs": {value.name: str(value.type) for value in graph.inputs},
        "outputs": {
            name: str(value.type) for name, value in zip(graph.output_names, graph.outputs)
        },
        "symbols": list(graph.symbols),
        "weights_bytes": sum(array.nbytes for array in graph.constants.values()),
        "operators": dict(count.most_common()),
    }


def _print(report: dict[str, Any]) -> None:
    for text in report["warnings"]:
        write_note(f"warning: {text}", style="yellow")
    if report["problems"]:
        count = len(report["problems"])
        write(f"{report['model']}: {report['status']}, {count} problem{'s' * (count > 1)}:")
        for problem in report["problems"]:
            write(f"  - {problem}")
        return
    write(f"{report['model']}: ok")
    rows = [["input", name, type] for name, type in report["inputs"].items()]
    rows += [["output", name, type] for name, type in report["outputs"].items()]
    print_table(("", "name", "type"), rows)
    operators = ", ".join(f"{name} {count}" for name, count in report["operators"].items())
    write(f"weights   {format_bytes(report['weights_bytes'])}")
    write(f"operators {operators}")
