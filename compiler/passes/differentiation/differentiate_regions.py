"""Differentiates control flow: the gradient of a choice is a choice, that of a loop is a loop that
runs backwards.

    y = if(c, x) {f, g}        dx = if(c, x, dy) {f and its gradient, g and its gradient}
    y = loop(x) {f}            y, xs = loop(x) {f, x}      (the state before every iteration)
                               dx = loop(dy) {f of xs[last - i] and its gradient}

The values inside of a region are computed again; only the states of a loop are stored. The
cotangent of a value that a loop captures is the sum over all iterations (differentiate_sums.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.differential import Backward, Cotangents
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite import scalar_like
from bessemer.compiler.passes.differentiation.differentiate_sums import Scattered, scattered_parts

Given: TypeAlias = "tuple[Value | None, ...]"


def branch_cotangents(
    b: GraphBuilder, node: Node, given: Given, wanted: Collection[Value], backward: Backward
) -> Cotangents:
    """The cotangents of an `if` node's inputs; of the captures, only those that are wanted."""
    captures = node.inputs[1:]
    cotangents = [value for value in given if value is not None]
    places = [place for place, value in enumerate(captures) if value in wanted]
    regions = []
    for branch in node.regions:
        inner = GraphBuilder(branch.name, b)
        inputs = [inner.input("", value.type) for value in (*captures, *cotangents)]
        own = inputs[: len(captures)]
        outputs = copied_into(inner, branch, own)
        written = list(inner.nodes)
        arriving = iter(inputs[len(captures) :])
        seeds: dict[Value, Value] = {}
        for output, value in zip(outputs, given, strict=True):
            if value is not None:
                _add(inner, seeds, output, next(arriving))
        found = backward(inner, written, seeds, [own[place] for place in places])
        regions.append(inner.finish([_found(inner, found, own[place]) for place in places]))
    results = b.apply_many("if", node.inputs[0], *captures, *cotangents, regions=tuple(regions))
    by_place = dict(zip(places, results, strict=True))
    return None, *(by_place.get(place) for place in range(len(captures)))


def loop_cotangents(
    b: GraphBuilder, node: Node, given: Given, wanted: Collection[Value], backward: Backward
) -> Cotangents:
    """The cotangents of a `loop` node's inputs: of the carried values, and of the captures that are
    wanted."""
    captures = node.inputs[2 + node.attributes["carried"] :]
    watched = [k for k, value in enumerate(captures) if value in wanted]
    moving = _moving(node, wanted)
    back = _LoopBack(node, given, moving, watched, *_stored_states(b, node))
    found = dict(zip(back.places, back.cotangents(b, backward), strict=True))
    return tuple(found.get(place) for place in range(len(node.inputs)))


@dataclass(frozen=True, eq=False)
class _LoopBack:
    """The backward loop of a loop. `moving` are the positions of the carried values that get
    cotangents, `watched` those of the captures that do. `made` is the number of iterations, and
    `states` are the carried values before each of them."""

    node: Node
    given: Given
    moving: Sequence[int]
    watched: Sequence[int]
    made: Value
    states: Sequence[Value]

    @property
    def count(self) -> int:
        """The number of carried values."""
        carried: int = self.node.attributes["carried"]
        return carried

    @property
    def moved(self) -> list[Value]:
        """The initial values of the carried values that get cotangents."""
        return [self.node.inputs[2 + k] for k in self.moving]

    @property
    def captures(self) -> Sequence[Value]:
        return self.node.inputs[2 + self.count :]

    @property
    def seen(self) -> list[Value]:
        """The captures that get cotangents."""
        return [self.captures[k] for k in self.watched]

    @property
    def scans(self) -> list[Value]:
        """The cotangents of the slices that the loop collects, for all iterations."""
        return [value for value in self.given[self.count :] if value is not None]

    @property
    def places(self) -> list[int]:
        """The positions of the node's inputs that get cotangents."""
        first = 2 + self.count
        return [*(2 + k for k in self.moving), *(first + k for k in self.watched)]

    def cotangents(self, b: GraphBuilder, backward: Backward) -> list[Value]:
        """The cotangents of the inputs at `places`."""
        last = b.apply("sub", self.made, b.constant(np.array(1)))
        region, scattered = self._region(b, backward)
        starts = [self.given[k] or scalar_like(b, v, 0) for k, v in zip(self.moving, self.moved)]
        starts += [scalar_like(b, value, 0) for value in self.seen]
        collected = sum(len(part.parts) for parts in scattered for part in parts)
        outputs = b.apply_many(
            "loop", self.made, b.constant(np.array(True)), *starts, *self.captures, *self.states,
            *self.scans, last,
            regions=(region,), carried=len(starts), has_trips=True, has_condition=False,
            scans=collected, count=b.fresh_symbol("count") if collected else "",
        )  # fmt: skip
        moved = len(self.moving)
        return [*outputs[:moved], *_with_scattered(b, outputs[moved:], scattered)]

    def _region(self, b: GraphBuilder, backward: Backward) -> tuple[Graph, list[list[Scattered]]]:
        """One iteration of the backward loop, and what it collects for the captures."""
        inner = GraphBuilder("backward", b)
        iteration = inner.input("iteration", TensorType(i64, ()))
        going = inner.input("condition", TensorType(boolean, ()))
        arriving, sums, own, stored, slices = (
            [inner.input("", value.type) for value in values]
            for values in (self.moved, self.seen, self.captures, self.states, self.scans)
        )
        time = inner.apply("sub", inner.input("last", TensorType(i64, ())), iteration)

        before = [inner.apply("gather", value, time, axis=0) for value in stored]
        _, *results = copied_into(inner, self.node.regions[0], [time, going, *before, *own])
        written = list(inner.nodes)
        seeds = self._seeds(inner, results, arriving, slices, time)
        moved, seen = [before[k] for k in self.moving], [own[k] for k in self.watched]
        found = backward(inner, written, seeds, [*moved, *seen])
        new = [_found(inner, found, value) for value in moved]
        total, scattered = _summed(inner, [found.get(value) for value in seen], sums)
        collected = [value for parts in scattered for part in parts for value in part.parts]
        return inner.finish([going, *new, *total, *collected]), scattered

    def _seeds(
        self,
        inner: GraphBuilder,
        results: Sequence[Value],
        arriving: Sequence[Value],
        slices: Sequence[Value],
        time: Value,
    ) -> dict[Value, Value]:
        """The cotangents of an iteration's results: of the values that it carries on, and of its
        slices."""
        seeds: dict[Value, Value] = {}
        for k, value in zip(self.moving, arriving, strict=True):
            _add(inner, seeds, results[k], value)
        rest = iter(slices)
        for result, cotangent in zip(results[self.count :], self.given[self.count :], strict=True):
            if cotangent is not None:
                _add(inner, seeds, result, inner.apply("gather", next(rest), time, axis=0))
        return seeds


