"""The pipeline: from a graph to a compiled model, step by step, in reading order.

Between two steps it verifies, times and dumps (step_log.py); the steps know nothing about that.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from bessemer.compiler.codegen.artifact.link import (
    Bytes,
    Code,
    compile_code,
    interface_object,
    module_text,
    shared_objects,
    weights_digest,
)
from bessemer.compiler.codegen.artifact.machine import assembly_text, machine_of
from bessemer.compiler.codegen.artifact.parts import compiling_threads, emit_kernels
from bessemer.compiler.codegen.body.body import body_text
from bessemer.compiler.codegen.kernels.cpu import PASSES as LLVM_PASSES
from bessemer.compiler.codegen.kernels.merge_renamed import merge_renamed
from bessemer.compiler.codegen.kernels.parameterize_constants import parameterize_constants
from bessemer.compiler.errors import CompileError
from bessemer.compiler.fit_memory import Fitted, fit_memory
from bessemer.compiler.ir.expr import forget_interned
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import MemoryPlan, Program, Room, Steps
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.options import Options
from bessemer.compiler.pack_weights import pack_weights
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.passes.caches.grow_in_place import grow_in_place, with_rooms
from bessemer.compiler.schedule.memory.recompute import Recomputation
from bessemer.compiler.signature import describe
from bessemer.compiler.step_log import StepLog, nothing
from bessemer.compiler.targets.choose import parse_target
from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.nvptx import DeviceTarget

_COMPILING = threading.Lock()
_OBJECTS = 50_000
"""How many are made between two collections of garbage."""


@dataclass(frozen=True, eq=False)
class Compilation:
    """Everything that one compilation made, for inspection, linking and loading."""

    graph: Graph
    program: Program
    plan: MemoryPlan
    code: Code
    weights: Bytes
    target: Target
    texts: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    choice: Recomputation | None = None


def build(
    graph: Graph,
    options: Options,
    begins: Callable[[str], None] = nothing,
    keep: Callable[[Bytes], None] = nothing,
) -> Compilation:
    """All steps from a graph to machine code. Raises CompileError for what cannot be compiled.

    `begins` is called with the name of each step before it runs. `keep` is called with the weights
    as soon as they are packed, on another thread; the compilation waits for it.
    One compilation runs at a time, because expressions are interned in one global table.
    """
    with compiling(), compiling_threads() as workers:
        log = StepLog(options.dump, options.verify, begins)
        return _build(graph, log, options, keep, workers)


def processor_of(options: Options) -> Target:
    """The processor to compile for. Raises CompileError for a GPU, and for a GPU's precision."""
    target = parse_target(options.target)
    if isinstance(target, DeviceTarget):
        raise CompileError(f"'{target.name}' is a GPU, for which no object file is made.")
    if options.precision == "tf32":
        raise CompileError("precision='tf32' is for GPUs; processors have 'bfloat16'.")
    return target


@contextmanager
def compiling() -> Iterator[None]:
    """One compilation at a time; at its end the interned expressions are dropped."""
    with _COMPILING, _rare_collections():
        try:
            yield
        finally:
            forget_interned()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Most of what a compilation makes stays to its end. Looking for garbage every few hundred
    objects, as Python does, takes one part in fifteen of the time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(max(thresholds[0], _OBJECTS) if thresholds[0] else 0, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _build(
    graph: Graph,
    log: StepLog,
    options: Options,
    keep: Callable[[Bytes], None],
    workers: Executor,
) -> Compilation:
    target = processor_of(options)
    machine = machine_of(target)
    shared = workers.submit(shared_objects, target.triple, target.features, machine)
    log.graph("input", graph)
    strings = graph.strings
    fitted, program = _lowered(graph, log, options, target)
    plan = fitted.plan
    kernels = kernels_of(program.steps)
    log.kernels(kernels)
    with ThreadPoolExecutor(1) as beside:
        # Moving and hashing a hundred megabytes needs no interpreter: it costs no time here.
        packing = beside.submit(_packed, program, plan)
        kept = beside.submit(lambda: keep(packing.result()[0]))
        emitted = log.timed("codegen", lambda: emit_kernels(kernels, target, workers))
        weights, digest = log.timed("weights", packing.result)
        signature = describe(program, weights, digest, target, options, strings)
        interface = workers.submit(interface_object, signature.prefix, machine)
        body = body_text(program, plan, signature.prefix, emitted.messages, profile=options.profile)
        texts = emitted.texts([body])
        log.text("llvm.ll", "\n".join(texts))

        def compiled() -> Code:
            shared.result()
            interface.result()
            main = emitted.main_texts([body])
            return compile_code(signature, main, machine, LLVM_PASSES, emitted.objects)

        code = log.timed("llvm", compiled)
        log.timed("weights", kept.result)
    made = Compilation(
        fitted.graph, program, plan, code, weights, target, texts, log.seconds, fitted.choice
    )
    if log.folder is not None:
        log.text("asm.s", assembly(made))
    return made


def _lowered(
    graph: Graph, log: StepLog, options: Options, target: Target
) -> tuple[Fitted, Program]:
    """The schedule of a graph, and the final program: its kernels take numbers from their launches,
    and its caches have room to grow, if the options say so."""
    rooms: tuple[Room, ...] = ()
    if options.grow_in_place:
        graph, rooms = grow_in_place(graph)
        log.graph("grow_in_place", graph)
    fitted = scheduled(graph, log, options, target)
    programs = log.timed("merge_renamed", lambda: merge_renamed([fitted.program]))
    (program,) = log.timed("parameterize_constants", lambda: parameterize_constants(programs))
    return fitted, with_rooms(program, rooms)


def scheduled(graph: Graph, log: StepLog, options: Options, target: Target) -> Fitted:
    """The passes, the schedule and the memory plan of a graph."""
    for step in passes_of(options, target):
        graph = log.run(step, graph)
    fitted = log.timed("schedule", lambda: fit_memory(graph, options, target))
    log.graph("recompute", fitted.graph)
    return fitted


def kernels_of(steps: Steps) -> list[Kernel]:
    """The kernels that steps launch, each once, in order of first use."""
    return list(dict.fromkeys(launch.kernel for launch in launches(steps)))


def _packed(program: Program, plan: MemoryPlan) -> tuple[Bytes, str]:
    weights = pack_weights(program, plan)
    return weights, weights_digest(weights)


def assembly(compilation: Compilation) -> str:
    """The assembly of the kernels and the run body."""
    text = module_text(compilation.code.signature, compilation.texts)
    return assembly_text(text, machine_of(compilation.target), LLVM_PASSES)
