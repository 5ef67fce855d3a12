"""The graph's loop for ONNX's Loop and Scan, once the body has been read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.ir.types import i64
from bessemer.frontends.onnx_reader.context import NodeContext, Region
from bessemer.frontends.onnx_reader.equal_sizes import agreed_size, differ_as_a_rule, with_shape
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.loop_counts import known_trips
from bessemer.frontends.onnx_reader.operators.loop_growth import Place


class ChangesTypeError(Exception):
    """A carried value comes back from the body with another type.

    `places` are those whose sizes differ, if nothing else does.
    """

    def __init__(self, message: str, places: Collection[Place] = ()) -> None:
        super().__init__(message)
        self.places = frozenset(places)


def returned(
    region: Region,
    carried: Sequence[Value],
    results: Sequence[Value],
    changing: Collection[Place] = (),
    lengths: Collection[str] = (),
) -> list[Value]:
    """The body's results, the carried ones in the types that they had at the start, but for sizes
    at the places that are `changing`. What depends on `lengths`, sizes there, is not a size from
    before the loop. Where some change, so does what starts with a prompt of any length and goes on
    with one token: elsewhere, a size and a number are taken to be equal.

    Raises ChangesTypeError where their types are others.
    """
    kept = list(results)
    differing: dict[Place, str] = {}
    decided = _decided_inside(region.builder) | set(lengths)
    for number, (start, end) in enumerate(zip(carried, results)):
        if start.type == end.type:
            continue
        message = f"a carried value that starts as {start.type}, then {end.type}"
        if start.type.dtype != end.type.dtype or start.type.rank != end.type.rank:
            raise ChangesTypeError(message)
        shape = list(start.type.shape)
        for axis, (one, other) in enumerate(zip(start.type.shape, end.type.shape)):
            if (number, axis) in changing:
                shape[axis] = other
            elif (
                dims.symbol_names(other) & decided
                or (changing and isinstance(one, int) != isinstance(other, int))
                or not _agree(region.builder, one, other)
            ):
                differing[number, axis] = message
        if not differing:
            kept[number] = with_shape(region.builder, end, tuple(shape))
    if differing:
        raise ChangesTypeError(next(iter(differing.values())), differing)
    return kept


def _decided_inside(builder: GraphBuilder) -> set[str]:
    """The sizes that differ between the branches of an If, that a loop's lengths say, or that
    count elements found."""
    found: set[str] = set()
    for node in builder.nodes:
        is_decided = True
        if node.operator.name == "bind":
            origin = builder.producer(node.inputs[0])
            is_decided = origin is not None and origin.operator.name == "loop"
        if is_decided:
            found.update(defined_symbols(node))
    return found


def _agree(builder: GraphBuilder, one: Size, other: Size) -> bool:
    if differ_as_a_rule(one, other):
        return False
    try:
        agreed_size(builder, one, other)
    except CompileError:
        return False
    return True


def loop_node(
    context: NodeContext,
    region: Region,
    controls: tuple[Value | None, Value | None],
    carried: Sequence[Value],
    outputs: Sequence[Value],
    *,
    has_condition: bool,
    made: Size | None = None,
) -> list[Item]:
    """The loop; `controls` are its trip count and its first condition. It `has_condition` where the
    first output says whether to go on; `made` is the number of iterations, where that is known."""
    b = context.builder
    trips, condition = controls
    scans = len(outputs) - 1 - len(carried)
    if scans and trips is not None:
        trips = not_negative(b, context.cast(trips, i64))
    results = b.apply_many(
        "loop",
        b.constant(np.array(0, np.int64)) if trips is None else context.cast(trips, i64),
        b.constant(np.array(True)) if condition is None else condition,
        *carried,
        *region.captured,
        regions=(region.builder.finish(outputs),),
        carried=len(carried),
        has_trips=trips is not None,
        has_condition=has_condition,
        scans=scans,
        count=b.fresh_symbol("loop_") if scans else "",
    )
    stacked = list(results[len(carried) :])
    if made is not None:
        stacked = [with_shape(b, value, (made, *value.type.shape[1:])) for value in stacked]
    return [*results[: len(carried)], *stacked]


def not_negative(b: GraphBuilder, trips: Value) -> Value:
    """A trip count which is also the number of slices."""
    known = known_trips(b, trips)
    if known is not None:
        return b.scalar_size(known)
    return b.apply("max", trips, b.constant(np.array(0, np.int64)))


def stacked_rows(context: NodeContext, parts: Sequence[Value]) -> Value:
    """The parts along a new first axis."""
    rows = [context.reshape(part, (1, *part.type.shape)) for part in parts]
    return rows[0] if len(rows) == 1 else context.apply("concat", *rows, axis=0)
