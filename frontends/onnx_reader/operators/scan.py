"""Scan: a loop over slices, whose length is known before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite_shape import flip
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import agreed_size
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.loop_node import (
    ChangesTypeError,
    loop_node,
    returned,
    stacked_rows,
)
from bessemer.frontends.onnx_reader.registry import rule

_MOST_BATCHES = 256
"""Scans of opset 8 are one loop for each sequence of the batch."""


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
    if not isinstance(batch, int) or not 0 < batch <= _MOST_BATCHES:
        context.unsupported(f"Scan as it was before opset 9, over {values[-1].type}")
    directions = context.integers("directions", (0,) * sources)
    rows: list[list[Value]] = []
    for number in range(batch):
        place = context.builder.constant(np.array(number, np.int64))
        one = [context.apply("gather", value, place, axis=0) for value in values]
        axes = (0,) * sources
        rows.append(_scanned(context, one[:states], one[states:], axes, directions))
    return [stacked_rows(context, parts) for parts in zip(*rows)]


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
        results = returned(region, carried, results)
    except ChangesTypeError as change:
        context.wrong(str(change))
    controls = (context.builder.scalar_size(trips), None)
    outputs = [going, *results]
    found = loop_node(context, region, controls, carried, outputs, has_condition=False, made=trips)
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
