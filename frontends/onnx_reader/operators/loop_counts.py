"""How often a loop runs that goes on while counters are below bounds, as TensorFlow's all do.

tf2onnx gives `map_fn` and `while_loop` no trip count, only a condition such as `i < batch`, once in
front of the loop and once at the end of its body, where i is the next iteration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.frontends.onnx_reader.known import known_array
from bessemer.frontends.onnx_reader.sizes import UNLIMITED


@dataclass(frozen=True)
class _Counter:
    """A number that starts somewhere and grows by the same step in every iteration."""

    start: Size
    step: int


def known_trips(b: GraphBuilder, trips: Value | None) -> Size | None:
    """A trip count that is known before the run."""
    sizes = None if trips is None else b.known_sizes(trips)
    return None if sizes is None else dims.maximum(sizes[0], 0)


def is_unlimited(b: GraphBuilder, trips: Value | None) -> bool:
    """Whether only a condition ends a loop; exporters write the largest integer then."""
    sizes = (UNLIMITED,) if trips is None else b.known_sizes(trips)
    return sizes is not None and isinstance(sizes[0], int) and sizes[0] >= UNLIMITED


def counted_trips(
    outside: GraphBuilder,
    inside: GraphBuilder,
    asked: tuple[Value | None, Value],
    iteration: Value,
    carried: Sequence[tuple[Value, Value, Value]],
) -> Value | None:
    """The number of iterations, where the condition in front of the loop and the one at the end of
    its body ask nothing but whether counters are below sizes.

    `carried` are the carried values as they are before the loop, where the body begins, and where
    it ends.
    """
    begins, goes_on = asked
    first = [] if begins is None else _less(outside, begins)
    later = _less(inside, goes_on)
    if first is None or not later:
        return None
    counters = {iteration: _Counter(0, 1)}
    for initial, state, end in carried:
        found = _counter(outside, inside, initial, state, end)
        if found is not None:
            counters[state] = found
    made_inside = {name for node in inside.nodes for name in defined_symbols(node)}
    trips: list[Size] = []
    for left, right, slack in later:
        origin, ahead = _moved(inside, left)
        nothing, bound = _moved(inside, right)
        counts = counters.get(origin) if origin is not None else None
        if counts is None or nothing is not None or dims.symbol_names(bound) & made_inside:
            return None
        room = bound + slack - ahead - counts.start
        trips.append(1 + dims.ceildiv(room, counts.step))
    made = _with_first_test(outside, first, trips)
    return None if made is None else outside.scalar_size(made)


def _counter(
    outside: GraphBuilder, inside: GraphBuilder, initial: Value, state: Value, end: Value
) -> _Counter | None:
    start = outside.known_sizes(initial)
    origin, step = _moved(inside, end)
    if start is None or len(start) != 1 or origin is not state:
        return None
    return _Counter(start[0], step) if isinstance(step, int) and step > 0 else None


_Comparison = tuple[Value, Value, int]
"""left, right, slack: whether left < right + slack."""


def _with_first_test(
    outside: GraphBuilder, first: Sequence[_Comparison], trips: Sequence[Size]
) -> Size | None:
    """The least of `trips`, if the tests in front of the loop fail just where that is none."""
    rooms: set[Size] = set()
    for left, right, slack in first:
        (one, before), (other, bound) = _moved(outside, left), _moved(outside, right)
        if one is not None or other is not None:
            return None
        rooms.add(bound + slack - before)
    if any(not dims.is_nonnegative(size - 1) and size not in rooms for size in trips):
        return None
    if any(not dims.is_nonnegative(room - 1) and room not in trips for room in rooms):
        return None
    return dims.maximum(0, reduce(dims.minimum, trips))


def _less(b: GraphBuilder, value: Value) -> list[_Comparison] | None:
    """The comparisons that all have to hold; None where there is anything else."""
    known = known_array(b, value)
    if known is not None:
        return [] if known.size == 1 and known.reshape(-1)[0] else None
    node = b.producer(value)
    if node is None or node.outputs[0].type.numel != 1:
        return None
    name = node.operator.name
    if name == "not":
        inner = b.producer(node.inputs[0])
        opposite = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}
        return _compared(opposite.get(inner.operator.name, ""), inner) if inner else None
    if name in ("cast", "reshape"):
        return _less(b, node.inputs[0])
    if name == "and":
        one, other = (_less(b, item) for item in node.inputs)
        return None if one is None or other is None else [*one, *other]
    return _compared(name, node)


def _compared(name: str, node: Node) -> list[_Comparison] | None:
    match name:
        case "lt" | "le":
            return [(node.inputs[0], node.inputs[1], int(name == "le"))]
        case "gt" | "ge":
            return [(node.inputs[1], node.inputs[0], int(name == "ge"))]
        case _:
            return None


def _moved(b: GraphBuilder, value: Value) -> tuple[Value | None, Size]:
    """One number as (what it is counted from, how far away): of a size, only how far."""
    distance: Size = 0
    while value.type.numel == 1:
        known = _number(b, value)
        if known is not None:
            return None, distance + known
        node = b.producer(value)
        if node is None:
            break
        given = [b.known_sizes(item) for item in node.inputs]
        match node.operator.name, given:
            case (("cast" | "reshape" | "broadcast_to"), _):
                pass  # the numbers are integers before a cast to a float, too
            case "add", [None, [step]]:
                distance = distance + step
            case "sub", [None, [step]]:
                distance = distance - step
            case "add", [[step], None]:
                distance, value = distance + step, node.inputs[1]
                continue
            case _:
                break
        value = node.inputs[0]
    return value, distance


def _number(b: GraphBuilder, value: Value) -> Size | None:
    """One known number: a size, or a whole number that an exporter has folded a cast of."""
    sizes = b.known_sizes(value)
    if sizes is not None:
        return sizes[0]
    array = known_array(b, value)
    if array is None or array.dtype.kind != "f":
        return None
    number = float(array.reshape(-1)[0])
    return int(number) if number.is_integer() else None
