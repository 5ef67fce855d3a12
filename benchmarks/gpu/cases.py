"""What is checked and timed on a device: a graph, its arrays, and what it has to compute.

Results are compared with float64 on a sample where they are large: whoever has a device for ten
minutes shall not spend them on NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, dtype_of
from bessemer.compiler.options import Precision
from bessemer.frontends.relative_error import relative_error

SAMPLES = 48
"""Rows, or pixels, of a large result that are computed in float64."""
_PERIOD = 1_048_573

Build = Callable[..., Value | tuple[Value, ...]]
Peer = Callable[[Any], Callable[..., Any]]
"""From the torch module to a function of a case's arrays as tensors."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A part of an output, and what it must be, in float64."""

    output: int
    index: Any
    expected: Array


@dataclass(frozen=True, eq=False)
class Case:
    """A graph to check and to time.

    `arrays` are its inputs, then as many arrays as are `held` by the graph as constants; `graph`
    takes these. `tolerance` bounds the relative error in the 2-norm. `flops` and `bytes` are what
    there is to do at least (bytes 0: the inputs, outputs and weights, each once), `arithmetic` the
    row of the table of peaks. `level` is a target's name, "" for the device's own. `is_compiled`
    says whether torch.compile is measured, beside torch's own libraries.
    """

    name: str
    graph: Callable[..., Graph]
    arrays: Callable[[], list[Array]]
    reference: Callable[[Sequence[Array]], Sequence[Sample]]
    tolerance: float
    flops: float = 0.0
    bytes: float = 0.0
    arithmetic: str = "float32"
    precision: Precision = "float32"
    level: str = ""
    held: int = 0
    peer: Peer | None = None
    is_compiled: bool = True

    def split(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The inputs, and what the graph holds."""
        first = len(arrays) - self.held
        return list(arrays[:first]), list(arrays[first:])


def numbers(shape: Sequence[int], dtype: Any = np.float32, seed: int = 0) -> Array:
    """Normally distributed numbers; beyond a million they come again, in another place."""
    count = int(np.prod(shape))
    drawn = np.random.default_rng([seed, *shape]).standard_normal(min(count, _PERIOD))
    return np.resize(drawn.astype(dtype), count).reshape(shape)


def graph_of(
    build: Build, inputs: Sequence[Array | TensorType], held: Sequence[Array] = ()
) -> Graph:
    """What `build` writes for inputs of these types, and these constants."""
    b = GraphBuilder("case")
    values = [
        b.input(f"x{k}", x if isinstance(x, TensorType) else TensorType(dtype_of(x), x.shape))
        for k, x in enumerate(inputs)
    ]
    outputs = build(b, *values, *map(b.constant, held))
    listed = outputs if isinstance(outputs, tuple) else (outputs,)
    return b.finish(listed, [f"y{k}" for k in range(len(listed))])


def picked(count: int, seed: int = 0) -> Array:
    """Some of so many rows, the first and the last among them."""
    if count <= SAMPLES:
        return np.arange(count)
    drawn = np.random.default_rng(seed).choice(count, SAMPLES - 2, replace=False)
    return np.unique([0, count - 1, *drawn])


def wide(array: Array) -> Array:
    """The array in float64."""
    return array.astype(np.float64)


def error_of(samples: Sequence[Sample], outputs: Sequence[Array]) -> float:
    """The largest relative error of the samples; infinite where one has another shape, or is not
    finite where it should be."""
    return max(relative_error(s.expected, wide(outputs[s.output][s.index])) for s in samples)
