"""Compiles the graphs of a training into one library (codegen/training/library.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.codegen.artifact.header import c_prefix
from bessemer.compiler.codegen.artifact.link import (
    Bytes,
    Code,
    compile_code,
    shared_objects,
    weights_digest,
)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.codegen.artifact.parts import compiling_threads, emit_kernels
from bessemer.compiler.codegen.body.body import body_text
from bessemer.compiler.codegen.kernels.cpu import PASSES
from bessemer.compiler.codegen.kernels.parameterize_constants import parameterize_constants
from bessemer.compiler.codegen.support.run import Body
from bessemer.compiler.codegen.training.library_calls import can_be_result
from bessemer.compiler.codegen.training.library_parts import Library, Part, StateArray
from bessemer.compiler.driver import compiling, kernels_of, processor_of, scheduled
from bessemer.compiler.errors import CompileError
from bessemer.compiler.fit_memory import Fitted
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import MemoryPlan, Program
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.compiler.pack_weights import pack_weights
from bessemer.compiler.schedule.share_kernels import share_kernels
from bessemer.compiler.signature import describe
from bessemer.compiler.step_log import StepLog
from bessemer.compiler.targets.machine import Target
from bessemer.runtime.arrays import aligned_empty
from bessemer.runtime.artifact import ArrayInfo, Signature

_ALIGNMENT = 64
_KINDS = ("step", "evaluation", "prediction")


@dataclass(frozen=True, eq=False)
class TrainingGraphs:
    """What a training library is made of.

    Inputs of the graphs: the arrays of a batch (the last `targets` of them not of the prediction),
    the learning rate and the number of steps (of the step alone), then of `state`, which has the
    initial values by name, those that `reads` lists. Outputs: `results` numbers (not of the
    prediction), then what the step `writes` of the state, or what the prediction is. `checkpoint`
    is as in Library.
    """

    name: str
    step: Graph
    evaluation: Graph
    prediction: Graph
    state: Mapping[str, Array]
    reads: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    writes: tuple[str, ...]
    results: int
    targets: int
    steps: int
    checkpoint: tuple[bytes, bytes]


@dataclass(frozen=True, eq=False)
class _Made:
    """One of the graphs, scheduled; its weights begin at `weights_from` of all."""

    program: Program
    plan: MemoryPlan
    signature: Signature
    weights_from: int


def build_library(graphs: TrainingGraphs, options: Options) -> tuple[Code, Bytes]:
    """The code of the library, and its weights with the initial state behind them.

    Raises CompileError for what cannot be compiled, and for networks whose outputs' sizes the data
    decides.
    """
    target = processor_of(options)
    with compiling():
        return _build(graphs, options, target)


def _build(graphs: TrainingGraphs, options: Options, target: Target) -> tuple[Code, Bytes]:
    found = [
        _scheduled(kind, graph, options, target)
        for kind, graph in zip(_KINDS, (graphs.step, graphs.evaluation, graphs.prediction))
    ]
    programs = parameterize_constants(share_kernels([each.program for each in found]))
    plans = [each.plan for each in found]
    blobs = [pack_weights(*pair) for pair in zip(programs, plans, strict=True)]
    weights, places = _joined([*blobs, *map(_as_bytes, graphs.state.values())])
    digest = weights_digest(weights)
    made = [
        _Made(program, plan, describe(program, weights, digest, target, options), place)
        for program, plan, place in zip(programs, plans, places, strict=False)
    ]
    signature = _signature(graphs, made)
    library = _library(graphs, made, signature, places[len(made) :])
    return _code(made, signature, library, target), weights


def _scheduled(kind: str, graph: Graph, options: Options, target: Target) -> Fitted:
    log = StepLog(options.dump / kind if options.dump else None, options.verify)
    log.graph("input", graph)
    fitted = scheduled(graph, log, options, target)
    log.kernels(kernels_of(fitted.program.steps))
    return fitted


def _code(
    made: Sequence[_Made],
    signature: Signature,
    library: Library,
    target: Target,
) -> Code:
    machine = machine_of(target)
    kernels = dict.fromkeys(k for each in made for k in kernels_of(each.program.steps))
    with compiling_threads() as workers:
        shared = workers.submit(
            shared_objects, target.triple, target.features, machine, has_entry=False
        )
        emitted = emit_kernels(kernels, target, workers)
        bodies = [
            body_text(each.program, each.plan, part.body.name, emitted.messages)
            for each, part in zip(made, library.parts, strict=True)
        ]
        shared.result()
        main = emitted.main_texts(bodies)
        return compile_code(signature, main, machine, PASSES, emitted.objects, library)


def _joined(blobs: Sequence[Bytes]) -> tuple[Bytes, list[int]]:
    """The blobs in one, and where each begins; -1 for one of zeros."""
    places: list[int] = []
    end = 0
    for blob in blobs:
        places.append(end)
        end += -(-blob.nbytes // _ALIGNMENT) * _ALIGNMENT
    whole = aligned_empty((end,), np.dtype(np.uint8))
    whole[...] = 0
    for blob, place in zip(blobs, places, strict=True):
        whole[place : place + blob.nbytes] = blob
    return whole, places


def _as_bytes(array: Array) -> Bytes:
    """An initial array; nothing for one of zeros, which needs no place in the file."""
    found = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return found if found.any() else found[:0]


def _signature(graphs: TrainingGraphs, made: Sequence[_Made]) -> Signature:
    step, _, prediction = (each.signature for each in made)
    given = len(step.inputs) - len(graphs.reads[0]) - 2
    late = [info.name for info in prediction.outputs if info.data_dependent]
    if late:
        raise CompileError(
            f"The size of {', '.join(late)} is only known once the network has run: "
            "there is no training library for such networks."
        )
    return replace(
        step,
        name=graphs.name,
        prefix=c_prefix(graphs.name),
        inputs=step.inputs[:given],
        outputs=prediction.outputs,
        symbols=step.symbols[: step.input_symbols],
        updates=(),
    )


def _library(
    graphs: TrainingGraphs, made: Sequence[_Made], signature: Signature, places: Sequence[int]
) -> Library:
    step = made[0].signature
    results = step.outputs[: graphs.results]
    odd = [info.name for info in results if not can_be_result(info)]
    if odd:
        raise CompileError(f"{', '.join(odd)} is not one number, which a library could give back.")
    numbers = {name: number for number, name in enumerate(graphs.state)}
    infos = dict(zip(graphs.reads[0], step.inputs[-len(graphs.reads[0]) :], strict=True))
    state = tuple(
        StateArray(_named(infos[name], name), place if array.any() else -1)
        for (name, array), place in zip(graphs.state.items(), places, strict=True)
    )
    writes: tuple[tuple[str, ...], ...] = (graphs.writes, (), ())
    parts = [
        Part(
            Body(f"{signature.prefix}_{kind}", each.signature, each.weights_from),
            tuple(numbers[name] for name in reads),
            tuple(numbers[name] for name in written),
            tuple(
                signature.symbols.index(name)
                for name in each.signature.symbols[: each.signature.input_symbols]
            ),
        )
        for kind, each, reads, written in zip(_KINDS, made, graphs.reads, writes, strict=True)
    ]
    return Library(
        parts[0], parts[1], parts[2], state, results, graphs.targets, graphs.steps,
        graphs.checkpoint,
    )  # fmt: skip


def _named(info: ArrayInfo, name: str) -> ArrayInfo:
    return replace(info, name=name)
