"""Steps of optimizers over one parameter: gradient and slots in, parameter and slots out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.gpu.cases import Case, Sample, graph_of, numbers, picked, wide
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, f32, f64
from bessemer.frontends.float64_reference import run_in_float64
from bessemer.frontends.train.optimizers import SGD, Adam, AdamW, Optimizer, Update

RATE, STEP = 0.01, 7.0


def optimizer_cases(small: bool) -> list[Case]:
    """Over 64 Mi parameters."""
    count = 3001 if small else 1 << 26
    known: dict[str, Optimizer] = {
        "sgd": SGD(RATE), "momentum": SGD(RATE, momentum=0.9), "adam": Adam(RATE),
        "adamw": AdamW(RATE),
    }  # fmt: skip
    return [_step(name, optimizer, count) for name, optimizer in known.items()]


def _graph(optimizer: Optimizer, count: int) -> Graph:
    slots = optimizer.slots

    def build(b: GraphBuilder, *values: Value) -> tuple[Value, ...]:
        parameter, gradient, *kept, rate, step = values
        update = Update(b, parameter, gradient, dict(zip(slots, kept)), rate, step)
        after, moved = optimizer.update(update)
        return (after, *moved.values())

    kinds = [TensorType(f32, (count,))] * (2 + len(slots)) + [TensorType(f64, ())] * 2
    return graph_of(build, kinds)


def _step(name: str, optimizer: Optimizer, count: int) -> Case:
    vectors = 2 + len(optimizer.slots)

    def arrays() -> list[Array]:
        found = [numbers((count,), seed=seed) for seed in range(2)]
        # What is gathered of squares has no sign.
        found += [np.abs(numbers((count,), seed=2 + k)) for k in range(len(optimizer.slots))]
        return [*found, np.array(RATE), np.array(STEP)]

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        chosen = picked(count)
        few = [wide(array[chosen]) for array in arrays[:vectors]]
        named = {f"x{k}": array for k, array in enumerate((*few, *arrays[vectors:]))}
        exact = run_in_float64(_graph(optimizer, len(chosen)), named)
        return [Sample(k, chosen, array) for k, array in enumerate(exact)]

    return Case(f"{name} f32 {count}", lambda: _graph(optimizer, count), arrays, reference, 2e-6)
