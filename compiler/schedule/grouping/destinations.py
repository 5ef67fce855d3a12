"""Decides where each kernel writes: to memory of its own, or directly into its part of a larger
value.

    concat(a, b)      the kernels of a and b write their slices of the whole
    pad(a)            a's kernel writes the inside, the pad's own kernel only the border
    pad(concat(a, b)) both
    concat(reshape(concat(a, b)), ...)        alternating phases of rows and columns: a and b, too
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir.dims import Size, is_nonnegative, symbol_names
from bessemer.compiler.ir.expr import Buffer, Index
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.schedule.grouping.moves import moved_offset

NARROWEST = 11
"""A contraction does not write into a padded value if its rows of pixels are shorter than this: a
full tile then spans several rows, which must be contiguous."""


@dataclass(frozen=True, eq=False)
class Destination:
    """Where a kernel writes: into `value`, from the index `starts` on (all of it if that is empty).

    `tail` are the views between what the kernel computes and the value, if there are any. If
    `unfolded` is not empty, the kernel writes a part of a value of that shape, from the index
    `inside` on; the last axes of that shape are a single axis of `value`.
    """

    value: Value
    starts: tuple[Size, ...] = ()
    tail: tuple[Node, ...] = ()
    unfolded: tuple[Size, ...] = ()
    inside: tuple[Size, ...] = ()

    @property
    def buffer(self) -> Buffer:
        """The output parameter of the kernel, flat."""
        return Buffer("out0", self.value.type.dtype, (self.value.type.numel,))

    def offset(self, index: Index) -> Size:
        """The flat offset in the buffer of the element that the kernel computes at an index."""
        if self.tail:
            return moved_offset(index, self.tail)
        shape = self.value.type.shape
        if self.unfolded:
            within = tuple(i + start for i, start in zip(index, self.inside, strict=True))
            kept = len(shape) - 1
            behind = Buffer("part", self.value.type.dtype, self.unfolded[kept:])
            index = (*within[:kept], behind.offset(within[kept:]))
        shifted = index
        if self.starts:
            shifted = tuple(i + start for i, start in zip(index, self.starts, strict=True))
        return Buffer("out0", self.value.type.dtype, shape).offset(shifted)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that must be known before the kernel can run."""
        return (*self.value.type.shape, *self.starts, *self.unfolded, *self.inside)

    def part(self, starts: Sequence[Size]) -> Destination:
        """The part that begins at `starts` of what is written here."""
        if self.unfolded:
            inside = tuple(a + b for a, b in zip(self.inside, starts, strict=True))
            return replace(self, inside=inside)
        if not self.starts:
            return Destination(self.value, tuple(starts))
        moved = tuple(a + b for a, b in zip(self.starts, starts, strict=True))
        return Destination(self.value, moved)

    def unfold(self, shape: tuple[Size, ...]) -> Destination:
        """The same place, as a value with more axes."""
        return replace(self, unfolded=shape, inside=tuple(0 for _ in shape))


def is_fold(node: Node) -> bool:
    """Whether a node is a reshape that merges the last axes of its input into one."""
    if node.operator.name != "reshape":
        return False
    before, after = node.inputs[0].type.shape, node.output.type.shape
    kept = len(after) - 1
    return 0 < kept < len(before) - 1 and before[:kept] == after[:kept]


