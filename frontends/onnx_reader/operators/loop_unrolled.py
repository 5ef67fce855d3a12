"""A loop that is settled while the model is read: its body once for each iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.known import known_array
from bessemer.frontends.onnx_reader.operators.loop_node import stacked_rows

_MOST_ITERATIONS = 256
"""A loop that cannot be one is unrolled if it makes at most this many iterations."""


def can_unroll(context: NodeContext, body: onnx.GraphProto) -> bool:
    """Whether the number of iterations is known, as a region that is thrown away tells."""
    region = context.subgraphs.new_region("trial")
    items = tuple(region.capture(v) if isinstance(v, Value) else v for v in context.items)
    trial = replace(context, builder=region.builder, subgraphs=region, items=items)
    try:
        unrolled(trial, body, items[2:], "")
    except UnsupportedError:
        return False
    return True


def ends_in_time(context: NodeContext) -> bool:
    """Whether a loop may be unrolled, as far as what stands in front of it says."""
    trips = context.array(0)
    asks = context.optional(1) is not None and context.array(1) is None
    return trips is not None and int(trips.reshape(-1)[0]) <= _MOST_ITERATIONS and not asks


def unrolled(
    context: NodeContext, body: onnx.GraphProto, initial: Sequence[Item], why: str
) -> list[Item]:
    """The body once for each iteration, where their number is known."""
    trips = context.array(0)
    if trips is None and context.optional(0):
        context.unsupported(f"{why}, in a loop whose trip count is known when it runs")
    limit = _MOST_ITERATIONS + 1 if trips is None else int(trips.reshape(-1)[0])
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
        if made == _MOST_ITERATIONS:
            context.unsupported(f"{why}, over more than {_MOST_ITERATIONS} iterations")
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
    return [
        *carried,
        *(stacked_rows(context, [row[place] for row in rows]) for place in range(scans)),
    ]


def _shaped(body: onnx.GraphProto, position: int, number: np.generic) -> Array:
    declared = body.input[position].type.tensor_type
    is_vector = declared.HasField("shape") and len(declared.shape.dim) == 1
    return np.array([number] if is_vector else number)
