"""What the commands do for GPUs: compiling for several levels, and showing what was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from bessemer.compiler.device_driver import DeviceCompilation
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import CUDA, DeviceTarget
from bessemer.frontends.cli.graph_drawing import dot_text
from bessemer.frontends.cli.output import Phases, format_bytes, print_json, print_table, write
from bessemer.frontends.compile_device import target_at_hand
from bessemer.frontends.save_device import (
    check_suffix,
    compile_levels,
    form_of,
    levels_named,
    save_forms,
)
from bessemer.frontends.tuning_file import read_tuning
from bessemer.runtime.cuda.artifact import DeviceProgram, LaunchStep
from bessemer.runtime.cuda.layout import launches


def levels_of(target: str) -> tuple[DeviceTarget, ...]:
    """The levels that a target names; "cuda" is that of the device at hand."""
    return (target_at_hand(),) if target == CUDA else levels_named(target)


def write_device_artifact(
    graph: Graph,
    output: Path,
    options: Options,
    linker: str,
    phases: Phases,
    as_json: bool,
    tuning: Path | None = None,
) -> None:
    """`bessemer compile` for GPUs. The phases are as many as device_phases says; `tuning` is a file
    with choices for the levels."""
    check_suffix(output)
    levels = levels_of(options.target)
    made = []
    for level in levels:
        known = read_tuning(tuning, level) if tuning else options.tuning
        with phases.phase(f"Compile for {level.name}"):
            made += compile_levels(graph, replace(options, tuning=known), [level])
    with phases.phase("Assemble"):
        forms = [form_of(one) for one in made]
    with phases.phase(f"Write {output.name}"):
        files = save_forms(forms, output, linker)
    rows = [_level_row(one, len(form.cubin)) for one, form in zip(made, forms, strict=True)]
    signature = made[0].artifact.signature
    if as_json:
        listed = [{"path": str(path), "bytes": path.stat().st_size} for path in files]
        print_json({"files": listed, "prefix": signature.prefix, "levels": rows})
        return
    for path in files:
        write(f"{path}  {format_bytes(path.stat().st_size)}")
    for row in rows:
        cubin = f", cubin {format_bytes(row['cubin_bytes'])}" if row["cubin_bytes"] else ""
        write(
            f"{row['target']}: {row['kernels']} kernels, {row['launches']} launches, "
            f"PTX {format_bytes(row['ptx_bytes'])}{cubin}, "
            f"weights {format_bytes(row['weights_bytes'])}"
        )


def device_phases(target: str) -> int:
    """How many phases a compilation for GPUs has."""
    return 3 + len(levels_of(target))


def _level_row(made: DeviceCompilation, cubin_bytes: int) -> dict[str, Any]:
    program = made.artifact
    return {
        "target": made.target.name,
        "kernels": len(program.kernels),
        "launches": len(list(launches(program.steps))),
        "ptx_bytes": len(program.ptx),
        "cubin_bytes": cubin_bytes,
        "weights_bytes": int(made.weights.nbytes),
    }


# bessemer inspect


def inspected(graph: Graph, emit: str, options: Options) -> str | dict[str, Any]:
    """A model on its way to a GPU; a usage error for what there is for processors only."""
    (made,) = compile_levels(graph, options, levels_of(options.target)[-1:])
    match emit:
        case "ptx" | "asm":
            return made.artifact.ptx
        case "llvm":
            return "\n".join(code.text for code in made.codes)
        case "graph":
            return print_graph(made.graph)
        case "dot":
            return dot_text(made.graph)
        case "loops":
            return "\n".join(print_kernel(kernel) for kernel in made.kernels)
        case "summary" | "program":
            return {"target": made.target.name, "launches": _launch_rows(made.artifact)}
        case _:
            raise typer.BadParameter(f"--emit {emit} is for processors, not {made.target.name}.")


def _launch_rows(program: DeviceProgram) -> list[dict[str, Any]]:
    return [_launch_row(program, step) for step in launches(program.steps)]


def _launch_row(program: DeviceProgram, step: LaunchStep) -> dict[str, Any]:
    kernel = program.kernels[step.kernel]
    return {
        "kernel": kernel.name,
        "blocks": step.grid,
        "threads": kernel.threads,
        "shared_bytes": kernel.shared_bytes,
        "tensor_maps": kernel.tensor_maps,
        "from": step.where,
    }


def print_launches(rows: Sequence[dict[str, Any]]) -> None:
    """The launches as a table."""
    columns = ("kernel", "blocks", "threads", "shared", "maps", "from")
    cells = [list(row.values()) for row in rows]
    print_table(columns, cells, right="lrrrrl")
