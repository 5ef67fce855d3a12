"""Compiles kernels from LLVM IR to PTX. Every kernel is compiled as a module; the texts are
merged."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

import llvmlite.binding as llvm

from bessemer.compiler.codegen.artifact.machine import Machine, emitted, initialize, run_pipeline
from bessemer.compiler.codegen.kernels.cpu import CONSTANTS
from bessemer.compiler.codegen.kernels.state import ZEROS
from bessemer.compiler.codegen.ptx.intrinsics import check_intrinsics
from bessemer.compiler.codegen.ptx.kernel_code import DeviceCode
from bessemer.compiler.codegen.ptx.matrix_intrinsics import MATRIX
from bessemer.compiler.errors import InternalError
from bessemer.compiler.targets.nvptx import DeviceTarget

DYNAMIC = "@shared = external addrspace(3) global [0 x i8], align 1024\n"
"""The declaration of the shared memory whose size is given at the launch."""
_STARTING = threading.Lock()
_OPTIONS_SET: list[bool] = []


def kernel_module(code: DeviceCode) -> str:
    """The LLVM IR of a module with one kernel and all that it calls."""
    check_intrinsics(code.declarations, MATRIX)
    used = code.text + "".join(code.functions.values())
    constants = CONSTANTS if f"@{ZEROS}" in used else ""
    dynamic = DYNAMIC if "@shared" in code.text else ""
    parts = [constants, dynamic, *code.globals, "\n".join(sorted(code.declarations))]
    # One entry is all that a module has: a function of its own would need a stack to be called.
    functions = [_inlined(text) for text in code.functions.values()]
    return "\n".join([*parts, *functions, code.text])


def _inlined(function: str) -> str:
    for attributes in ("noinline cold nounwind", ") nounwind"):
        inline = attributes.replace("noinline cold", "").replace(
            "nounwind", "alwaysinline nounwind"
        )
        function = function.replace(attributes, inline)
    return function


def ptx_of(code: DeviceCode, target: DeviceTarget) -> str:
    """The PTX module of one kernel."""
    return compiled(kernel_module(code), target)


def compiled(text: str, target: DeviceTarget) -> str:
    """The PTX of LLVM IR. LLVM ends the process if the machine lacks an instruction that is
    needed."""
    machine = _target_machine(target)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise InternalError(f"The generated LLVM IR is not valid: {error}") from None
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    # The loops that are worth it have been unrolled and vectorized by their schedules.
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    run_pipeline(module, llvm.create_pass_builder(machine, tuning))
    return emitted(machine, module, "assembly").decode()


def _target_machine(target: DeviceTarget) -> llvm.TargetMachine:
    _initialize()
    machine = Machine(target.triple, target.cpu, target.feature_text, 3)
    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=machine.level
    )


def _initialize() -> None:
    """Sets LLVM's options, which it reads when it makes a target machine for GPUs. Runs once in a
    process."""
    with _STARTING:
        if _OPTIONS_SET:
            return
        initialize()
        # Shared addresses of 32 bits.
        llvm.set_option("", "--nvptx-short-ptr")
        # It reads beyond the end of arrays to make three loads one; our vectors are written so.
        llvm.set_option("", "--disable-nvptx-load-store-vectorizer")
        _OPTIONS_SET.append(True)


def ptx_module(codes: Sequence[DeviceCode], target: DeviceTarget, workers: Executor) -> str:
    """All kernels in one PTX module. The text does not depend on the workers' timing."""
    return merged(workers.map(lambda code: ptx_of(code, target), codes))


_HEAD = re.compile(r"\A.*?\.address_size 64\s*\n", re.DOTALL)
_ENTRY = re.compile(r"^\.visible \.entry ", re.MULTILINE)


def merged(texts: Iterable[str]) -> str:
    """Modules for one target as one: one head, every declaration once, then the entries.

    Labels and registers are local to an entry, so entries need no renaming.
    """
    head = ""
    declared: dict[str, None] = {}
    entries: list[str] = []
    for text in texts:
        found = _HEAD.match(text)
        if found is None:
            raise InternalError("LLVM gave PTX without a head")
        head = head or found[0]
        rest = text[found.end() :]
        start = _ENTRY.search(rest)
        begin = start.start() if start else len(rest)
        for line in rest[:begin].splitlines():
            if line.strip() and not line.lstrip().startswith("//"):
                declared[line.strip()] = None
        entries.append(rest[begin:].strip())
    return "\n".join([head.rstrip(), *declared, "", *entries, ""])
