"""Lowers a group of operators that have element rules: to one kernel, or for a concat to one kernel
per part.

The fused expression of an element and its place in the output are a `Piece`; ../nests/nests.py
writes the loops around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir import walk_loops
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.walk_expr import loads_of, read_elsewhere
from bessemer.compiler.schedule.grouping.columns import has_columns
from bessemer.compiler.schedule.grouping.destinations import Destination, is_fold, parts_of
from bessemer.compiler.schedule.grouping.form_groups import form_groups
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, in_order
from bessemer.compiler.schedule.lowering.borders import border_elements, lower_border
from bessemer.compiler.schedule.lowering.lower_statements import resolve_lanes
from bessemer.compiler.schedule.lowering.lowering import (
    Computation,
    Lowering,
    flat_buffers,
    replaceable_inputs,
)
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flatten_loads
from bessemer.compiler.schedule.nests.rows_across import computes_again


def lower_elements(group: Group, lowering: Lowering) -> list[Launch]:
    """The launches of a group of operators with element rules."""
    nodes = in_order(group)
    assert group.root is not None
    inlined = {node.output: node for node in nodes}
    root = inlined[group.root]
    if root.operator.name == "concat":
        return _lower_concat(group.root, root, inlined, lowering)
    if root.operator.name == "pad" and root.inputs[0] in lowering.destinations:
        return _lower_pad(root, lowering)
    tail = () if group.root in lowering.destinations else _last_reshapes(group.root, inlined)
    core = tail[0].inputs[0] if tail else group.root
    fusion, out = Fusion(inlined, lowering.constants), lowering.destination(group.root, tail)
    piece = _piece(fusion, core, out)
    if has_columns(group) and computes_again(piece):
        apart = _apart(nodes, group.root, lowering)
        if len(apart) > 1:
            return [launch for one in apart for launch in lower_elements(one, lowering)]
    return [_store_elements(nodes, fusion, piece, out, lowering)]


def _apart(nodes: Sequence[Node], root: Value, lowering: Lowering) -> list[Group]:
    """The groups that nodes form if none computes both columns and their totals."""
    made = {node.output for node in nodes}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value not in made)
    constants = {value: lowering.constants[value] for value in read if value in lowering.constants}
    inputs = tuple(value for value in read if value not in constants)
    graph = Graph("columns", inputs, (root,), tuple(nodes), constants)
    groups = form_groups(graph, by_columns=False).roots
    return [groups[node.output] for node in nodes if node.output in groups]


def _last_reshapes(root: Value, inlined: Mapping[Value, Node]) -> tuple[Node, ...]:
    """The first of the reshapes with which a group ends, as a tuple of at most one. Reshapes keep
    the order of the elements, so the kernel can loop over the axes before the first reshape, and
    needs no divisions to find the element to compute."""
    first: tuple[Node, ...] = ()
    while (node := inlined.get(root)) is not None and node.operator.name == "reshape":
        if node.inputs[0] not in inlined:
            break
        first, root = (node,), node.inputs[0]
    return first


def _piece(fusion: Fusion, value: Value, out: Destination) -> Piece:
    """Every element of a value of the fusion, and its place in the destination."""
    symbols = index_symbols(value.type.shape)
    index = as_index(symbols, value.type.shape)
    element = flatten_loads(fusion.element(value, index))
    return Piece(out.buffer, out.offset(index), element, symbols)


def _store_elements(
    nodes: Sequence[Node], fusion: Fusion, piece: Piece, out: Destination, lowering: Lowering
) -> Launch:
    """The launch of a kernel that computes a piece."""
    nest = lowering.nest(piece)
    launch = lowering.launch(
        nodes,
        flat_buffers(fusion),
        {out.value: out.buffer},
        Computation(nest.body, nest.operations),
    )
    if not out.starts:
        lowering.origins.pieces[out.value] = piece
    return replace(launch, replaceable=_replaceable(fusion, piece, nest.body))


def _replaceable(fusion: Fusion, piece: Piece, body: Block) -> tuple[Value, ...]:
    """The inputs that the output may overwrite: each load of them is of the element in whose place
    the result is stored."""
    for statement in walk_loops.walk(body):
        for expression in walk_loops.expressions(statement):
            for node in loads_of(expression):
                if node.buffer.name == piece.target.name:
                    return ()  # it keeps something there before it stores the element
    elsewhere = read_elsewhere(piece.value, (piece.offset,))
    return replaceable_inputs(fusion.buffers, elsewhere, piece.target)


def _lower_pad(pad: Node, lowering: Lowering) -> list[Launch]:
    """The launch that fills the border of a pad. The kernel of the pad's input has written the
    inside."""
    out = lowering.destination(pad.output)
    body = resolve_lanes(lower_border(pad, out), lowering)
    if not body:
        return []
    size = border_elements(pad)
    return [
        lowering.launch([pad], {}, {out.value: out.buffer}, Computation(body, size, name="border"))
    ]


def _lower_concat(
    root: Value, node: Node, inlined: Mapping[Value, Node], lowering: Lowering
) -> list[Launch]:
    """A launch for each part of a concat, except parts whose own kernel writes them to their
    place."""
    launches: list[Launch] = []
    places = {member: place for place, member in enumerate(inlined.values())}
    for part, starts in parts_of(node):
        if not _is_written(part, root, inlined, lowering):
            nodes = sorted(_behind(part, inlined), key=places.__getitem__)
            fusion = Fusion(inlined, lowering.constants)
            out = lowering.destination(root).part(starts)
            piece = _piece(fusion, part, out)
            launches.append(_store_elements([*nodes, node], fusion, piece, out, lowering))
    return launches


def _is_written(
    part: Value, root: Value, inlined: Mapping[Value, Node], lowering: Lowering
) -> bool:
    """Whether its own kernel writes a part to its place. The part may be a reshape of what that
    kernel writes."""
    fold = inlined.get(part)
    if fold is not None and is_fold(fold):
        found = lowering.destinations.get(fold.inputs[0])
        return found is not None and found.value is lowering.destination(root).value
    return part in lowering.destinations


def _behind(value: Value, inlined: Mapping[Value, Node]) -> set[Node]:
    """The nodes of the group from which a value is computed."""
    found: set[Node] = set()
    waiting = [value]
    while waiting:
        producer = inlined.get(waiting.pop())
        if producer is not None and producer not in found:
            found.add(producer)
            waiting += producer.inputs
    return found
