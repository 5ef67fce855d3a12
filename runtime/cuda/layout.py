"""Where a run's values lie in the one block of memory that a model has besides its weights.

    arena | inputs that come from the host | outputs that go there | cells

Cells are two fault numbers for every step that can fail, and the symbols that kernels set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.artifact import ArrayInfo, Status
from bessemer.runtime.cuda.artifact import (
    ALIGNMENT,
    BranchStep,
    DeviceProgram,
    DeviceStep,
    LaunchStep,
    RepeatStep,
)
from bessemer.runtime.errors import ExecutionError, InputError
from bessemer.runtime.shapes import evaluate, evaluate_shape

FAULT_BYTES = 8


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes in the block, for one set of shapes.

    `shapes` are the outputs', () for those that the data decides. `faults` is where the fault cells
    begin, `symbols` where those of symbols do.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    faults: int
    symbols: int
    size: int


def launches(steps: Sequence[DeviceStep]) -> Iterator[LaunchStep]:
    """All launches, those inside control flow too."""
    for step in steps:
        match step:
            case LaunchStep():
                yield step
            case BranchStep():
                yield from launches((*step.then, *step.otherwise))
            case RepeatStep():
                yield from launches(step.body)
            case _:
                pass


def lay_out(
    program: DeviceProgram,
    shapes: Sequence[tuple[int, ...]],
    symbols: Mapping[str, int],
    arena: int,
) -> Layout:
    """The places for inputs of these shapes; raises InputError where an output's would be negative.

    `arena` is the size of the part in front.
    """
    signature = program.signature
    place = _Places(arena)
    inputs = tuple(
        place.next(math.prod(shape) * numpy_dtype(info.dtype).itemsize)
        for info, shape in zip(signature.inputs, shapes, strict=True)
    )
    known = tuple(_shape(info, symbols) for info in signature.outputs)
    outputs = tuple(
        place.next(math.prod(shape) * numpy_dtype(info.dtype).itemsize)
        for info, shape in zip(signature.outputs, known, strict=True)
    )
    listed = list(launches(program.steps))
    faults = place.next(FAULT_BYTES * len(listed))
    widest = max((len(step.symbols) for step in listed if step.sets), default=0)
    cells = place.next(8 * widest)
    return Layout(inputs, outputs, known, faults, cells, place.end)


def _shape(info: ArrayInfo, symbols: Mapping[str, int]) -> tuple[int, ...]:
    if info.data_dependent:
        return (0,)
    shape = evaluate_shape(info.shape, symbols)
    if any(size < 0 for size in shape):
        raise InputError(f"With {symbols}, output '{info.name}' would have the shape {shape}.")
    return shape


def arena_size(program: DeviceProgram, symbols: Mapping[str, int]) -> int:
    """The bytes of all parts of the arena whose sizes are known by now."""
    size = 0
    for end in program.ends:
        try:
            size = max(size, evaluate(end, symbols))
        except KeyError:
            break
    return size


def check_required(program: DeviceProgram, symbols: Mapping[str, int]) -> None:
    """Raises ExecutionError where a size that is known by now is negative."""
    for one in program.required:
        try:
            size = evaluate(one.size, symbols)
        except KeyError:
            continue
        if size < 0:
            message = f"{one.where}: an input is too small: a size is negative"
            name = program.signature.name
            raise ExecutionError(f"{name}: {message}", Status.SHAPE_MISMATCH)


class _Places:
    def __init__(self, start: int) -> None:
        self.end = start

    def next(self, size: int) -> int:
        place = -(-self.end // ALIGNMENT) * ALIGNMENT
        # A place of its own even for nothing: guarded loads and empty tensors have an address.
        self.end = place + max(size, ALIGNMENT)
        return place
