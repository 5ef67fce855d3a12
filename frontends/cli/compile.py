"""`bessemer compile`: a model to a shared library, an object file or a static library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bessemer.compiler.codegen.artifact.link import SUFFIXES, linker_command, save
from bessemer.compiler.driver import Compilation, build, kernels_of
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.options import Options, dump_folder
from bessemer.compiler.targets.choose import host_target, parse_target
from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.nvptx import is_device
from bessemer.frontends.byte_count import byte_count
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.device_target import device_phases, write_device_artifact
from bessemer.frontends.cli.exit_codes import INTERRUPTED
from bessemer.frontends.cli.output import Phases, format_bytes, print_json, write, write_note
from bessemer.frontends.given_sizes import check_dimensions
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.save_device import check_suffix
from bessemer.frontends.tuning.tune import tune_model
from bessemer.frontends.tuning_file import read_tuning, write_tuning
from bessemer.runtime.artifact import Placement

_STAGES = {
    "schedule": "Schedule kernels and plan memory",
    "codegen": "Generate LLVM IR",
    "llvm": "Make machine code",
}


def command(
    model: arguments.ModelPath,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The file to write: .so, .o or .a; for GPUs .so or .bessemer."
        ),
    ],
    target: arguments.TargetName = "",
    dim: arguments.Dims = None,
    precision: arguments.PrecisionChoice = "float32",
    optimize: arguments.Optimize = 2,
    weights: Annotated[
        Placement,
        typer.Option(
            "--weights", help="Put the weights inside the library, or into a file beside it."
        ),
    ] = "inside",
    name: Annotated[
        str,
        typer.Option(
            "--name", "--prefix", help="Prefix of the C symbols; default: the name of the output."
        ),
    ] = "",
    linker: Annotated[
        str, typer.Option("--linker", metavar="CC", help="The C compiler that links a .so.")
    ] = "",
    tuning: arguments.TuningFile = None,
    tune: Annotated[
        float,
        typer.Option(
            "--tune",
            min=0.0,
            metavar="SECONDS",
            help="First tune on this machine, for about this long.",
        ),
    ] = 0.0,
    memory: Annotated[
        str,
        typer.Option("--memory", metavar="BYTES", help="Limit of a run's memory, such as 512M."),
    ] = "",
    at: arguments.At = None,
    grow_in_place: arguments.GrowInPlace = False,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:
    """Compile a model to a shared library, object or archive, with its C header beside it.

    All files are written atomically.
    """
    job = _Job(model, output, dim or [], name or output.stem, linker, tuning, as_json, quiet)
    sizes = arguments.parse_dims(at, "--at")
    if sizes and not memory:
        raise typer.BadParameter("--at has the sizes for which --memory is the limit.")
    options = Options(
        target,
        precision=precision,
        optimize=optimize,
        dump=dump_folder(),
        memory=byte_count(memory) if memory else 0,
        sizes=tuple(sorted(sizes.items())),
        grow_in_place=grow_in_place,
    )
    if not is_device(target):
        _compile_for_processor(job, options, weights, tune)
        return
    if tune or memory or weights == "beside" or grow_in_place:
        raise typer.BadParameter(
            "--tune, --memory, --weights and --grow-in-place are for processors. For GPUs, "
            "`bessemer tune --target cuda` writes what --tuning takes."
        )
    _compile_for_device(job, options)


@dataclass(frozen=True)
class _Job:
    """What the command line says that is the same for processors and GPUs; `dims` are --dim's."""

    model: Path
    output: Path
    dims: list[str]
    name: str
    linker: str
    tuning: Path | None
    as_json: bool
    quiet: bool

    def graph(self, phases: Phases, broadcasts: bool = True) -> Graph:
        """The model, read."""
        with phases.phase(f"Read {self.model.name}"):
            graph = as_graph(self.model, arguments.parse_dims(self.dims), broadcasts=broadcasts)
        return replace(graph, name=self.name)


def _compile_for_processor(job: _Job, options: Options, weights: Placement, tune: float) -> None:
    """`tune` is in seconds."""
    machine = parse_target(options.target)
    _check_place(job.output, job.tuning if tune else None, job.linker, machine)
    if tune and machine != host_target():
        raise typer.BadParameter(f"--tune measures on this machine, which is not {options.target}.")
    if job.tuning is not None and (job.tuning.exists() or not tune):
        options = replace(options, tuning=read_tuning(job.tuning, machine))
    phases = Phases(7 if tune else 6, job.quiet)
    graph = job.graph(phases)
    check_dimensions(job.model.name, dict(options.sizes), graph.symbols)
    interrupted = False
    if tune:
        with phases.phase("Tune") as update:
            found = tune_model(graph, options, tune, report=update, interruptible=True)
        options, interrupted = replace(options, tuning=found.tuning), found.interrupted
        if job.tuning is not None:
            write_tuning(job.tuning, options.tuning, machine)
    made = _build(phases, graph, options)
    with phases.phase(f"Write {job.output.name}"):
        files = save(made.code, made.weights, job.output, weights, job.linker)
    _report(made, files, phases, job.as_json)
    if interrupted:
        write_note("interrupted; compiled with what was found before", style="yellow")
        raise typer.Exit(INTERRUPTED)


def _compile_for_device(job: _Job, options: Options) -> None:
    check_suffix(job.output)
    arguments.check_folders(job.output)
    phases = Phases(device_phases(options.target), job.quiet)
    graph = job.graph(phases, broadcasts=False)
    write_device_artifact(graph, job.output, options, job.linker, phases, job.as_json, job.tuning)


def _check_place(output: Path, tuning: Path | None, linker: str, machine: Target) -> None:
    """Raises an error for an output that cannot be written, before the work that may take long."""
    if output.suffix not in SUFFIXES:
        raise typer.BadParameter(f"-o {output}: the suffix must be one of {', '.join(SUFFIXES)}.")
    arguments.check_folders(output, tuning)
    if output.suffix == ".so":
        linker_command(machine.triple, linker)


def _build(phases: Phases, graph: Graph, options: Options) -> Compilation:
    """Compiles, and prints each stage while it runs, with its time when it is done."""
    with phases.stages() as enter:
        text = "Simplify the graph"

        def begins(step: str) -> None:
            nonlocal text
            # Steps that have no line of their own belong to the stage before them.
            text = _STAGES.get(step, text)
            enter(text)

        return build(graph, options, begins)


def _report(made: Compilation, files: list[Path], phases: Phases, as_json: bool) -> None:
    signature = made.code.signature
    kernels = len(kernels_of(made.program.steps))
    if as_json:
        print_json(
            {
                "files": [{"path": str(path), "bytes": path.stat().st_size} for path in files],
                "prefix": signature.prefix,
                "target": made.target.name,
                "symbols": signature.symbols[: signature.input_symbols],
                "kernels": kernels,
                "weights_bytes": signature.weights_bytes,
                "arena_bytes": made.plan.size,
                "seconds": phases.seconds,
            }
        )
        return
    for path in files:
        write(f"{path}  {format_bytes(path.stat().st_size)}")
    write(
        f"target {made.target.name}, prefix {signature.prefix}_, {kernels} kernels, "
        f"weights {format_bytes(signature.weights_bytes)}"
    )
