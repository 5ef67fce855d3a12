"""Loop: settled while reading where that is possible, else a region of the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import onnx

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import agreed_size, with_shape
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.known import known_array
from bessemer.frontends.onnx_reader.operators.loop_appends import (
    Append,
    appended,
    appends_of,
    stacking,
)
from bessemer.frontends.onnx_reader.operators.loop_code import Code
from bessemer.frontends.onnx_reader.operators.loop_counts import (
    counted_trips,
    is_unlimited,
    known_trips,
)
from bessemer.frontends.onnx_reader.operators.loop_growth import (
    ROOM,
    Buffers,
    Lengths,
    Place,
    exceeded,
    known_capacities,
)
from bessemer.frontends.onnx_reader.operators.loop_invariants import kept_places
from bessemer.frontends.onnx_reader.operators.loop_node import (
    ChangesTypeError,
    loop_node,
    not_negative,
    returned,
)
from bessemer.frontends.onnx_reader.operators.loop_unrolled import (
    can_unroll,
    ends_in_time,
    unrolled,
)
from bessemer.frontends.onnx_reader.registry import rule


@rule("Loop")
def read_loop(context: NodeContext) -> Sequence[Item]:
    body = context.graph("body")
    initial = context.items[2:]
    if len(body.input) != 2 + len(initial) or len(body.output) < 1 + len(initial):
        context.wrong(
            f"the body takes {len(body.input)} and gives {len(body.output)} values where the loop"
            f" carries {len(initial)}"
        )
    appends = {} if ends_in_time(context) else appends_of(body)
    if appends:
        return _appending(context, body, appends)
    code = Code.of(body, initial)
    has_others = any(not isinstance(item, Value) for item in initial)
    if has_others and (ends_in_time(context) or can_unroll(context, body)):
        return unrolled(context, body, initial, "sequences that a loop carries")
    values = code.values(context, initial)
    try:
        return code.items(_loop(context, code, values))
    except ChangesTypeError as change:
        if not change.places or can_unroll(context, body):
            return unrolled(context, body, initial, str(change))
        return code.items(_growing(context, code, values, change.places))


def _appending(
    context: NodeContext, body: onnx.GraphProto, appends: Mapping[int, Append]
) -> list[Item]:
    """A loop that appends to some of what it carries."""
    initial = context.items[2:]
    carried = [item for place, item in enumerate(initial) if place not in appends]
    wholes = [(initial[place], append) for place, append in appends.items()]
    code = Code.of(stacking(body, appends), carried)
    try:
        found = _loop(context, code, code.values(context, carried), wholes)
    except ChangesTypeError as change:
        if not change.places:
            context.unsupported(f"{change}, in a loop whose trip count is known when it runs")
        whole = Code.of(body, initial)
        return whole.items(_growing(context, whole, whole.values(context, initial), ()))
    outputs, stacked = code.items(found[: -len(appends)]), found[-len(appends) :]
    for (place, append), entries in zip(appends.items(), context.values(stacked)):
        outputs.insert(place, appended(context, initial[place], append, entries))
    return outputs


def _entry_of_one_size(inside: GraphBuilder, entry: Value, whole: Item, append: Append) -> Value:
    """What is appended may differ from iteration to iteration along the axis of concatenation,
    what is stacked may not. Its other sizes are the whole's, whatever they are computed from."""
    shape = entry.type.shape
    if append.axis is not None and isinstance(whole, Value) and whole.type.rank == len(shape) > 0:
        axis = append.axis % len(shape)
        others = whole.type.shape[:axis] + shape[axis : axis + 1] + whole.type.shape[axis + 1 :]
        for size, other in zip(shape, others):
            agreed_size(inside, other, size)
        entry = with_shape(inside, entry, others)
    made_inside = {name for node in inside.nodes for name in defined_symbols(node)}
    if any(dims.symbol_names(size) & made_inside for size in entry.type.shape):
        raise ChangesTypeError(f"entries of {entry.type}, whose size differs")
    return entry


def _scalar(context: NodeContext, position: int) -> Value | None:
    value = context.optional(position)
    return None if value is None else context.reshape(value, ())


