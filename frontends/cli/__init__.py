"""The command line: `bessemer compile | run | bench | verify | inspect | check | ...`.

Results go to stdout (`--json` for machines), everything else to stderr. Each command is a module of
its own that is loaded when it is called: `bessemer --help` loads neither LLVM nor onnx.
"""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Sequence

import typer

from bessemer.compiler.errors import CompileError, InternalError, UnsupportedError
from bessemer.frontends.cli.exit_codes import BUG, FAILED_RUN, UNSUPPORTED, WRONG_MODEL
from bessemer.frontends.cli.lazy import LazyCommand, command_group
from bessemer.frontends.cli.output import print_json, write_note
from bessemer.runtime.errors import ArtifactError, RunError

COMMANDS = (
    LazyCommand("compile", "compile", "Compile a model to a shared library, object or archive."),
    LazyCommand("run", "run", "Run a model or an artifact on given or random inputs."),
    LazyCommand("bench", "bench", "Measure a model, also unfused and in other systems."),
    LazyCommand("profile", "profile", "Show where a model's time goes, kernel by kernel."),
    LazyCommand("train", "train", "Train what a TOML file or a Python module describes."),
    LazyCommand(
        "tune", "tune", "Measure other forms of a model's kernels, and write the best to a file."
    ),
    LazyCommand("verify", "verify", "Compare a model's results with another implementation's."),
    LazyCommand("check", "check", "List everything in a model that is wrong or not supported."),
    LazyCommand("inspect", "inspect", "Show the graph, kernels, memory plan or code of a model."),
    LazyCommand("list-ops", "list_ops", "List the supported operators."),
    LazyCommand(
        "doctor", "doctor", "Show versions, processor and cache, and test the installation."
    ),
    LazyCommand("cache", "cache", "Show the compile cache, or empty it."),
)

_EPILOGUE = (
    "Exit codes: 0 success; 1 the model, a file or an option's value is wrong; 2 usage error; 3 the"
    " model uses something that is not supported; 4 a run failed, or results differ; 5 a bug in"
    " Bessemer; 130 interrupted."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and ends the process with its exit code (raises SystemExit)."""
    # A shell can close them (>&-), and Python then has none.
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # It is good anywhere on the line, for one goes back to add it at the end.
    show_traceback = "--traceback" in given
    words = [word for word in given if word != "--traceback"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            command_group("bessemer", COMMANDS, _EPILOGUE).main(words, prog_name="bessemer")
    except (typer.Exit, SystemExit):
        raise
    except Exception as error:
        code = exit_code(error)
        if show_traceback or code == BUG:
            traceback.print_exc()
        _report(error, code, "--json" in words)
        raise SystemExit(code) from None


def exit_code(error: Exception) -> int:
    """What the process ends with when this error ends it."""
    match error:
        case UnsupportedError():
            return UNSUPPORTED
        case CompileError() | ArtifactError() | OSError():
            return WRONG_MODEL
        case RunError() | MemoryError():
            return FAILED_RUN
        case _:
            return BUG


def _report(error: Exception, code: int, as_json: bool) -> None:
    kind = type(error).__name__
    if as_json:
        items = list(error.items) if isinstance(error, UnsupportedError) else []
        print_json({"error": {"kind": kind, "message": str(error), "items": items, "code": code}})
        return
    if code == BUG and not isinstance(error, InternalError):
        kind = f"InternalError: {kind}"
    write_note(f"{kind}: {error}", style="red")
    if code == BUG:
        write_note("This is a bug in Bessemer; please report it with the lines above.")


def _show_warning(message: Warning | str, *_: object) -> None:
    write_note(f"warning: {message}", style="yellow")
