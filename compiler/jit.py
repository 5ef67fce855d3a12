"""Links the object code of a compiled model into this process, so that it can be called."""

from __future__ import annotations

import platform
from pathlib import Path

import llvmlite.binding as llvm

from bessemer.compiler.codegen.artifact.link import Bytes, Code, save
from bessemer.compiler.codegen.artifact.machine import Machine, place_object
from bessemer.compiler.codegen.support.processor import architecture
from bessemer.compiler.errors import CompileError
from bessemer.runtime.arrays import address, aligned_empty
from bessemer.runtime.artifact import Placement
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.native import NativeModel, bind


def load_code(code: Code, weights: Bytes, machine: Machine, threads: int = 0) -> CompiledModel:
    """The model as a callable of this process; it can also be saved.

    `weights` are used in place, without a copy when they begin at a multiple of 64 bytes; they must
    not change. `threads` 0 means all processors that the process may use. Raises CompileError for
    code of another architecture, ArtifactError where the processor lacks what the code needs.
    """
    weights = aligned_weights(weights)

    def save_to(path: str | Path, placement: Placement = "inside", linker: str = "") -> list[Path]:
        return save(code, weights, path, placement, linker)

    return CompiledModel(link(code, machine), weights=weights, threads=threads, saver=save_to)


def aligned_weights(weights: Bytes) -> Bytes:
    """The weights beginning at a multiple of 64 bytes, copied only where they do not."""
    if not weights.size or address(weights) % 64 == 0:
        return weights
    copy = aligned_empty(weights.shape, weights.dtype)
    copy[...] = weights
    return copy


def address_of(native: NativeModel, name: str) -> int:
    """The address of another function of a model that `link` has placed, without its prefix."""
    engine = native.keep_alive
    assert isinstance(engine, llvm.ExecutionEngine)
    return int(engine.get_function_address(f"{native.signature.prefix}_{name}"))


def link(code: Code, machine: Machine) -> NativeModel:
    """The functions of an object file, placed in this process's memory.

    They live as long as the result. Raises CompileError for code of another architecture.
    """
    wanted = architecture(code.signature.triple)
    if wanted != platform.machine():
        raise CompileError(
            f"'{code.signature.name}' was compiled for {wanted} and cannot run on this "
            f"{platform.machine()}. Save it instead."
        )
    engine = place_object(code.object, machine)
    prefix = code.signature.prefix
    return bind(lambda name: int(engine.get_function_address(f"{prefix}_{name}")), engine)
