"""Loop and Scan: settled while reading where that is possible, else regions of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.ir.types import Array, TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite_shape import flip
from bessemer.frontends.onnx_reader.agree import (
    agreed_size,
    differ_as_a_rule,
    with_shape,
)
from bessemer.frontends.onnx_reader.context import NodeContext, Region
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.known import known_array
from bessemer.frontends.onnx_reader.loop_appends import Append, appended, appends_of, stacking
from bessemer.frontends.onnx_reader.loop_counts import counted_trips, is_unlimited, known_trips
from bessemer.frontends.onnx_reader.loop_invariants import kept_places
from bessemer.frontends.onnx_reader.registry import rule

_UNROLLED = 256
"""A loop that cannot be one is unrolled if it makes at most this many iterations."""


@rule("Loop")
def read_loop(context: NodeContext) -> Sequence[Item]:
    body = context.graph("body")
    initial = context.items[2:]
    if len(body.input) != 2 + len(initial) or len(body.output) < 1 + len(initial):
        context.wrong(
            f"the body takes {len(body.input)} and gives {len(body.output)} values where the loop"
            f" carries {len(initial)}"
        )
    appends = {} if _ends_in_time(context) else appends_of(body)
    if appends:
        return _appending(context, body, appends)
    if any(not isinstance(item, Value) for item in initial):
        return _unrolled(context, body, initial, "sequences that a loop carries")
    values = context.values(initial)
    try:
        return _loop(context, body, values)
    except _ChangesTypeError as change:
        return _unrolled(context, body, initial, str(change))


def _ends_in_time(context: NodeContext) -> bool:
    """Whether a loop may be unrolled, as far as what stands in front of it says."""
    trips = context.array(0)
    asks = context.optional(1) is not None and context.array(1) is None
    return trips is not None and int(trips.reshape(-1)[0]) <= _UNROLLED and not asks


def _appending(
    context: NodeContext, body: onnx.GraphProto, appends: Mapping[int, Append]
) -> list[Item]:
    """A loop that appends to some of what it carries."""
    initial = context.items[2:]
    carried = [item for place, item in enumerate(initial) if place not in appends]
    wholes = [(initial[place], append) for place, append in appends.items()]
    try:
        found = _loop(context, stacking(body, appends), context.values(carried), wholes)
    except _ChangesTypeError as change:
        context.unsupported(f"{change}, in a loop whose trip count is known when it runs")
    outputs, stacked = found[: -len(appends)], found[-len(appends) :]
    for (place, append), entries in zip(appends.items(), context.values(stacked)):
        outputs.insert(place, appended(context, initial[place], append, entries))
    return outputs


class _ChangesTypeError(Exception):
    """A carried value comes back from the body with another type."""


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
        raise _ChangesTypeError(f"entries of {entry.type}, whose size differs")
    return entry


def _scalar(context: NodeContext, position: int) -> Value | None:
    value = context.optional(position)
    return None if value is None else context.reshape(value, ())


def _loop(
    context: NodeContext,
    body: onnx.GraphProto,
    carried: list[Value],
    appends: Sequence[tuple[Item, Append]] = (),
) -> list[Item]:
    """The loop; the last things that it stacks are what it appends to `appends`."""
    trips, condition = _scalar(context, 0), _scalar(context, 1)
    if trips is None and condition is None:
        context.wrong("neither a trip count nor a condition ends it")
    region = context.subgraphs.new_region("body")
    b = region.builder
    iteration = b.input("iteration", TensorType(i64, ()))
    going = b.input("condition", TensorType(boolean, ()))
    kept = kept_places(body)
    state = [
        region.capture(value) if place in kept else b.input(value.name, value.type)
        for place, value in enumerate(carried)
    ]
    given = [_as_declared(region, iteration, body, 0), _as_declared(region, going, body, 1)]
    keep_going, *results = context.values(region.read(body, [*given, *state]))
    results, moving = _without(results, kept), _without(carried, kept)
    stacked = len(results) - len(appends)
    results[stacked:] = [
        _entry_of_one_size(b, entry, *append) for entry, append in zip(results[stacked:], appends)
    ]
    if keep_going.type.rank:
        keep_going = b.apply("reshape", keep_going, shape=())
    results = _returned(region, moving, results)
    has_condition = _may_stop(region, keep_going, going)
    starts = condition is None or _is_true(context.builder, condition)
    if has_condition and is_unlimited(context.builder, trips):
        changes = list(zip(moving, _without(state, kept), results))
        trips = counted_trips(context.builder, b, (condition, keep_going), iteration, changes)
        if trips is not None:
            condition, starts, has_condition = None, True, False
    outputs = [keep_going if has_condition else going, *results]
    made = known_trips(context.builder, trips) if starts and not has_condition else None
    found = _loop_node(
        context, region, trips, condition, has_condition or not starts, moving, outputs, made
    )
    for place in sorted(kept):
        found.insert(place, carried[place])
    return found


def _without(values: Sequence[Value], places: set[int]) -> list[Value]:
    return [value for place, value in enumerate(values) if place not in places]


def _as_declared(region: Region, value: Value, body: onnx.GraphProto, position: int) -> Value:
    """A scalar, as a vector of one where the body declares it so."""
    declared = body.input[position].type.tensor_type
    if declared.HasField("shape") and len(declared.shape.dim) == 1:
        return region.builder.apply("reshape", value, shape=(1,))
    return value


def _returned(region: Region, carried: list[Value], results: list[Value]) -> list[Value]:
    """The body's results, the carried ones in the types that they had at the start."""
    kept = list(results)
    for place, (start, end) in enumerate(zip(carried, results)):
        if start.type == end.type:
            continue
        changes = _ChangesTypeError(f"a carried value that starts as {start.type}, then {end.type}")
        same = start.type.dtype == end.type.dtype and start.type.rank == end.type.rank
        if not same or any(map(differ_as_a_rule, start.type.shape, end.type.shape)):
            raise changes
        try:
            for one, other in zip(start.type.shape, end.type.shape):
                agreed_size(region.builder, one, other)
        except CompileError:
            raise changes from None
        kept[place] = with_shape(region.builder, end, start.type.shape)
    return kept