def is_of_phases(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a concatenation joins reshaped concatenations, as interleaved rows and columns are
    made."""
    for part in node.inputs:
        fold = producers.get(part)
        if fold is None or not is_fold(fold):
            return False
        inner = producers.get(fold.inputs[0])
        if inner is None or inner.operator.name != "concat":
            return False
    return True


def parts_of(node: Node) -> list[tuple[Value, tuple[Size, ...]]]:
    """The operands that may be written directly into the output of a concatenation or pad, with the
    index at which each begins."""
    rank = node.output.type.rank
    if node.operator.name == "pad":
        return [(node.inputs[0], node.attributes["low"])]
    axis = node.attributes["axis"] % rank
    found: list[tuple[Value, tuple[Size, ...]]] = []
    start: Size = 0
    for part in node.inputs:
        found.append((part, tuple(start if a == axis else 0 for a in range(rank))))
        start = start + part.type.shape[axis]
    return found


def fills_inside(
    pad: Node,
    users: Mapping[Value, Sequence[Node]],
    producer: Node | None,
    outputs: Container[Value],
) -> bool:
    """Whether the kernel of a pad's operand can write it to the inside of the padded value.
    `producer` is the node that computes the operand."""
    (value,) = pad.inputs
    if pad.attributes["mode"] != "constant" or producer is None or value in outputs:
        return False
    operator = producer.operator
    if operator.is_view or (operator.element is None and operator.name not in ("conv", "matmul")):
        return False
    ends = (*pad.attributes["low"], *pad.attributes["high"])
    if len(users[value]) != 1 or not all(is_nonnegative(size) for size in ends):
        return False
    row = value.type.shape[-2] if value.type.rank > 1 else 1
    return not isinstance(row, int) or row >= NARROWEST


def destinations(
    graph: Graph, roots: Container[Value], derived: Mapping[str, Size]
) -> dict[Value, Destination]:
    """The values that are written directly into another value, their only reader, and where.

    `roots` are the values that have kernels. `derived` are names for sizes, each defined in terms
    of symbols and of earlier names.
    """
    return _Search(graph, roots, derived).destinations()


class _Search:
    def __init__(self, graph: Graph, roots: Container[Value], derived: Mapping[str, Size]) -> None:
        self.graph, self.roots = graph, roots
        self.users, self.producers = graph.users(), graph.producers()
        self.places = {node: place for place, node in enumerate(graph.nodes)}
        self.known_behind = _known_behind(graph, derived)

    def destinations(self) -> dict[Value, Destination]:
        found: dict[Value, Destination] = {}
        for node in reversed(self.graph.nodes):
            if self._holds_operands(node) and node.output in self.roots:
                whole = found.get(node.output, Destination(node.output))
                found |= dict(self._written_to(node, whole))
        return found

    def _holds_operands(self, node: Node) -> bool:
        """Whether a node's operands may be written directly into its output."""
        if node.operator.name == "pad":
            producer = self.producers.get(node.inputs[0])
            return fills_inside(node, self.users, producer, self.graph.outputs)
        return node.operator.name == "concat"

    def _written_to(self, node: Node, whole: Destination) -> Iterator[tuple[Value, Destination]]:
        """The operands of a node, whose output is at `whole`, that are written into it, and
        where."""
        folds = node.operator.name == "concat" and is_of_phases(node, self.producers)
        for part, starts in parts_of(node):
            place = whole.part(starts)
            if folds and not whole.unfolded and len(self.users[part]) == 1:
                part = self.producers[part].inputs[0]
                place = place.unfold(part.type.shape)
            if self._may_be_written_to(part, place):
                yield part, place

    def _may_be_written_to(self, part: Value, place: Destination) -> bool:
        """Whether a value has a kernel that knows the place when it runs, and no other reader."""
        producer = self.producers.get(part)
        if producer is None or producer.operator.is_view or part not in self.roots:
            return False
        if part in self.graph.outputs or len(self.users[part]) != 1:
            return False
        return _known_at(place, self.known_behind) < self.places[producer]


def _known_behind(graph: Graph, derived: Mapping[str, Size]) -> dict[str, int]:
    """The names of sizes that nodes set while they run, with the position of the last node that
    sets one, or that sets something from which it is computed."""
    found = {name: at for at, node in enumerate(graph.nodes) for name in defined_symbols(node)}
    for name, definition in derived.items():
        places = [found[other] for other in symbol_names(definition) if other in found]
        if places:
            found[name] = max(places)
    return found


def _known_at(destination: Destination, known_behind: Mapping[str, int]) -> int:
    """The position of the node after which a kernel knows its destination; -1 if it always does."""
    names = {name for size in destination.sizes for name in symbol_names(size)}
    return max((known_behind.get(name, -1) for name in names), default=-1)
