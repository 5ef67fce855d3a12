"""Averages of the parameters over the steps, newer ones counting more: often they generalize better
than the parameters themselves (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.frontends.given_sizes import is_number

_SLOT = "average"


def check_average(share: object) -> None:
    """Raises CompileError for what is no share of an average that is kept from step to step."""
    if not is_number(share) or not 0 <= share < 1:
        raise CompileError(f"Trainer: average is {share!r}; it must be a share below 1, as 0.999.")


def with_averages(
    b: GraphBuilder,
    parameters: Mapping[str, Value],
    slots: Mapping[str, Value],
    after: Mapping[str, Value],
    step: Value,
    share: float,
) -> tuple[dict[str, Value], dict[str, Value]]:
    """More slots, and their values after a step: share * average + (1 - share) * parameter.

    The first of the steps, which `step` counts from 1, sets the averages. `after` has the
    parameters after the step.
    """
    slots, after = dict(slots), dict(after)
    is_first = binary(b, "eq", step, 1.0)
    for name in parameters:
        now, slot = after[name], f"{name}.{_SLOT}"
        with b.source(name):
            slots[slot] = b.input(slot, now.type)
            change = binary(b, "mul", b.apply("sub", now, slots[slot]), 1 - share)
            moved = b.apply("add", slots[slot], change)
            after[slot] = where(b, is_first, now, moved)
    return slots, after


def first_averages(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The slots before the first step, for parameters with these arrays."""
    return {f"{name}.{_SLOT}": array for name, array in arrays.items()}


def averaged_state(state: Mapping[str, Array]) -> dict[str, Array]:
    """A state with averages in place of the parameters that have one."""
    return {name: state.get(f"{name}.{_SLOT}", array) for name, array in state.items()}


def averages_in(state: Mapping[str, Array], parameters: Iterable[str]) -> dict[str, Array]:
    """Copies of the averages, by their parameters' names. Raises CompileError if there are none."""
    found = averaged_state(state)
    if all(found[name] is state[name] for name in parameters):
        raise CompileError("This Trainer keeps no averages; make it with average=0.999.")
    return {name: found[name].copy() for name in parameters}
