"""Checks that a device program that was read from a file is consistent."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.runtime.cuda.artifact import (
    BindStep,
    BranchStep,
    CopyStep,
    DeviceProgram,
    DeviceStep,
    Entry,
    FiniteStep,
    LaunchStep,
    Place,
    RepeatStep,
)
from bessemer.runtime.shapes import parse_expression

LARGEST_BLOCK = 1024


def check_program(program: DeviceProgram) -> None:
    """Raises ValueError where a part speaks of something that is not there."""
    for kernel in program.kernels:
        if not 0 < kernel.threads <= LARGEST_BLOCK or kernel.shared_bytes < 0:
            raise ValueError(f"kernel {kernel.name!r} has {kernel.threads} threads")
    for end in program.ends:
        _entry(end)
    for one in program.required:
        _entry(one.size)
    for number, place in program.dependent_outputs.items():
        if not 0 <= number < len(program.signature.outputs):
            raise ValueError(f"there is no output {number}")
        _place(program, place)
    _steps(program, program.steps)


def _steps(program: DeviceProgram, steps: Sequence[DeviceStep]) -> None:
    for step in steps:
        match step:
            case LaunchStep():
                _launch(program, step)
            case CopyStep(source, target, size):
                _places(program, source, target)
                _entry(size)
            case BindStep(source=source) | FiniteStep(source=source):
                _place(program, source)
            case BranchStep(condition, then, otherwise):
                _place(program, condition)
                _steps(program, (*then, *otherwise))
            case RepeatStep(trips, condition, iteration, body):
                _places(program, *(one for one in (trips, condition, iteration) if one is not None))
                _steps(program, body)


def _launch(program: DeviceProgram, step: LaunchStep) -> None:
    if not 0 <= step.kernel < len(program.kernels):
        raise ValueError(f"there is no kernel {step.kernel}")
    kernel = program.kernels[step.kernel]
    if len(step.tensor_maps) != kernel.tensor_maps or (bool(step.sets) and not kernel.sets):
        raise ValueError(f"a launch of {kernel.name!r} does not fit it")
    _places(program, *step.buffers)
    for entry in (step.grid, *step.symbols):
        _entry(entry)
    for position, name in step.sets:
        if not 0 <= position < len(step.symbols) or name not in program.signature.symbols:
            raise ValueError(f"a launch of {kernel.name!r} sets the unknown symbol {name!r}")
    for plan in step.tensor_maps:
        if not 0 <= plan.buffer < len(step.buffers):
            raise ValueError(f"a launch of {kernel.name!r} has no buffer {plan.buffer}")
        for entry in (plan.offset, *plan.shape, *plan.strides):
            _entry(entry)


def _places(program: DeviceProgram, *places: Place) -> None:
    for place in places:
        _place(program, place)


def _place(program: DeviceProgram, place: Place) -> None:
    _entry(place.offset)
    signature = program.signature
    counts = {"input": len(signature.inputs), "output": len(signature.outputs)}
    if not 0 <= place.number < counts.get(place.space, 1):
        raise ValueError(f"there is no {place.space} {place.number}")
    largest = signature.weights_bytes if place.space == "weights" else None
    if isinstance(place.offset, int) and not 0 <= place.offset <= (largest or place.offset):
        raise ValueError(f"the {place.space} have no byte {place.offset}")


def _entry(entry: Entry) -> None:
    if isinstance(entry, str):
        parse_expression(entry)
