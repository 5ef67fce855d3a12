"""Describes a training library: its graphs, its state, its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from bessemer.compiler.codegen.support.run import Body
from bessemer.runtime.artifact import ArrayInfo

ALIGNMENT = 64
_BYTES = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4}
_BYTES |= {"float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1}

# How safetensors calls the element types.
SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class StateArray:
    """An array of the state. `initial` is where its initial value begins among the weights, in
    bytes; -1 for zeros."""

    info: ArrayInfo
    initial: int

    @property
    def bytes(self) -> int:
        """The array's size in bytes."""
        return prod(int(size) for size in self.info.shape) * _BYTES[self.info.dtype]


@dataclass(frozen=True, eq=False)
class Part:
    """One of the graphs.

    `reads` are the numbers of the state's arrays that are its last inputs, `writes` those of the
    arrays that are its last outputs, behind the results. `dims` has the number of the library's dim
    for each of its symbols.
    """

    body: Body
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Library:
    """A training library without its signature, whose inputs are a batch and whose outputs are the
    prediction.

    `results` counts the loss and the metrics, `targets` the arrays of a batch that a prediction
    does not need. `steps` is the initial number of steps. `checkpoint` is the begin of a
    checkpoint, before and after the 20 characters of the number of steps; the state follows in the
    order of `file_order`.
    """

    step: Part
    evaluation: Part
    prediction: Part
    state: tuple[StateArray, ...]
    results: tuple[ArrayInfo, ...]
    targets: int
    steps: int
    checkpoint: tuple[bytes, bytes]

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """The three graphs: step, evaluation, prediction."""
        return self.step, self.evaluation, self.prediction

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The byte offsets of the arrays in the state, and the end of the state."""
        found = [0]
        for array in self.state:
            found.append(found[-1] + -(-array.bytes // ALIGNMENT) * ALIGNMENT)
        return tuple(found)

    @property
    def file_order(self) -> tuple[int, ...]:
        """The order of the state's arrays in a checkpoint: see `in_file_order`."""
        return in_file_order([array.info for array in self.state])


def in_file_order(arrays: Sequence[ArrayInfo]) -> tuple[int, ...]:
    """The numbers of the arrays in the order of a checkpoint: wide elements first, so that all are
    aligned."""
    order = sorted(range(len(arrays)), key=lambda k: (-_BYTES[arrays[k].dtype], arrays[k].name))
    return tuple(order)