def _summed(
    inner: GraphBuilder, found: Sequence[Value | None], sums: Sequence[Value]
) -> tuple[list[Value], list[list[Scattered]]]:
    """The sums after an iteration, and the scatters that are added after the loop."""
    totals, scattered = [], []
    for cotangent, total in zip(found, sums, strict=True):
        dense, parts = scattered_parts(inner, cotangent) if cotangent else ([], [])
        for part in dense:
            total = inner.apply("add", total, part)
        totals.append(total)
        scattered.append(parts)
    return totals, scattered


def _with_scattered(
    b: GraphBuilder, outputs: Sequence[Value], scattered: Sequence[Sequence[Scattered]]
) -> list[Value]:
    """The sums with the scatters added, whose collected parts follow the sums in `outputs`."""
    collected = iter(outputs[len(scattered) :])
    totals = []
    for total, parts in zip(outputs, scattered, strict=False):
        for part in parts:
            total = part.added_to(b, total, next(collected), next(collected))
        totals.append(total)
    return totals


def _moving(node: Node, wanted: Collection[Value]) -> list[int]:
    """The positions of carried floats that depend on what is wanted, in any iteration."""
    count: int = node.attributes["carried"]
    region = node.regions[0]
    reached = {
        inside
        for inside, value in zip(region.inputs[2:], node.inputs[2:], strict=True)
        if value in wanted
    }
    inside = region.inputs[2 : 2 + count]
    while True:
        known = len(reached)
        for inner in region.nodes:
            if any(value in reached for value in inner.inputs):
                reached.update(inner.outputs)
        after = region.outputs[1 : 1 + count]
        reached.update(value for value, new in zip(inside, after, strict=True) if new in reached)
        if len(reached) == known:
            break
    return [k for k, v in enumerate(inside) if v in reached and v.type.dtype.is_float]


def _stored_states(b: GraphBuilder, node: Node) -> tuple[Value, tuple[Value, ...]]:
    """The number of iterations (i64), and the carried values before each of them. The loop is
    extended to collect these."""
    carried, region = node.attributes["carried"], node.regions[0]
    name = node.attributes["count"] or b.fresh_symbol("count")
    before = region.inputs[2 : 2 + carried]
    longer = replace(
        region,
        outputs=(*region.outputs, *before),
        output_names=(*region.output_names, *(value.name for value in before)),
    )
    states = b.extend(
        node.outputs[0], (longer,), scans=node.attributes["scans"] + carried, count=name
    )
    return b.scalar_size(symbol(name)), states


def copied_into(b: GraphBuilder, region: Graph, inputs: Sequence[Value]) -> list[Value]:
    """Adds the nodes of a region to a builder, with these inputs; returns its outputs."""
    standing: dict[Value, Value] = dict(zip(region.inputs, inputs, strict=True))
    for value, array in region.constants.items():
        standing[value] = b.constant(array, value.name)
    for node in region.nodes:
        with b.source(*node.sources):
            results = b.apply_many(
                node.operator.name,
                *(standing[value] for value in node.inputs),
                regions=tuple(_copy(b, inner) for inner in node.regions),
                **node.attributes,
            )
        standing.update(zip(node.outputs, results, strict=True))
    return [standing[value] for value in region.outputs]


def _copy(b: GraphBuilder, region: Graph) -> Graph:
    inner = GraphBuilder(region.name, b)
    inputs = [inner.input(value.name, value.type) for value in region.inputs]
    return inner.finish(copied_into(inner, region, inputs))


def _add(b: GraphBuilder, seeds: dict[Value, Value], output: Value, cotangent: Value) -> None:
    before = seeds.get(output)
    seeds[output] = b.apply("add", before, cotangent) if before else cotangent


def _found(b: GraphBuilder, found: Mapping[Value, Value], value: Value) -> Value:
    return found.get(value) or scalar_like(b, value, 0)