def _loop(
    context: NodeContext,
    body: Code,
    carried: list[Value],
    appends: Sequence[tuple[Item, Append]] = (),
) -> list[Item]:
    """The loop; the last things that it stacks are what it appends to `appends`."""
    trips, condition = _controls(context)
    read = _Body(context, body, carried)
    b, kept = read.region.builder, read.kept
    results = returned(read.region, read.state, read.results)
    stacked = len(results) - len(appends)
    results[stacked:] = [
        _entry_of_one_size(b, entry, *append) for entry, append in zip(results[stacked:], appends)
    ]
    results, moving = _without(results, kept), _without(carried, kept)
    has_condition = _may_stop(read)
    starts = condition is None or _is_true(context.builder, condition)
    if has_condition and is_unlimited(context.builder, trips):
        changes = list(zip(moving, _without(read.state, kept), results))
        asked = (condition, read.keep_going)
        trips = counted_trips(context.builder, b, asked, read.iteration, changes)
        if trips is not None:
            condition, starts, has_condition = None, True, False
    outputs = [read.keep_going if has_condition else read.going, *results]
    made = known_trips(context.builder, trips) if starts and not has_condition else None
    asks = has_condition or not starts
    found = loop_node(
        context, read.region, (trips, condition), moving, outputs, has_condition=asks, made=made
    )
    return _with_kept(found, carried, kept)


def _growing(
    context: NodeContext, body: Code, carried: list[Value], places: Collection[Place]
) -> list[Item]:
    """A loop of which some carried tensors change their sizes."""
    lengths, capacities = _lengths_and_capacities(context, body, carried, frozenset(places))
    if capacities is None:
        capacities = _measured_capacities(context, body, carried, lengths)
    buffers = Buffers(lengths, tuple(capacities))
    read, results, lengths_after = _held(context, body, carried, buffers)
    trips, condition = _controls(context)
    has_condition = _may_stop(read)
    if has_condition and is_unlimited(context.builder, trips):
        trips = None
    starts = condition is None or _is_true(context.builder, condition)
    kept, filled = read.kept, buffers.filled(context.builder, carried)
    moving = [*_without(filled, kept), context.builder.sizes(lengths.of(carried))]
    count = len(moving) - 1
    changing = {name for size in lengths.of(read.state) for name in dims.symbol_names(size)}
    for value in results[count:]:
        if any(dims.symbol_names(size) & changing for size in value.type.shape):
            context.unsupported(f"a loop that stacks slices of {value.type}, whose size changes")
    outputs = [read.keep_going if has_condition else read.going]
    outputs += [*results[:count], lengths_after, *results[count:]]
    made = known_trips(context.builder, trips) if starts and not has_condition else None
    asks = has_condition or not starts
    found = context.values(
        loop_node(
            context, read.region, (trips, condition), moving, outputs, has_condition=asks, made=made
        )
    )
    sizes = context.builder.bind(found.pop(count), "length_")
    whole = context.values(_with_kept([*found], carried, kept))
    return [
        lengths.begun(context.builder, value, number, sizes) if number in lengths.numbers else value
        for number, value in enumerate(whole)
    ]


def _held(
    context: NodeContext, body: Code, carried: Sequence[Value], buffers: Buffers
) -> tuple[_Body, list[Value], Value]:
    """The body between buffers, what it gives without what it hands on, and the lengths."""
    read = _Body(context, body, carried, buffers)
    results = returned(read.region, read.state, read.results, buffers.lengths.places)
    count = len(carried)
    whole, lengths_after = buffers.closed(read.region.builder, results[:count])
    return read, _without([*whole, *results[count:]], read.kept), lengths_after


def _lengths_and_capacities(
    context: NodeContext,
    body: Code,
    carried: Sequence[Value],
    places: frozenset[Place],
) -> tuple[Lengths, list[Size] | None]:
    """All places whose sizes change if these do, and the most that each gets, if sizes say so."""
    while True:
        lengths = Lengths(tuple(sorted(places)))
        names = [context.builder.fresh_symbol("length_") for _ in lengths.places]
        sizes = [dims.symbol(name) for name in names]
        looks = [
            Value(lengths.with_sizes(value.type, number, sizes), value.name)
            if number in lengths.numbers
            else value
            for number, value in enumerate(carried)
        ]
        read = _Body(context, body, looks)
        try:
            results = returned(read.region, looks, read.results, places, names)
            break
        except ChangesTypeError as change:
            if change.places <= places:
                raise
            places |= change.places
    trips = _most_trips(context)
    if trips is None:
        return lengths, None
    inside = {name for node in read.region.builder.nodes for name in defined_symbols(node)}
    ends = lengths.of(results)
    starts = lengths.of(carried)
    return lengths, known_capacities(starts, sizes, ends, {*names, *inside}, trips)


def _most_trips(context: NodeContext) -> Size | None:
    """A number of iterations that the loop cannot exceed."""
    b = context.builder
    trips = _scalar(context, 0)
    if is_unlimited(b, trips) or trips is None:
        return None
    known = known_trips(b, trips)
    if known is not None:
        return known
    return b.bind(not_negative(b, context.cast(trips, i64)), "trips_")[0]