def _may_stop(region: Region, keep_going: Value, going: Value) -> bool:
    """Whether the body's condition ever says that the loop ends."""
    return keep_going is not going and not _is_true(region.builder, keep_going)


def _is_true(builder: GraphBuilder, condition: Value) -> bool:
    known = known_array(builder, condition)
    return known is not None and bool(known.reshape(-1)[0])


def _loop_node(
    context: NodeContext,
    region: Region,
    trips: Value | None,
    condition: Value | None,
    has_condition: bool,
    carried: Sequence[Value],
    outputs: Sequence[Value],
    made: Size | None,
) -> list[Item]:
    """The loop; `made` is the number of iterations where that is known."""
    b = context.builder
    scans = len(outputs) - 1 - len(carried)
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


def _unrolled(
    context: NodeContext, body: onnx.GraphProto, initial: Sequence[Item], why: str
) -> list[Item]:
    """The body once for each iteration, where their number is known."""
    trips = context.array(0)
    if trips is None and context.optional(0):
        context.unsupported(f"{why}, in a loop whose trip count is known when it runs")
    limit = _UNROLLED + 1 if trips is None else int(trips.reshape(-1)[0])
    going = True
    if context.optional(1) is not None:
        start = context.array(1)
        if start is None:
            context.unsupported(f"{why}, in a loop whose condition is known when it runs")
        going = bool(start.reshape(-1)[0])
    carried = list(initial)
    rows: list[list[Value]] = []
    made = 0
    while going and made < limit:
        if made == _UNROLLED:
            context.unsupported(f"{why}, over more than {_UNROLLED} iterations")
        iteration = context.builder.constant(_shaped(body, 0, np.int64(made)))
        condition = context.builder.constant(_shaped(body, 1, np.bool_(True)))
        keep_going, *results = context.subgraphs.read_inline(body, [iteration, condition, *carried])
        known = known_array(context.builder, keep_going) if isinstance(keep_going, Value) else None
        if known is None:
            context.unsupported(f"{why}, in a loop whose condition is known when it runs")
        going = bool(known.reshape(-1)[0])
        carried = results[: len(carried)]
        rows.append(context.values(results[len(carried) :]))
        made += 1
    scans = len(body.output) - 1 - len(carried)
    if scans and not rows:
        context.unsupported("no iteration, so that what it stacks has no type")
    return [*carried, *(_stacked(context, [row[place] for row in rows]) for place in range(scans))]


