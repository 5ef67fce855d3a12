"""`bessemer inspect`: the graph, kernels, memory plan or code of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from bessemer.compiler.driver import assembly, build, kernels_of
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import is_device
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.compiler_steps import Scheduled, graph_after, schedule
from bessemer.frontends.cli.device_target import inspected, print_launches
from bessemer.frontends.cli.graph_drawing import dot_text
from bessemer.frontends.cli.output import format_bytes, print_json, print_table, spinner, write
from bessemer.frontends.cli.steps_text import (
    group_rows,
    memory_summary,
    place_rows,
    print_program,
)
from bessemer.frontends.given_sizes import check_dimensions
from bessemer.frontends.models_in import as_graph
from bessemer.runtime.artifact import Strings

Emit = Literal[
    "summary", "graph", "groups", "loops", "program", "memory", "llvm", "asm", "ptx", "dot"
]
DEFAULT_SIZE = 64
"""What a symbol is taken to be where a number is wanted and none was given."""


def command(
    model: arguments.ModelPath,
    emit: Annotated[Emit, typer.Option("--emit", help="What to show.")] = "summary",
    after: Annotated[
        str,
        typer.Option(
            "--after",
            metavar="PASS",
            help="Show the graph after this pass; 'input': before all passes.",
        ),
    ] = "",
    dim: arguments.Dims = None,
    at: arguments.At = None,
    target: arguments.TargetName = "",
    precision: arguments.PrecisionChoice = "float32",
    optimize: arguments.Optimize = 2,
    as_json: arguments.AsJson = False,
) -> None:
    """Show the graph, kernels, memory plan or code of a model.

    graph (also --after PASS) and dot show the graph; groups and loops the kernels; program the
    order in which they run; memory the offsets of all values; llvm and asm (for GPUs ptx) the code.
    BESSEMER_DUMP=FOLDER, with any command that compiles, writes all of this to files.
    """
    options = Options(target, precision=precision, optimize=optimize)
    sizes = arguments.parse_dims(at, "--at")
    if after and emit not in ("summary", "graph", "dot"):
        raise typer.BadParameter("--after shows a graph: it goes with --emit graph or dot.")
    if after and emit == "summary":
        emit = "graph"
    if emit == "ptx" and not is_device(target):
        raise typer.BadParameter("--emit ptx wants a GPU, such as --target nvptx:sm_80.")
    if is_device(target) and after:
        raise typer.BadParameter("--after follows the passes for processors.")
    with spinner(f"Compiling {model.name}"):
        graph = as_graph(model, arguments.parse_dims(dim), broadcasts=not is_device(target))
        found = (
            inspected(graph, emit, options)
            if is_device(target)
            else _content(graph, emit, after, options, sizes)
        )
    if as_json:
        print_json(found if isinstance(found, dict) else {emit: found})
    elif isinstance(found, str):
        write(found)
    else:
        _print(found)


def _content(
    graph: Graph, emit: Emit, after: str, options: Options, sizes: Mapping[str, int]
) -> str | dict[str, Any]:
    match emit:
        case "graph":
            return print_graph(graph_after(graph, options, after))
        case "dot":
            return dot_text(graph_after(graph, options, after))
        case "llvm":
            return "\n".join(build(graph, options).texts)
        case "asm":
            return assembly(build(graph, options))
        case _:
            return _scheduled_content(schedule(graph, options), emit, sizes)


def _scheduled_content(
    made: Scheduled, emit: Emit, sizes: Mapping[str, int]
) -> str | dict[str, Any]:
    program, plan = made.program, made.plan
    check_dimensions(program.name, sizes, program.symbols)
    defaults = dict.fromkeys(program.symbols, DEFAULT_SIZE)
    memory = memory_summary(program, plan, {**defaults, **sizes})
    match emit:
        case "loops":
            return "\n".join(print_kernel(kernel) for kernel in kernels_of(program.steps))
        case "program":
            return print_program(program, plan)
        case "groups":
            return {"groups": group_rows(program)}
        case "memory":
            return {"memory": memory, "places": place_rows(plan)}
        case _:
            return {
                "model": _summary(made),
                "groups": group_rows(program),
                "memory": memory,
            }


def _types(names: Sequence[str], values: Sequence[Value], texts: Sequence[int]) -> dict[str, str]:
    """What the inputs or outputs hold, by name; `texts` are the positions of strings."""
    types = [str(value.type) for value in values]
    for place in texts:
        types[place] = types[place].replace(values[place].type.dtype.name, "string", 1)
    return dict(zip(names, types, strict=True))


def _strings(strings: Strings) -> dict[str, Any]:
    """What a model does with strings, where it does anything."""
    found: dict[str, Any] = {}
    if strings.steps:
        found["before"] = {
            ", ".join(step.outputs): f"{step.operator}({', '.join(step.inputs)})"
            for step in strings.steps
        }
    return found | ({"strings": len(strings.table)} if strings.table else {})


def _summary(made: Scheduled) -> dict[str, Any]:
    graph = made.graph
    strings = graph.strings or Strings()
    return {
        "name": graph.name,
        "inputs": _types([v.name for v in graph.inputs], graph.inputs, strings.inputs),
        "outputs": _types(graph.output_names, graph.outputs, strings.outputs),
        **_strings(strings),
        "target": made.target.name,
        "nodes": sum(1 for _ in graph.walk()),
        "kernels": len(kernels_of(made.program.steps)),
    }


def _print(found: Mapping[str, Any]) -> None:
    if "model" in found:
        for key, entry in found["model"].items():
            shown = entry
            if isinstance(entry, dict):
                shown = ", ".join(f"{name}: {type}" for name, type in entry.items())
            write(f"{key:<9} {shown}")
    if "launches" in found:
        write(f"target    {found['target']}")
        print_launches(found["launches"])
    if "groups" in found:
        rows = [
            [
                row["number"],
                "  " * row["depth"] + row["kernel"],
                ", ".join(row["writes"]),
                row["parallel"],
                ", ".join(row["sources"]),
            ]
            for row in found["groups"]
        ]
        print_table(("#", "kernel", "writes", "parallel", "from"), rows, right="rllrl")
    if "places" in found:
        rows = [
            [row[key] for key in ("offset", "bytes", "type", "name")]
            + ["shares" if row["shares"] else ""]
            for row in found["places"]
        ]
        print_table(("offset", "bytes", "type", "name", ""), rows, right="rrlll")
    if "memory" in found:
        write(_memory_text(found["memory"]))


def _memory_text(memory: Mapping[str, Any]) -> str:
    lines = [f"weights      {format_bytes(memory['weights_bytes'])}"]
    if memory.get("at"):
        lines += [f"arena        {memory['arena']}", f"lower bound  {memory['lower_bound']}"]
        lines += [f"with {', '.join(f'{name}={size}' for name, size in memory['at'].items())}:"]
    if "arena_bytes" in memory:
        lines += [
            f"arena        {format_bytes(memory['arena_bytes'])}",
            f"lower bound  {format_bytes(memory['lower_bound_bytes'])}",
            f"gap          {memory['gap']:.1%}",
        ]
    else:
        lines += [f"arena        {memory['arena']}", f"lower bound  {memory['lower_bound']}"]
    return "\n".join(lines)
