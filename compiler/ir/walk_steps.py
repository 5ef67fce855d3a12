"""Traverses the steps of programs: launches, the values that steps read and write, and those behind
aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import SetDim
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Chain,
    Copy,
    Launch,
    Repeat,
    RequireFinite,
    Step,
    Steps,
)
from bessemer.compiler.ir.walk_loops import walk


def timed_steps(steps: Steps) -> list[Launch | Copy]:
    """The steps that do work, as often and in the order in which their code is written: a profile
    counts them by their position. It has no chains: there every launch is a step of its own."""
    found: list[Launch | Copy] = []
    for step in steps:
        match step:
            case Launch() | Copy():
                found.append(step)
            case Branch():
                found += [*timed_steps(step.then), *timed_steps(step.otherwise)]
            case Repeat():
                found += timed_steps(step.body)
            case _:
                pass
    return found


def launches(steps: Steps) -> Iterator[Launch]:
    """Every launch of the steps, in order."""
    for step in steps:
        match step:
            case Launch():
                yield step
            case Chain():
                yield from step.launches
            case Branch():
                yield from launches(step.then + step.otherwise)
            case Repeat():
                yield from launches(step.body)
            case _:
                pass


def map_launches(steps: Steps, change: Callable[[Launch], Launch]) -> Steps:
    """The steps with other launches."""
    return tuple(_mapped(step, change) for step in steps)


def _mapped(step: Step, change: Callable[[Launch], Launch]) -> Step:
    match step:
        case Launch():
            return change(step)
        case Chain():
            return replace(step, launches=tuple(map(change, step.launches)))
        case Branch():
            then, otherwise = (map_launches(side, change) for side in (step.then, step.otherwise))
            return replace(step, then=then, otherwise=otherwise)
        case Repeat():
            return replace(step, body=map_launches(step.body, change))
        case _:
            return step


def touched(step: Step) -> tuple[list[Value], list[Value]]:
    """The values that a step reads and those that it writes; before there are chains."""
    match step:
        case Launch():
            inputs = len(step.values) - step.kernel.outputs
            return [*step.values[:inputs]], [*step.values[inputs:]]
        case Copy() | Alias():
            return [step.source], [step.target]
        case BindDims() | RequireFinite():
            return [step.value], []
        case Branch():
            steps: Sequence[Step] = (*step.then, *step.otherwise)
            extra = [step.condition]
        case Repeat():
            steps = step.body
            extra = [v for v in (step.trips, step.condition, step.iteration) if v is not None]
    return [*extra, *(value for one in steps for value in touched(one)[0])], _written(steps)


def alias_sources(steps: Iterable[Step]) -> dict[Value, Value]:
    """The values that aliases among these steps give other shapes, by the aliases' targets."""
    return {step.target: step.source for step in steps if isinstance(step, Alias)}


def root_of(value: Value, sources: Mapping[Value, Value]) -> Value:
    """The value whose bytes a value has: its own, unless `sources` (of aliases) has it."""
    while value in sources:
        value = sources[value]
    return value


def _written(steps: Sequence[Step]) -> list[Value]:
    """What steps write: where they call it by another name, it itself, too."""
    sources = alias_sources(steps)
    found: list[Value] = []
    for step in steps:
        for value in touched(step)[1]:
            found.append(value)
            while value in sources and not isinstance(step, Alias):
                value = sources[value]
                found.append(value)
    return found


def sets_symbols(step: Step) -> bool:
    """Whether a step gives a value to a size."""
    match step:
        case BindDims():
            return True
        case Launch():
            return any(isinstance(s, SetDim) for s in walk(step.kernel.body))
        case Branch():
            return any(sets_symbols(one) for one in (*step.then, *step.otherwise))
        case Repeat():
            return bool(step.count) or any(sets_symbols(one) for one in step.body)
        case _:
            return False
