"""Turns a graph into a program: groups become launches, control flow becomes branches and loops.

The driver calls `build_program` after the passes. A `ProgramBuilder` walks the nodes in order. For
a node that is the root of a group it calls the lowering function of the group's kind, in lowering/;
operators with kernels of their own, branches and loops are lowered here. In the end, steps that can
be merged or reordered are (order_updates.py, merge_updates.py, write_parts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Copy,
    Launch,
    Program,
    Step,
    Weight,
)
from bessemer.compiler.ir.types import Array, TensorType, boolean, i64
from bessemer.compiler.ir.walk_steps import sets_symbols
from bessemer.compiler.options import Tuning
from bessemer.compiler.schedule.derived_sizes import name_derived_sizes
from bessemer.compiler.schedule.grouping.destinations import destinations
from bessemer.compiler.schedule.grouping.form_groups import form_groups, separate_groups
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.grouping.kinds import kind_of
from bessemer.compiler.schedule.in_place_updates import begun, carried_over, copied_first
from bessemer.compiler.schedule.join_sums import join_sums
from bessemer.compiler.schedule.loop_slices import Loop, trial_of, tried
from bessemer.compiler.schedule.lowering.attention_group import lower_attention_group
from bessemer.compiler.schedule.lowering.choices import Choices
from bessemer.compiler.schedule.lowering.contractions import lower_contraction_group
from bessemer.compiler.schedule.lowering.lower_elements import lower_elements
from bessemer.compiler.schedule.lowering.lower_statements import lower_statements
from bessemer.compiler.schedule.lowering.lowering import Lowering
from bessemer.compiler.schedule.lowering.narrow_products import lower_narrow_product
from bessemer.compiler.schedule.lowering.recurrence import lower_recurrence
from bessemer.compiler.schedule.lowering.write_panels import write_panels
from bessemer.compiler.schedule.lowering.write_parts import write_parts
from bessemer.compiler.schedule.merge_updates import merge_updates
from bessemer.compiler.schedule.order_updates import order_updates
from bessemer.compiler.schedule.regions import copies_between, inlined
from bessemer.compiler.schedule.required_sizes import required_sizes
from bessemer.compiler.schedule.reshaped_outputs import (
    reshaped_outputs,
    write_reshaped_outputs,
)
from bessemer.compiler.targets.machine import Target


def build_program(
    graph: Graph,
    target: Target,
    optimize: int = 2,
    precision: str = "float32",
    tuning: Tuning | None = None,
) -> Program:
    """The program that runs a graph on a target.

    `optimize`: 0 computes every node by a kernel of its own in plain scalar loops, 1 vectorizes
    them, 2 also fuses nodes and uses register tiles. `precision` and `tuning` are as in Options.
    """
    graph, derived = name_derived_sizes(graph)
    choices = Choices(tuning or Tuning())
    builder = ProgramBuilder(graph, target, optimize, precision, choices, derived)
    return assembled(builder, graph, derived)


def assembled(builder: ProgramBuilder, graph: Graph, derived: Mapping[str, Size]) -> Program:
    """The program that a builder makes of a graph. `derived` are the definitions of its named
    sizes."""
    builder.over = dict.fromkeys(builder.copied_first(graph), Copy)
    steps = write_reshaped_outputs(builder.lower(graph), builder.reshaped)
    steps = join_sums(steps, builder.lowering) if builder.fuses else steps
    outputs, copies = builder.separate_outputs(graph)
    outputs, steps = order_updates(graph, outputs, (*steps, *copies))
    steps = merge_updates(graph, outputs, steps, builder.lowering)
    steps = write_parts(write_panels(steps, builder.lowering), outputs, builder.lowering)
    return Program(
        name=graph.name,
        inputs=graph.inputs,
        outputs=outputs,
        output_names=graph.output_names,
        symbols=(*graph.symbols, *builder.symbols),
        input_symbols=len(graph.symbols),
        weights={
            **{value: Weight(array) for value, array in builder.constants.items()},
            **builder.lowering.arranged,
        },
        steps=steps,
        capacities=builder.capacities,
        derived=derived,
        decisions=tuple(builder.lowering.choices.decisions),
        updates=graph.updates,
        required=required_sizes(graph, derived),
    )


class ProgramBuilder:
    """Lowers a graph's groups and control flow, in order; collects what the program needs."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        optimize: int,
        precision: str,
        choices: Choices,
        derived: Mapping[str, Size],
    ) -> None:
        self.outermost, self.reshaped = graph, reshaped_outputs(graph)
        self.fuses = optimize > 1
        self.target = target
        self.constants: dict[Value, Array] = dict(graph.constants)
        self.lowering = Lowering(self.constants, target, optimize > 0, precision, choices)
        self.derived = derived
        self.producers: dict[Value, Node] = {}
        self.symbols: list[str] = []
        self.capacities: dict[Value, Size] = {}
        self.over: dict[Node, type[Alias | Copy]] = {}

    def grouping(self, graph: Graph) -> Grouping:
        """The groups of a graph or a region."""
        if not self.fuses:
            return separate_groups(graph)
        by_regions = not self.lowering.choices.is_tuned and not self.target.has_tiles
        return form_groups(graph, by_regions=by_regions)

    def lower(self, graph: Graph) -> tuple[Step, ...]:
        """The steps of a graph or of a region whose inputs are values of the outer one."""
        self.constants.update(graph.constants)
        grouping = self.grouping(graph)
        self.producers.update(grouping.producers)
        if self.fuses:
            places = destinations(graph, grouping.roots, self.derived)
            self.lowering.destinations.update(places)
        steps: list[Step] = []
        outer = self.lowering.prepared
        self.lowering.prepared = outer.copy()
        for node in graph.nodes:
            kind = kind_of(node)
            if kind == "structural":
                steps += self._structural(node)
            elif kind == "statements":
                steps += self._own_kernel(node)
            elif node.output in grouping.roots:
                group = grouping.roots[node.output]
                steps += self.group(group, grouping, graph)
        self.lowering.prepared = outer
        return tuple(steps)

    def group(self, group: Group, grouping: Grouping, graph: Graph) -> list[Step]:
        """The steps that compute a group's root."""
        assert group.root is not None
        node = grouping.producers[group.root]
        if self.is_alias(node, group, graph):
            return [Alias(node.inputs[0], node.output)]
        if group.attention is not None:
            return [*self.attention(group, grouping)]
        if group.anchor is not None and self.fuses:
            launches = self.contraction(group, grouping)
            if launches is not None:
                return [*launches]
            # Plain loops compute the operands where they are read.
            pack = grouping.packs.get(group.anchor)
            if pack is not None:
                group.nodes += pack.nodes
            group.nodes += self.views(group.anchor.inputs[0], grouping)
        return [*self.elements(group)]

    def attention(self, group: Group, grouping: Grouping) -> Sequence[Launch]:
        """The launches of a group that is an attention."""
        return lower_attention_group(group, grouping, self.lowering)

    def contraction(self, group: Group, grouping: Grouping) -> Sequence[Launch] | None:
        """The launches of a group around a contraction; None if plain loops must compute it."""
        return lower_contraction_group(group, grouping, self.lowering)

    def views(self, operand: Value, grouping: Grouping) -> Sequence[Node]:
        """The views between memory and a contraction's operand, as nodes."""
        return [*grouping.views(operand).values()]

    def elements(self, group: Group) -> Sequence[Launch]:
        """The launches of any other group."""
        return lower_elements(group, self.lowering)

    def is_alias(self, node: Node, group: Group, graph: Graph) -> bool:
        """Whether a root is only a reshape of a value that is in memory."""
        return (
            node.operator.name == "reshape"
            and len(group.nodes) == 1
            and self.fuses
            and (graph is self.outermost or node.inputs[0] not in graph.inputs)
            and node.inputs[0] not in self.constants
            and (
                node.output not in graph.outputs or self.reshaped.get(node.inputs[0]) is node.output
            )
        )

    def statements(self, node: Node) -> Launch:
        """The launch of an operator that writes its own kernel."""
        if self.fuses:
            for rule in (lower_recurrence, lower_narrow_product):
                launch = rule(node, self.lowering)
                if launch is not None:
                    return launch
        return lower_statements(node, self.lowering)

    def _own_kernel(self, node: Node) -> list[Step]:
        """The steps of such an operator. Notes the symbols and capacities that it defines."""
        steps: list[Step] = []
        if node in self.over:
            steps.append(begun(node, self.over[node], self.lowering))
            steps.append(lower_statements(node, self.lowering, over=True))
        else:
            steps.append(self.statements(node))
        for name in _defined_symbols(node):
            self.symbols.append(name)
        rule = node.operator.capacity
        if rule is not None:
            bounds = rule(*(v.type for v in node.inputs), **node.attributes)
            for value, bound in zip(node.outputs, bounds, strict=True):
                if bound is not None:
                    self.capacities[value] = bound
        return steps

    def _structural(self, node: Node) -> list[Step]:
        match node.operator.name:
            case "bind":
                names = node.attributes["symbols"]
                # Both branches of an if may bind the same symbol: the size of their result.
                self.symbols += [name for name in names if name and name not in self.symbols]
                return [BindDims(node.inputs[0], names, node.sources)]
            case "if":
                return self._branch(node)
            case "loop":
                return self._loop(node)
            case name:
                raise UnsupportedError(f"{', '.join(node.sources)}: no code for operator {name}")

    def _branch(self, node: Node) -> list[Step]:
        condition, *captures = node.inputs
        sides: list[tuple[Step, ...]] = []
        for region in node.regions:
            body = inlined(region, dict(zip(region.inputs, captures, strict=True)))
            copies = [Copy(s, t) for s, t in zip(body.outputs, node.outputs, strict=True)]
            sides.append((*self.lower(body), *copies))
        return [Branch(condition, sides[0], sides[1], node.sources)]

    def _loop(self, node: Node) -> list[Step]:
        """Every carried value has one buffer, into which each iteration copies its new value."""
        (region,), attributes = node.regions, node.attributes
        trips, condition, *rest = node.inputs
        initial, captures = rest[: attributes["carried"]], rest[attributes["carried"] :]
        carried, scans = node.outputs[: len(initial)], node.outputs[len(initial) :]
        iteration = Value(TensorType(i64, ()))
        going = Value(TensorType(boolean, ()))
        outer = [iteration, going, *carried, *captures]
        body = inlined(region, dict(zip(region.inputs, outer, strict=True)))
        start: list[Step] = [Copy(s, t) for s, t in zip(initial, carried, strict=True)]
        start.append(Copy(condition, going))
        advance = self._advance(body, [going, *carried])
        has_trips = attributes["has_trips"]
        # The slices' places must not depend on sizes that the body binds anew in every iteration.
        limit, before = self._limit(trips, node) if scans and has_trips else (0, [])
        before_body = len(self.symbols)
        computed = self.lower(body)

        loop = Loop(
            node,
            trips if has_trips else None,
            going if attributes["has_condition"] else None,
            iteration,
            tuple(start),
            computed,
            tuple(advance),
            tuple(zip(body.outputs[1 + len(carried) :], scans, strict=True)),
        )
        if not scans:
            return loop.collecting(self.lowering)
        return [*before, *self._collected(loop, limit, before_body)]

    def _collected(self, loop: Loop, limit: Size, before_body: int) -> list[Step]:
        """The steps of a loop that stacks slices. `limit` is used if the loop has trips.
        `before_body` is the number of symbols before those of its body."""
        count = loop.node.attributes["count"]
        if loop.trips is not None:
            self._note_slices(loop, limit, count)
            return loop.collecting(self.lowering, count)
        if any(map(sets_symbols, loop.computed)):
            self._note_slices(loop, symbol(count))
            # While the iterations are counted, the number of slices is 0. Its symbol comes before
            # those of the body nevertheless, so that the slices' places do not depend on these.
            self.symbols.insert(before_body, count)
            none = Value(TensorType(i64, (1,)))
            self.constants[none] = np.array([0])
            uncounted = BindDims(none, (count,), loop.node.sources)
            return [uncounted, *loop.counting(count), *loop.collecting(self.lowering)]
        trial = trial_of(loop)
        self.constants[trial.trips] = np.array(trial.most)
        self.capacities |= {room: room.type.numel for room in trial.rooms}
        names = f"{count}_tried", f"{count}_more", count
        self._note_slices(loop, symbol(count), *names)
        return tried(loop, trial, names, self.lowering)

    def _note_slices(self, loop: Loop, most: Size, *symbols: str) -> None:
        """Reserves memory for the slices. The symbols must be in the order in which the run binds
        them."""
        self.symbols += symbols
        self.capacities |= {whole: most * part.type.numel for part, whole in loop.scans}

    def _advance(self, body: Graph, places: Sequence[Value]) -> list[Step]:
        """The steps that put the condition and the carried values where the next iteration reads
        them. Values that can be computed in place are."""
        results = list(body.outputs[: len(places)])
        for number, nodes in enumerate(self.carried_over(body, results[1:], places[1:]), 1):
            if nodes:
                self.over |= dict.fromkeys(nodes, Alias)
                results[number] = places[number]
        return copies_between(results, places)

    def _limit(self, trips: Value, node: Node) -> tuple[Size, list[Step]]:
        """An upper bound of a loop's trip count, and the steps that compute it."""
        known = self._known_trips(trips)
        if known is not None:
            return known, []
        limit = f"{node.attributes['count']}_limit"
        self.symbols.append(limit)
        return symbol(limit), [BindDims(trips, (limit,), node.sources)]

    def _known_trips(self, trips: Value) -> Size | None:
        """That bound if it follows from sizes that are known before the run; else None."""
        if trips in self.constants:
            return max(int(self.constants[trips].item()), 0)
        node, place = self.producers.get(trips), 0
        while node is not None and node.operator.name in ("reshape", "slice"):
            if node.operator.name == "slice":
                place = node.attributes["starts"][0] + place * node.attributes["steps"][0]
            node = self.producers.get(node.inputs[0])
        if node is None or node.operator.name != "sizes":
            return None
        return dims.maximum(node.attributes["sizes"][place], 0)

    def copied_first(self, graph: Graph) -> Sequence[Node]:
        """The nodes that write over a copy of their input (in_place_updates.py), if nodes may be
        fused."""
        return copied_first(graph) if self.fuses else ()

    def carried_over(
        self, body: Graph, results: Sequence[Value], carried: Sequence[Value]
    ) -> Sequence[Sequence[Node]]:
        """The nodes that write over carried values (in_place_updates.py), if nodes may be fused."""
        return carried_over(body, results, carried) if self.fuses else ()

    def separate_outputs(self, graph: Graph) -> tuple[tuple[Value, ...], list[Step]]:
        """Gives outputs that are inputs, constants or listed twice memory of their own, by
        copies."""
        outputs: list[Value] = []
        copies: list[Step] = []
        taken = {*graph.inputs, *self.constants}
        for value in graph.outputs:
            if value in taken:
                target = Value(value.type, value.name)
                copies.append(Copy(value, target))
                outputs.append(target)
            else:
                outputs.append(value)
                taken.add(value)
        return tuple(outputs), copies


def _defined_symbols(node: Node) -> tuple[str, ...]:
    name = node.attributes.get("symbol", "")
    return (name,) if name else ()
