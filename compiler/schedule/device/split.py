"""Splits long reductions to few elements into two launches: all processors compute parts, which the
second launch adds up.

    out[c] = reduce add k in 0..K: x[k, c]          becomes

    part[s, c] = reduce add j in 0..K/S: x[s*K/S + j, c]
    out[c] = reduce add s in 0..S: part[s, c]

The parts depend only on the shapes and the target, so equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Reduce
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.device.lowering import DeviceLowering
from bessemer.compiler.schedule.device.nests import is_along_memory
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, in_order
from bessemer.compiler.schedule.lowering.lowering import Computation, flat_buffers
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of, merge_axes
from bessemer.compiler.schedule.nests.nests import flatten_loads
from bessemer.compiler.targets.nvptx import DeviceTarget

SHORTEST = 32
"""The fewest steps of a part of a reduction that one thread computes."""
SHORTEST_SHARED = 4096
"""The fewest steps of one that the threads of a block share."""
THREADS = 512
"""Threads of a processor that are enough to keep it busy."""
BLOCKS = 4
"""Blocks of a processor that are enough, of the threads that share a part."""
MOST_PARTS = 1024
"""More would make the sum of the parts the long one."""


@dataclass(frozen=True)
class _Split:
    """A reduction in `parts` of `length` steps of its first axis."""

    node: Reduce
    parts: int
    length: int


def lower_split_reductions(group: Group, lowering: DeviceLowering) -> list[Launch] | None:
    """The launches for a group whose reductions are worth splitting; None for any other group."""
    nodes = in_order(group)
    inlined = {node.output: node for node in nodes}
    root = group.root
    if root is None or not group.reductions or inlined[root].operator.name in ("concat", "pad"):
        return None
    fusion = Fusion(inlined, lowering.constants)
    symbols = index_symbols(root.type.shape)
    index = as_index(symbols, root.type.shape)
    value = flatten_loads(fusion.element(root, index))
    out = lowering.destination(root)
    piece = merge_axes(Piece(out.buffer, out.offset(index), value, symbols))
    splits = _splits(piece, lowering.target)
    if not splits:
        return None
    job = _Job(piece, lowering, nodes, flat_buffers(fusion))
    launches = [job.parts(split, number) for number, split in enumerate(splits)]
    return [*launches, job.whole({out.value: out.buffer})]


def _splits(piece: Piece, target: DeviceTarget) -> list[_Split]:
    """The reductions to split: all of the piece's, or none."""
    nodes = walk_expr.reductions_of(piece.value)
    found = [_split(node, piece, target) for node in nodes]
    bound = {symbol for node in nodes for symbol in node.over}
    dependence = Dependence()
    if any(not bound.isdisjoint(dependence.of(node)) for node in nodes):
        return []
    return [split for split in found if split] if all(found) else []


def _split(node: Reduce, piece: Piece, target: DeviceTarget) -> _Split | None:
    if walk_expr.reductions_of(node.body):
        return None
    outer = _outer(node, piece)
    elements = dims.product(map(extent_of, outer))
    steps = dims.product(map(extent_of, node.over))
    first = extent_of(node.over[0])
    if not all(isinstance(size, int) for size in (elements, steps, first)):
        return None
    assert isinstance(elements, int) and isinstance(steps, int) and isinstance(first, int)
    if elements == 0 or steps == 0:
        return None
    shared = not outer or is_along_memory(node, outer[-1])
    wanted = target.processors * (BLOCKS if shared else THREADS) // elements
    shortest = SHORTEST_SHARED if shared else SHORTEST
    parts = min(wanted, steps // shortest, first, MOST_PARTS)
    if parts < 2:
        return None
    length = -(-first // parts)
    # Parts of one length, where some length near by divides the axis, need no guards.
    length = next((n for n in range(length, 2 * length) if first % n == 0), length)
    return _Split(node, -(-first // length), length)


def _outer(node: Reduce, piece: Piece) -> tuple[Symbol, ...]:
    depends = Dependence().of(node)
    return tuple(symbol for symbol in piece.symbols if symbol in depends)


class _Job:
    def __init__(
        self,
        piece: Piece,
        lowering: DeviceLowering,
        nodes: list[Node],
        buffers: Mapping[Value, Buffer],
    ) -> None:
        self.piece = piece
        self.lowering = lowering
        self.nodes = nodes
        self.buffers = dict(buffers)
        self.made: dict[Expression, Expression] = {}

    def parts(self, split: _Split, number: int) -> Launch:
        """The launch that computes the parts of one reduction."""
        node = split.node
        outer = _outer(node, self.piece)
        count = dims.product(map(extent_of, outer))
        part, step = Symbol("part", split.parts), Symbol("step", split.length)
        place: Size = atom(part) * split.length + atom(step)
        values: dict[Atom, Size] = {node.over[0]: place}
        body = walk_expr.substitute(node.body, values)
        if split.parts * split.length != extent_of(node.over[0]):
            inside = expr.less(place, extent_of(node.over[0]))
            body = guarded(inside, body, expr.neutral(node.name, node.dtype))
        value = expr.reduce(node.name, (step, *node.over[1:]), body)
        where = _flat(outer)
        total = Value(TensorType(node.dtype, (split.parts * count,)))
        target = Buffer("out0", node.dtype, total.type.shape)
        nest = self.lowering.nest(Piece(target, atom(part) * count + where, value, (part, *outer)))
        launch = self.lowering.launch(
            self.nodes,
            self._used(body),
            {total: target},
            Computation(nest.body, nest.operations, name="parts"),
        )
        source = Buffer(f"part{number}", node.dtype, total.type.shape)
        self.buffers[total] = source
        sums = Symbol("part", split.parts)
        load = expr.load(source, (atom(sums) * count + where,))
        self.made[node] = expr.reduce(node.name, (sums,), load)
        return launch

    def whole(self, outputs: Mapping[Value, Buffer]) -> Launch:
        """The launch that adds up the parts and computes the rest of the group."""
        value = walk_expr.replace_outermost(self.piece.value, self.made.get)
        nest = self.lowering.nest(
            Piece(self.piece.target, self.piece.offset, value, self.piece.symbols)
        )
        return self.lowering.launch(
            self.nodes, self._used(value), outputs, Computation(nest.body, nest.operations)
        )

    def _used(self, value: Expression) -> dict[Value, Buffer]:
        names = {n.buffer.name for n in walk_expr.loads_of(value)}
        return {v: buffer for v, buffer in self.buffers.items() if buffer.name in names}


def _flat(symbols: tuple[Symbol, ...]) -> Size:
    """The row-major number of the element with these indices."""
    total: Size = 0
    for symbol in symbols:
        total = total * extent_of(symbol) + atom(symbol)
    return total
