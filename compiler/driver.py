"""The pipeline: from a graph to a compiled model, step by step, in reading order.

Between two steps it verifies, times and dumps; the steps know nothing about that.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from bessemer.compiler.codegen.artifact.header import c_prefix
from bessemer.compiler.codegen.artifact.link import (
    Bytes,
    Code,
    compile_code,
    module_text,
    shared_objects,
    weights_digest,
)
from bessemer.compiler.codegen.artifact.machine import assembly_text, machine_of
from bessemer.compiler.codegen.artifact.parts import Parts, compiling_threads
from bessemer.compiler.codegen.body.body import body_text
from bessemer.compiler.codegen.kernels.cpu import CONSTANTS, KernelCode, emit_kernel
from bessemer.compiler.codegen.kernels.cpu import PASSES as LLVM_PASSES
from bessemer.compiler.codegen.kernels.share_numbers import share_numbers
from bessemer.compiler.errors import CompileError
from bessemer.compiler.fit_memory import fit_memory
from bessemer.compiler.grow_in_place import grow_in_place, with_rooms
from bessemer.compiler.ir.dims import Size, number
from bessemer.compiler.ir.expr import forget_interned
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.mapped_file import forget
from bessemer.compiler.ir.program import MemoryPlan, Program, Room, Steps
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.memory_plan.plan_memory import is_data_dependent
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import Pass, passes_of
from bessemer.compiler.schedule.memory.recompute import Recomputation
from bessemer.compiler.targets.choose import parse_target
from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.nvptx import DeviceTarget
from bessemer.runtime import artifact
from bessemer.runtime.arrays import aligned_empty
from bessemer.runtime.artifact import ArrayInfo, Signature, Strings

_T = TypeVar("_T")
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


def _nothing(_: object) -> None:
    pass


def build(
    graph: Graph,
    options: Options,
    begins: Callable[[str], None] = _nothing,
    keep: Callable[[Bytes], None] = _nothing,
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
    rooms: tuple[Room, ...] = ()
    if options.grow_in_place:
        graph, rooms = grow_in_place(graph)
        log.graph("grow_in_place", graph)
    for step in passes_of(options, target):
        graph = log.run(step, graph)
    fitted = log.timed("schedule", lambda: fit_memory(graph, options, target))
    graph, plan = fitted.graph, fitted.plan
    log.graph("recompute", graph)
    (program,) = log.timed("share_numbers", lambda: share_numbers([fitted.program]))
    program = with_rooms(program, rooms)
    kernels = kernels_of(program.steps)
    log.kernels(kernels)
    with ThreadPoolExecutor(1) as beside:
        # Moving and hashing a hundred megabytes needs no interpreter: it costs no time here.
        packing = beside.submit(_packed, program, plan)
        kept = beside.submit(lambda: keep(packing.result()[0]))
        parts = Parts(machine, LLVM_PASSES, workers)
        codes = log.timed(
            "codegen", lambda: {k: parts.add(emit_kernel(k, target)) for k in kernels}
        )
        objects, rest = parts.finish()
        weights, digest = log.timed("weights", packing.result)
        signature = describe(program, weights, digest, target, options, strings)
        texts = module_texts(program, plan, signature.prefix, codes, options.profile)
        log.text("llvm.ll", "\n".join(texts))
        own = (texts[0], *rest, texts[-1]) if objects else texts

        def compiled() -> Code:
            shared.result()
            return compile_code(signature, own, machine, LLVM_PASSES, objects)

        code = log.timed("llvm", compiled)
        log.timed("weights", kept.result)
    made = Compilation(
        graph, program, plan, code, weights, target, texts, log.seconds, fitted.choice
    )
    if log.folder is not None:
        log.text("asm.s", assembly(made))
    return made


def module_texts(
    program: Program,
    plan: MemoryPlan,
    prefix: str,
    codes: dict[Kernel, KernelCode],
    profile: bool = False,
) -> tuple[str, ...]:
    """The LLVM IR of a program: shared definitions once, then the kernels, then the body."""
    functions: dict[str, str] = {}
    declarations = {
        f"declare void @llvm.{name}.p0.p0.i64(ptr, ptr, i64, i1)" for name in ("memcpy", "memmove")
    }
    for code in codes.values():
        functions |= code.functions
        declarations |= code.declarations
    messages = {kernel: code.messages for kernel, code in codes.items() if code.messages}
    return (
        "\n".join([CONSTANTS, *sorted(declarations)]),
        *(functions[name] for name in sorted(functions)),
        *(code.text for code in codes.values()),
        body_text(program, plan, prefix, messages, profile=profile),
    )


def kernels_of(steps: Steps) -> list[Kernel]:
    """The kernels that steps launch, each once, in order of first use."""
    return list(dict.fromkeys(launch.kernel for launch in launches(steps)))


def _packed(program: Program, plan: MemoryPlan) -> tuple[Bytes, str]:
    weights = pack_weights(program, plan)
    return weights, weights_digest(weights)


def pack_weights(program: Program, plan: MemoryPlan) -> Bytes:
    """The weights blob, aligned to 64 bytes: every constant in use at its offset, zeros between.

    What has been read of a mapped file is given back: weights are in memory once.
    """
    blob = aligned_empty((plan.weights_size,), np.dtype(np.uint8))
    end = 0
    for value, offset in sorted(plan.weight_offsets.items(), key=lambda item: item[1]):
        weight, type = program.weights[value], value.type
        blob[end:offset] = 0
        end = offset + number(type.numel) * type.dtype.bytes
        array = weight.array()
        blob[offset:end].view(array.dtype).reshape(array.shape)[...] = array
        forget(weight.source)
    blob[end:] = 0
    return blob


def describe(
    program: Program,
    weights: Bytes,
    digest: str,
    target: Target,
    options: Options,
    strings: Strings | None = None,
) -> Signature:
    """The signature of the artifact; `digest` is that of the weights."""
    texts = strings or Strings()
    inputs = [_array(program, v.name, v, k in texts.inputs) for k, v in enumerate(program.inputs)]
    outputs = [
        _array(program, name, v, k in texts.outputs, is_data_dependent(program, v))
        for k, (name, v) in enumerate(zip(program.output_names, program.outputs, strict=True))
    ]
    for room in program.rooms:
        inputs[room.given] = _in_use(inputs[room.given], room.axis, room.before)
        outputs[room.output] = _in_use(outputs[room.output], room.axis, room.after)
    return Signature(
        name=program.name,
        prefix=c_prefix(program.name),
        triple=target.triple,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        symbols=program.symbols,
        input_symbols=program.input_symbols,
        cpu_features=target.features,
        target=target.description,
        precision=options.precision,
        weights_bytes=weights.nbytes,
        weights_sha256=digest,
        updates=program.updates,
        strings=strings,
        rooms=tuple(
            artifact.Room(room.output, room.given, room.axis, room.symbol) for room in program.rooms
        ),
    )


def _in_use(array: ArrayInfo, axis: int, size: Size) -> ArrayInfo:
    """The part of an array with room that is in use."""
    return replace(array, shape=(*array.shape[:axis], _entry(size), *array.shape[axis + 1 :]))


def _array(
    program: Program, name: str, value: Value, is_text: bool, data_dependent: bool = False
) -> ArrayInfo:
    shape = tuple(_entry(program.expanded(size)) for size in value.type.shape)
    dtype = "string" if is_text else RUNTIME_NAMES[value.type.dtype.name]
    return ArrayInfo(name, dtype, shape, data_dependent)


def _entry(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)


RUNTIME_NAMES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "bool": "bool",
    "i4": "int4",
    "u4": "uint4",
    "i2": "int2",
    "u2": "uint2",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2": "float8_e5m2",
    "f8e5m2fnuz": "float8_e5m2fnuz",
    "f8e8m0": "float8_e8m0fnu",
    "f4e2m1": "float4_e2m1fn",
}


def assembly(compilation: Compilation) -> str:
    """The assembly of the kernels and the run body."""
    text = module_text(compilation.code.signature, compilation.texts)
    return assembly_text(text, machine_of(compilation.target), LLVM_PASSES)


class StepLog:
    """What happens between steps: times, verification, dumps."""

    def __init__(
        self, folder: Path | None, verify: bool, begins: Callable[[str], None] = _nothing
    ) -> None:
        self.begins = begins
        self.folder = folder
        self.verify = verify
        self.seconds: dict[str, float] = {}
        self.number = 0
        self.before = ""
        if folder is not None:
            with _written(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def run(self, step: Pass, graph: Graph) -> Graph:
        name = step.__name__
        result = self.timed(name, lambda: step(graph))
        if self.verify:
            verify_graph(result)
        self.graph(name, result)
        return result

    def timed(self, name: str, action: Callable[[], _T]) -> _T:
        self.begins(name)
        start = time.perf_counter()
        result = action()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    def graph(self, name: str, graph: Graph) -> None:
        if self.folder is None:
            return
        text = print_graph(graph)
        self.text(f"{name}.txt", "(unchanged)\n" if text == self.before else text)
        self.before = text

    def kernels(self, kernels: list[Kernel]) -> None:
        if self.verify:
            for kernel in kernels:
                verify_kernel(kernel)
        if self.folder is not None:
            self.text("kernels.txt", "\n".join(print_kernel(kernel) for kernel in kernels))

    def text(self, name: str, text: str) -> None:
        if self.folder is not None:
            with _written(self.folder):
                (self.folder / f"{self.number:02d}-{name}").write_text(text)
            self.number += 1


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompileError(f"Cannot write dumps to {folder}: {error.strerror}") from None
