"""Gives caches room to grow, so that a run writes only what is new.

    present = concat(past, new)               past [b,h,n,d], present [b,h,n+m,d]

becomes

    arrays = tensor_scatter(room, n, new)     room, arrays [b,h,places,d]; often one array
    present = slice(arrays)                   [b,h,n+m,d]

The caller says how many places the arrays have, by a symbol of their own. If the caller passes the
same array for both, a step of a decoder copies no keys and values (schedule/in_place_updates.py),
and its attention reads the places in use directly. Nodes that read past are ordered after the
writing, unless the new values are computed from it. Places along the first axis are written by a
scatter_nd.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size, symbol, symbol_names
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.order_nodes import ancestors, delayed
from bessemer.compiler.ir.program import Program, Room
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.passes.caches.join_stacked_caches import join_stacked_caches
from bessemer.compiler.passes.simplification.remove_dead import remove_dead

_NOTHING = (
    "grow_in_place is for networks whose output continues an input of symbolic size, such as "
    "present = Concat(past, new), and {} has none. Caches that ScatterND, "
    "TensorScatter or GroupQueryAttention write into are in place without it."
)


def grow_in_place(graph: Graph) -> tuple[Graph, tuple[Room, ...]]:
    """The graph whose inputs and outputs are arrays with room, and a description of these.

    Raises CompileError if there are no such arrays.
    """
    graph = join_stacked_caches(graph)
    joins = _joins(graph)
    if not joins:
        raise CompileError(_NOTHING.format(f"'{graph.name}'"))
    graph = _readers_later(graph, joins.values())
    growth = _Growth(graph)
    rooms = tuple(growth.add_room(position, node) for position, node in joins.items())
    return remove_dead(growth.graph(joins)), rooms


def with_rooms(program: Program, rooms: tuple[Room, ...]) -> Program:
    """The program with its arrays with room, which fails if there is too little room."""
    required = dict(program.required)
    for room in rooms:
        left = symbol(room.symbol) - room.after
        required.setdefault(left, f"the room of '{program.inputs[room.given].name}'")
    return replace(program, rooms=rooms, required=required)


def _joins(graph: Graph) -> dict[int, Node]:
    """The nodes that append something to an input, by the positions of the outputs that they
    compute."""
    producers = graph.producers()
    plain = {symbol(name) for name in graph.symbols}
    found: dict[int, Node] = {}
    for position, value in enumerate(graph.outputs):
        node = producers.get(value)
        if node is None or node.operator.name != "concat" or graph.outputs.count(value) > 1:
            continue
        past, axis = node.inputs[0], node.attributes["axis"]
        taken = {join.inputs[0] for join in found.values()}
        is_read = past in (*graph.outputs, *taken, *node.inputs[1:])
        is_alone = past in graph.inputs and not is_read
        is_known = symbol_names(value.type.shape[axis]) <= set(graph.symbols)
        if is_alone and is_known and past.type.shape[axis] in plain:
            found[position] = node
    return found


def _readers_later(graph: Graph, joins: Collection[Node]) -> Graph:
    """The graph in which readers of an input come after the node that appends to it, unless that
    node needs them: they can then read the array after it has been written."""
    users = graph.users()
    waits: dict[Node, list[Node]] = {}
    for join in joins:
        needed = ancestors(graph, join)
        for reader in users[join.inputs[0]]:
            if reader is not join and reader not in needed:
                waits.setdefault(reader, []).append(join)
    return delayed(graph, waits) or graph


class _Growth:
    """A graph that is being rebuilt around arrays with room."""

    def __init__(self, graph: Graph) -> None:
        self.before = graph
        self.rewriter = GraphRewriter(graph)
        self.inputs = list(graph.inputs)
        self.symbols = list(graph.symbols)
        self.arrays: dict[Node, Value] = {}
        self._names: dict[tuple[Size, Size], str] = {}

    def add_room(self, position: int, node: Node) -> Room:
        """Puts a larger array in the place of the node's first input."""
        past, axis = node.inputs[0], node.attributes["axis"]
        sizes = past.type.shape[axis], node.output.type.shape[axis]
        name = self._name(*sizes)
        shape = (*past.type.shape[:axis], symbol(name), *past.type.shape[axis + 1 :])
        given = self.inputs.index(past)
        array = Value(past.type.with_shape(shape), past.name)
        self.inputs[given] = self.arrays[node] = array
        self.rewriter.stand(past, self._cut(array, past))
        return Room(position, given, axis, name, *sizes)

    def graph(self, joins: dict[int, Node]) -> Graph:
        """The graph that writes into the arrays."""
        positions = {node: position for position, node in joins.items()}
        outputs: dict[int, Value] = {}
        for node in self.before.nodes:
            if node in positions:
                outputs[positions[node]] = self._write(node)
            else:
                self.rewriter.visit(node)
        made = self.rewriter.finish()
        found = tuple(outputs.get(k, value) for k, value in enumerate(made.outputs))
        return replace(made, inputs=tuple(self.inputs), outputs=found, symbols=tuple(self.symbols))

    def _write(self, node: Node) -> Value:
        """Writes what the node appends into the array. Parts of the written array replace both the
        node's output and its first input, so that nothing else reads the array as it was."""
        rewriter, axis = self.rewriter, node.attributes["axis"]
        rewriter.sources = node.sources
        array = self.arrays[node]
        _, *new = (rewriter.now(value) for value in node.inputs)
        update = new[0] if len(new) == 1 else rewriter.emit("concat", *new, axis=axis)
        used = node.inputs[0].type.shape[axis]
        written = _written(rewriter, array, update, axis, used)
        for value in (node.output, node.inputs[0]):
            rewriter.stand(value, self._cut(written, value))
        return written

    def _cut(self, array: Value, used: Value) -> Value:
        """The part of an array that is in use, as a value like `used`."""
        rank = array.type.rank
        return self.rewriter.emit(
            "slice", array, starts=(0,) * rank, shape=used.type.shape, steps=(1,) * rank
        )

    def _name(self, before: Size, after: Size) -> str:
        """The symbol for the number of places of arrays that use `before` places before a run and
        `after` after it. Such arrays share one symbol, because room enough for one is enough for
        the others."""
        if (before, after) not in self._names:
            (used,) = symbol_names(before)
            name = f"{used}_room"
            while name in self.symbols:
                name += "_"
            self._names[before, after] = name
            self.symbols.append(name)
        return self._names[before, after]


def _written(rewriter: GraphRewriter, array: Value, update: Value, axis: int, used: Size) -> Value:
    """The array with the update written after its first `used` places along an axis."""
    first = rewriter.emit("sizes", sizes=(used,))
    if axis:
        places = rewriter.emit("broadcast_to", first, shape=array.type.shape[:1])
        size = array.type.shape[axis]
        return rewriter.emit("tensor_scatter", array, places, update, axis=axis, size=size)
    column = (update.type.shape[0], 1)
    steps = rewriter.emit("iota", shape=column, axis=0, dtype=first.type.dtype)
    behind = rewriter.emit("broadcast_to", first, shape=column)
    places = rewriter.emit("add", steps, behind)
    return rewriter.emit("scatter_nd", array, places, update, reduction="none")
