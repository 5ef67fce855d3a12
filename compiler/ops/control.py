"""Control flow: a choice between two regions, and a loop around one.

Regions see only their inputs: what they read of the outer graph is captured, that is, passed as
further inputs of the node.
"""

from __future__ import annotations

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.op import Operator, register
from bessemer.compiler.ir.types import Array, TensorType, boolean, i64
from bessemer.compiler.ops.check import listed, require

_CONDITION = TensorType(boolean, ())
_COUNT = TensorType(i64, ())


def _types(region: Graph) -> tuple[list[TensorType], list[TensorType]]:
    return [value.type for value in region.inputs], [value.type for value in region.outputs]


def _if_infer(
    condition: TensorType, *captures: TensorType, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    """regions: (then, otherwise), both with the captures as inputs and the same output types."""
    require(condition == _CONDITION, f"if wants a bool scalar as condition, but got {condition}.")
    require(len(regions) == 2, f"if wants two regions, not {len(regions)}.")
    for region in regions:
        inputs, _ = _types(region)
        require(
            inputs == list(captures),
            f"if passes {listed(captures)} to a branch that wants {listed(inputs)}.",
        )
    then, otherwise = (_types(region)[1] for region in regions)
    require(
        then == otherwise,
        f"the branches of an if must give the same types, but one gives {listed(then)} and the "
        f"other {listed(otherwise)}.",
    )
    return tuple(then)


def _loop_infer(
    trips: TensorType,
    condition: TensorType,
    *values: TensorType,
    carried: int,
    has_trips: bool,
    has_condition: bool,
    scans: int,
    count: str,
    regions: tuple[Graph, ...],
) -> tuple[TensorType, ...]:
    """The body maps (iteration, condition, *carried, *captures) to (condition, *carried, *slices).

    `trips` and `condition` are always inputs; without has_trips, has_condition they do not count.
    Outputs: the carried values at the end, then the slices of all iterations, stacked; `count`
    names the number of iterations made, and is "" when there is nothing to stack.
    """
    require(trips == _COUNT, f"loop wants an i64 scalar as trip count, but got {trips}.")
    require(condition == _CONDITION, f"loop wants a bool scalar as condition, but got {condition}.")
    require(len(regions) == 1, f"loop wants one region, not {len(regions)}.")
    require(len(values) >= carried, f"loop carries {carried} values, but got {len(values)}.")
    inputs, outputs = _types(regions[0])
    wanted = [_COUNT, _CONDITION, *values]
    require(
        inputs == wanted, f"loop passes {listed(wanted)} to a body that wants {listed(inputs)}."
    )
    require(
        len(outputs) == 1 + carried + scans and outputs[0] == _CONDITION,
        f"loop wants a body that gives a condition, {carried} carried values and {scans} slices, "
        f"but it gives {listed(outputs)}.",
    )
    require(
        outputs[1 : 1 + carried] == list(values[:carried]),
        f"the values that a loop carries must keep their types: they start as "
        f"{listed(values[:carried])} and come back as {listed(outputs[1 : 1 + carried])}.",
    )
    require(bool(count) or not scans, "loop with slices to stack wants a symbol for their number.")
    stacked = [
        slice_.with_shape((symbol(count), *slice_.shape)) for slice_ in outputs[1 + carried :]
    ]
    return (*outputs[1 : 1 + carried], *stacked)


def _reference(*arrays: Array, **attributes: object) -> tuple[Array, ...]:
    raise InternalError("regions are run by ir/interpreter/interpret.py, which knows how")


register(Operator("if", _if_infer, _reference, gradient=None))
register(Operator("loop", _loop_infer, _reference, gradient=None))