def _shaped(body: onnx.GraphProto, position: int, number: np.generic) -> Array:
    declared = body.input[position].type.tensor_type
    is_vector = declared.HasField("shape") and len(declared.shape.dim) == 1
    return np.array([number] if is_vector else number)


def _stacked(context: NodeContext, parts: Sequence[Value]) -> Value:
    rows = [context.reshape(part, (1, *part.type.shape)) for part in parts]
    return rows[0] if len(rows) == 1 else context.apply("concat", *rows, axis=0)


# Scan


@rule("Scan")
def read_scan(context: NodeContext) -> list[Item]:
    if context.opset < 9:
        return _batched_scan(context)
    sources = context.integer("num_scan_inputs")
    values = context.tensors()
    states = len(values) - sources
    if sources < 1 or states < 0:
        context.wrong(f"{sources} scan inputs among {len(values)}")
    carried, scanned = values[:states], values[states:]
    given = context.integers("scan_input_axes", (0,) * sources)
    axes = [context.axis(value.type.rank, axis) for value, axis in zip(scanned, given, strict=True)]
    directions = context.integers("scan_input_directions", (0,) * sources)
    found = _scanned(context, carried, scanned, axes, directions)
    return [*found[:states], *_arranged(context, found[states:])]


def _batched_scan(context: NodeContext) -> list[Item]:
    """Scan as it was before opset 9: the first axis of everything counts independent scans."""
    sources = context.integer("num_scan_inputs")
    if context.optional(0) is not None:
        context.unsupported("Scan with sequence_lens, as it was before opset 9")
    values = [context.input(position) for position in range(1, len(context))]
    batch, states = values[-1].type.shape[0], len(values) - sources
    if not isinstance(batch, int) or not 0 < batch <= _UNROLLED:
        context.unsupported(f"Scan as it was before opset 9, over {values[-1].type}")
    directions = context.integers("directions", (0,) * sources)
    rows: list[list[Value]] = []
    for number in range(batch):
        place = context.builder.constant(np.array(number, np.int64))
        one = [context.apply("gather", value, place, axis=0) for value in values]
        axes = (0,) * sources
        rows.append(_scanned(context, one[:states], one[states:], axes, directions))
    return [_stacked(context, parts) for parts in zip(*rows)]


def _scanned(
    context: NodeContext,
    carried: list[Value],
    scanned: list[Value],
    axes: Sequence[int],
    directions: Sequence[int],
) -> list[Value]:
    """The last states, and what the iterations give, stacked along a new first axis."""
    body = context.graph("body")
    scans = len(body.output) - len(carried)
    if scans < 0 or len(body.input) != len(carried) + len(scanned):
        context.wrong(f"{len(scanned)} scan inputs and {len(carried)} states do not fit the body")
    trips: Size = scanned[0].type.shape[axes[0]]
    for value, axis in zip(scanned, axes):
        trips = agreed_size(context.builder, trips, value.type.shape[axis])
    region = context.subgraphs.new_region("body")
    b = region.builder
    iteration = b.input("iteration", TensorType(i64, ()))
    going = b.input("condition", TensorType(boolean, ()))
    state: list[Item] = [b.input(value.name, value.type) for value in carried]
    for value, axis, backwards in zip(scanned, axes, directions, strict=True):
        place = iteration
        if backwards:
            place = b.apply("sub", b.scalar_size(trips - 1), iteration)
        state.append(b.apply("gather", region.capture(value), place, axis=axis))
    results = context.values(region.read(body, state))
    try:
        results = _returned(region, carried, results)
    except _ChangesTypeError as change:
        context.wrong(str(change))
    found = _loop_node(
        context, region, context.builder.scalar_size(trips), None, False, carried,
        [going, *results], trips,
    )  # fmt: skip
    return context.values(found)


def _arranged(context: NodeContext, stacked: Sequence[Value]) -> list[Item]:
    """Scan outputs with the stacked axis where the node wants it, and in its direction."""
    count = len(stacked)
    axes = context.integers("scan_output_axes", (0,) * count)
    directions = context.integers("scan_output_directions", (0,) * count)
    result: list[Item] = []
    for value, given, backwards in zip(stacked, axes, directions, strict=True):
        if backwards:
            value = flip(context.builder, value, 0)
        axis = context.axis(value.type.rank, given)
        order = list(range(1, value.type.rank))
        order.insert(axis, 0)
        result.append(context.transpose(value, order))
    return result
