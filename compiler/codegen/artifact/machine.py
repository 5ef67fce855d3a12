"""Turns LLVM IR text into machine code or assembly, for any machine that LLVM supports."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from bessemer.compiler.codegen.artifact.one_section import has_variables, in_one_section
from bessemer.compiler.errors import InternalError
from bessemer.compiler.targets.machine import Target


@dataclass(frozen=True)
class Machine:
    """The machine that LLVM compiles for: `features` in LLVM's form ("+avx2,+fma"), `level` from 0
    to 3.

    The level is that of code generation only; our vector code needs no optimization passes.
    """

    triple: str
    cpu: str = "generic"
    features: str = ""
    level: int = 2


def machine_of(target: Target) -> Machine:
    """The target in LLVM's terms: triple, processor and features."""
    return Machine(target.triple, target.cpu, target.feature_text)


# The optimization passes that llvmlite can add one by one; all else of LLVM's comes only as a whole
# pipeline.
_PASSES: dict[str, Callable[[Any], None]] = {
    "always-inline": lambda passes: passes.add_always_inliner_pass(),
    "aggressive-dce": lambda passes: passes.add_aggressive_dce_pass(),
    "dce": lambda passes: passes.add_dead_code_elimination_pass(),
    "dse": lambda passes: passes.add_dead_store_elimination_pass(),
    "globaldce": lambda passes: passes.add_global_dead_code_eliminate_pass(),
    "gvn": lambda passes: passes.add_new_gvn_pass(),
    "instcombine": lambda passes: passes.add_instruction_combine_pass(),
    "loop-rotate": lambda passes: passes.add_loop_rotate_pass(),
    "loop-simplify": lambda passes: passes.add_loop_simplify_pass(),
    "loop-unroll": lambda passes: passes.add_loop_unroll_pass(),
    "reassociate": lambda passes: passes.add_reassociate_pass(),
    "sccp": lambda passes: passes.add_sccp_pass(),
    "simplify-cfg": lambda passes: passes.add_simplify_cfg_pass(),
    "sroa": lambda passes: passes.add_sroa_pass(),
}


@cache
def initialize() -> None:
    """Initializes all of LLVM's targets, once per process."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def create_target_machine(machine: Machine) -> llvm.TargetMachine:
    """The target machine for small, position-independent code, which shared libraries need and the
    JIT can link."""
    initialize()
    try:
        return llvm.Target.from_triple(machine.triple).create_target_machine(
            cpu=machine.cpu,
            features=machine.features,
            opt=machine.level,
            reloc="pic",
            codemodel="small",
        )
    except RuntimeError as error:
        raise InternalError(f"LLVM knows no machine {machine.triple!r}: {error}") from None


def compile_object(text: str, machine: Machine, passes: Sequence[str] = ()) -> bytes:
    """The object file (on Linux, an ELF file) of a module given as LLVM IR text.

    `passes` run in this order before code generation; see _PASSES. Raises InternalError if the text
    is not a valid module.
    """
    target = create_target_machine(machine)
    return emitted(target, _prepared(text, machine, target, passes), "object")


def emitted(
    target: llvm.TargetMachine, module: llvm.ModuleRef, form: Literal["object", "assembly"]
) -> bytes:
    """The machine code of a module."""
    # llvmlite lets one thread at a time into LLVM, which does not ask for that: here each has a
    # context, a module and a target machine of its own. Most of the time goes by here.
    emit = getattr(ffi.lib.LLVMPY_TargetMachineEmitToMemory, "_cfn", None)
    if emit is None:
        if form == "assembly":
            return str(target.emit_assembly(module)).encode()
        return bytes(target.emit_object(module))
    with ffi.OutputString() as error:
        buffer = emit(target, module, int(form == "object"), error)
        if not buffer:
            raise InternalError(f"LLVM makes no machine code: {error}")
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def place_object(code: bytes, machine: Machine) -> llvm.ExecutionEngine:
    """Links an object file into this process. `get_function_address` of the returned engine finds
    its functions, which live as long as the engine.

    The memory is writable while it is linked and executable afterwards, never both.
    """
    # An engine wants a module to begin with, and takes the object beside it.
    module = llvm.parse_assembly("", llvm.create_context())
    module.triple = machine.triple
    is_x86 = "x86_64" in machine.triple
    # Elsewhere than on x86, sections must lie in one block for distances to reach from each to
    # each; the block's size is a guess that can be too small. On x86, code that takes times has
    # variables, and keeps the sections that it came with.
    engine = llvm.create_mcjit_compiler(module, create_target_machine(machine), use_lmm=not is_x86)
    placed = in_one_section(code) if is_x86 and not has_variables(code) else code
    engine.add_object_file(llvm.ObjectFileRef.from_data(placed))
    engine.finalize_object()
    return engine


def assembly_text(text: str, machine: Machine, passes: Sequence[str] = ()) -> str:
    """The assembly of the code that `compile_object` makes."""
    target = create_target_machine(machine)
    return str(target.emit_assembly(_prepared(text, machine, target, passes)))


def optimized_text(text: str, machine: Machine, passes: Sequence[str]) -> str:
    """The module after these passes, as LLVM IR text."""
    return str(_prepared(text, machine, create_target_machine(machine), passes))


def _prepared(
    text: str, machine: Machine, target: llvm.TargetMachine, passes: Sequence[str]
) -> llvm.ModuleRef:
    # A context of its own: the global one keeps every type and constant for the process's life.
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
    except RuntimeError as error:
        raise InternalError(f"The generated LLVM IR does not parse: {error}") from None
    module.triple = machine.triple
    module.data_layout = str(target.target_data)
    try:
        module.verify()
    except RuntimeError as error:
        raise InternalError(f"The generated LLVM IR is not valid: {error}") from None
    if passes:
        _run_passes(module, target, passes)
    return module


def _run_passes(module: llvm.ModuleRef, target: llvm.TargetMachine, passes: Sequence[str]) -> None:
    manager = llvm.create_new_module_pass_manager()
    for name in passes:
        if name not in _PASSES:
            raise InternalError(f"no pass {name!r}; there are {', '.join(sorted(_PASSES))}")
        _PASSES[name](manager)
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
    manager.run(module, builder)


def run_pipeline(module: llvm.ModuleRef, builder: llvm.PassBuilder) -> None:
    """Runs LLVM's whole pipeline of passes on this thread, beside others (see `emitted`)."""
    manager = builder.getModulePassManager()
    run = getattr(ffi.lib.LLVMPY_RunNewModulePassManager, "_cfn", None)
    if run is None:
        manager.run(module, builder)
    else:
        run(manager, module, builder)
