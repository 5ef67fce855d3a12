"""Artifacts for GPUs: a model compiled for one level or several, in one file.

model.bessemer   for Python; needs no C compiler
model.so         for C, and for Python too; with model.h
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bessemer.compiler.codegen.ptx.assemble import assemble
from bessemer.compiler.codegen.ptx.device_library.c_library import save_library
from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import DEVICES, EVERY_LEVEL, PREFIX, DeviceTarget, device_named
from bessemer.runtime.cuda.program_file import SUFFIX, Form, write_forms

SUFFIXES = (".so", SUFFIX)


def levels_named(name: str) -> tuple[DeviceTarget, ...]:
    """The levels in a target's name: "nvptx:sm_90a", "nvptx:sm_80,sm_90a", or "nvptx", all of them.

    Raises CompileError for a level that there is not.
    """
    if name == EVERY_LEVEL:
        return tuple(DEVICES.values())
    names = name.removeprefix(PREFIX).split(",")
    found = {device_named(PREFIX + part.strip().removeprefix(PREFIX)): None for part in names}
    return tuple(found)


def compile_levels(
    graph: Graph, options: Options, levels: Sequence[DeviceTarget]
) -> list[DeviceCompilation]:
    """The graph compiled for each level."""
    return [build_for_device(graph, replace(options, target=one.name), one) for one in levels]


def form_of(made: DeviceCompilation, has_cubin: bool = True) -> Form:
    """What a file holds of a compilation; with a cubin where ptxas is found."""
    cubin = assemble(made.artifact.ptx, made.target) if has_cubin else b""
    return Form(made.artifact, made.weights, cubin)


def save_forms(forms: Sequence[Form], path: str | Path, linker: str = "") -> list[Path]:
    """Writes the artifact, .so or .bessemer; the files written, the artifact first.

    Raises CompileError for another suffix, a folder that cannot be written, and, for a .so, where
    there is no C compiler or the model has control flow.
    """
    target = Path(path)
    check_suffix(target)
    try:
        if target.suffix == SUFFIX:
            write_forms(forms, target)
            return [target]
        return save_library(forms, target, linker, platform.machine())
    except OSError as error:
        raise CompileError(f"Cannot write {target}: {error.strerror or error}") from None


def check_suffix(path: Path) -> None:
    """Raises CompileError where the name does not say what to build for a GPU."""
    if path.suffix not in SUFFIXES:
        raise CompileError(
            f"'{path.name}' has no suffix that says what to build for a GPU. "
            f"Use .so (shared library with a C header) or {SUFFIX} (for Python)."
        )
