"""A training as a C library: the graphs of a Trainer, its state, and how a checkpoint begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bessemer.compiler.codegen.training.library_parts import SAFETENSORS, in_file_order
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.signature import RUNTIME_NAMES
from bessemer.compiler.training_library import TrainingGraphs
from bessemer.frontends.train.checkpoint import checkpoint_start
from bessemer.frontends.train.step import StepGraph
from bessemer.runtime.artifact import ArrayInfo


@dataclass(frozen=True, eq=False)
class Training:
    """A training as it stands: its graphs, the state, the steps made, and what else a checkpoint
    tells. `output_names` are the network's."""

    step: StepGraph
    evaluation: StepGraph
    prediction: StepGraph
    output_names: tuple[str, ...]
    state: Mapping[str, Array]
    steps: int
    facts: Mapping[str, Any]


def training_graphs(name: str, given: Training) -> TrainingGraphs:
    """What the compiler makes a library called `name` of."""
    results = 1 + len(given.step.metrics)
    return TrainingGraphs(
        name,
        _first_outputs(given.step.graph, results + len(given.step.updated)),
        _first_outputs(given.evaluation.graph, results),
        replace(
            given.prediction.graph,
            outputs=given.prediction.graph.outputs[1:],
            output_names=given.output_names,
        ),
        given.state,
        (_names(given.step), _names(given.evaluation), _names(given.prediction)),
        given.step.updated,
        results,
        len(given.step.batch) - len(given.prediction.batch),
        given.steps,
        _checkpoint(given),
    )


def _first_outputs(graph: Graph, count: int) -> Graph:
    """The graph without its other outputs: statistics, and what a prediction is."""
    outputs, names = graph.outputs[:count], graph.output_names[:count]
    return replace(graph, outputs=outputs, output_names=names)


def _names(step: StepGraph) -> tuple[str, ...]:
    return tuple(name for name, _ in step.state)


def _checkpoint(given: Training) -> tuple[bytes, bytes]:
    infos = [
        ArrayInfo(name, RUNTIME_NAMES[type.dtype.name], type.static_shape)
        for name, type in given.step.state
    ]
    ordered = [infos[place] for place in in_file_order(infos)]
    return checkpoint_start(
        [(info.name, SAFETENSORS[info.dtype], given.state[info.name]) for info in ordered],
        given.facts,
    )