def _measured_capacities(
    context: NodeContext, body: Code, carried: Sequence[Value], lengths: Lengths
) -> list[Size]:
    """Capacities that suffice, from a run of the loop for each of some that grow."""
    b = context.builder
    region = context.subgraphs.new_region("attempt")
    inside = region.builder
    inside.input("attempt", TensorType(i64, ()))
    inside.input("exceeded", TensorType(boolean, ()))
    tried = inside.input("capacities", lengths.type)
    buffers = Buffers(lengths, inside.bind(tried, "capacity_"), measures=True)
    items = tuple(region.capture(v) if isinstance(v, Value) else v for v in context.items)
    attempt = replace(context, builder=inside, subgraphs=region, items=items)
    initial = [region.capture(value) for value in carried]
    read, results, lengths_after = _held(attempt, body, initial, buffers)
    trips, condition = _controls(attempt)
    if is_unlimited(inside, trips):
        trips = None
    going = buffers.goes_on(read.region.builder, read.keep_going, read.results)
    moving = [*_without(buffers.filled(inside, initial), read.kept)]
    outputs = [going, *results[: len(moving)], lengths_after]
    moving.append(inside.sizes(lengths.of(initial)))
    found = loop_node(attempt, read.region, (trips, condition), moving, outputs, has_condition=True)
    again, wider = exceeded(inside, context.values(found)[-1], tried)
    first = b.sizes([size + ROOM for size in lengths.of(carried)])
    (most,) = context.values(
        loop_node(context, region, (None, None), [first], [again, wider], has_condition=True)
    )
    return list(b.bind(most, "capacity_"))


def _with_kept(found: list[Item], carried: Sequence[Value], kept: set[int]) -> list[Item]:
    for place in sorted(kept):
        found.insert(place, carried[place])
    return found


def _controls(context: NodeContext) -> tuple[Value | None, Value | None]:
    """The trip count and the condition that the loop starts with."""
    trips, condition = _scalar(context, 0), _scalar(context, 1)
    if trips is None and condition is None:
        context.wrong("neither a trip count nor a condition ends it")
    return trips, condition


class _Body:
    """The body, read into a region of its own; what it hands on unchanged is captured.

    `state` is what the body sees. With `buffers`, what changes its sizes comes in as a buffer, and
    behind all that is carried the lengths.
    """

    def __init__(
        self,
        context: NodeContext,
        body: Code,
        carried: Sequence[Value],
        buffers: Buffers | None = None,
    ) -> None:
        self.kept = kept_places(body.graph)
        self.region = context.subgraphs.new_region("body")
        b = self.region.builder
        self.iteration = b.input("iteration", TensorType(i64, ()))
        self.going = b.input("condition", TensorType(boolean, ()))
        moving = {
            place: b.input(value.name, buffers.type(value, place) if buffers else value.type)
            for place, value in enumerate(carried)
            if place not in self.kept
        }
        lengths = [b.input("lengths", buffers.lengths.type)] if buffers else []
        state = [
            moving[place] if place in moving else self.region.capture(value)
            for place, value in enumerate(carried)
        ]
        self.state = buffers.opened(b, state, *lengths) if buffers else state
        first = [
            _as_declared(b, value, body.graph, position)
            for position, value in enumerate((self.iteration, self.going))
        ]
        found = self.region.read(body.graph, [*first, *body.items(self.state)])
        inside = replace(context, builder=b, subgraphs=self.region)
        (keep_going,), self.results = context.values(found[:1]), body.values(inside, found[1:])
        self.keep_going = (
            b.apply("reshape", keep_going, shape=()) if keep_going.type.rank else keep_going
        )


def _without(values: Sequence[Value], places: set[int]) -> list[Value]:
    return [value for place, value in enumerate(values) if place not in places]


def _as_declared(b: GraphBuilder, value: Value, body: onnx.GraphProto, position: int) -> Value:
    """A scalar, as a vector of one where the body declares it so."""
    declared = body.input[position].type.tensor_type
    if declared.HasField("shape") and len(declared.shape.dim) == 1:
        return b.apply("reshape", value, shape=(1,))
    return value


def _may_stop(read: _Body) -> bool:
    """Whether the body's condition ever says that the loop ends."""
    return read.keep_going is not read.going and not _is_true(read.region.builder, read.keep_going)


def _is_true(builder: GraphBuilder, condition: Value) -> bool:
    known = known_array(builder, condition)
    return known is not None and bool(known.reshape(-1)[0])
