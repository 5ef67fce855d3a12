"""Lets operators with kernels of their own write into the caller's array, also if the network's
output is a reshape of what they compute.

    scatter_elements(...) -> %3 : f32[24]
    alias %4 : f32[2,3,4] of %3, an output           becomes   scatter_elements(...) -> %4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.program import Alias, Copy, Launch, Step
from bessemer.compiler.ir.walk_steps import touched
from bessemer.compiler.schedule.grouping.kinds import kind_of


def reshaped_outputs(graph: Graph) -> dict[Value, Value]:
    """The outputs that are a reshape of such a value, by that value. All sizes are known, and only
    kernels read the values."""
    producers, users = graph.producers(), graph.users()
    found: dict[Value, Value] = {}
    for output in graph.outputs:
        node = producers.get(output)
        if node is None or node.operator.name != "reshape" or graph.outputs.count(output) > 1:
            continue
        (value,) = node.inputs
        maker = producers.get(value)
        if maker is None or kind_of(maker) != "statements" or maker.operator.capacity is not None:
            continue
        is_kept = value in graph.outputs or value in found
        is_read = any(kind_of(user) == "structural" for user in users[value])
        if not is_kept and not is_read and all(isinstance(size, int) for size in value.type.shape):
            found[value] = output
    return found


def write_reshaped_outputs(
    steps: Sequence[Step], outputs: Mapping[Value, Value]
) -> tuple[Step, ...]:
    """The steps, with outputs in place of the values that they are reshapes of."""
    aliases = [
        step
        for step in steps
        if isinstance(step, Alias) and outputs.get(step.source) is step.target
    ]
    places = {step.source: step.target for step in aliases}
    copies = [
        step
        for step in steps
        if isinstance(step, Copy) and step.target in places and _is_only_copied(step.source, steps)
    ]
    places |= {step.source: places[step.target] for step in copies}
    dropped: set[Step] = {*aliases, *copies}
    return tuple(_renamed(step, places) for step in steps if step not in dropped)


def _is_only_copied(value: Value, steps: Sequence[Step]) -> bool:
    """Whether launches write a value, and a single step reads it."""
    writers = [step for step in steps if value in touched(step)[1]]
    readers = [step for step in steps if value in touched(step)[0]]
    return len(readers) == 1 and bool(writers) and all(isinstance(w, Launch) for w in writers)


def _renamed(step: Step, places: Mapping[Value, Value]) -> Step:
    """The step with other values. If it touches none of these, the same object, since launches are
    known by identity elsewhere."""
    match step:
        case Launch() if not places.keys().isdisjoint(step.values):
            return replace(
                step,
                values=tuple(places.get(value, value) for value in step.values),
                replaceable=tuple(places.get(value, value) for value in step.replaceable),
            )
        case Copy(source, target) | Alias(source, target):
            return type(step)(places.get(source, source), places.get(target, target))
        case _:
            return step
