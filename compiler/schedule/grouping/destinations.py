"""Where kernels write: to memory of their own, or right into their part of a larger value.

concat(a, b)      a's kernel and b's write their slices of the whole
pad(a)            a's kernel writes the inside, the pad's own kernel only the border
pad(concat(a, b)) both
concat(reshape(concat(a, b)), ...)        phases of rows and columns that alternate: a and b, too
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
"""Rows of pixels shorter than this do not fill a contraction's tiles: it is better off with an
output in which they follow each other without gaps."""


@dataclass(frozen=True, eq=False)
class Destination:
    """What a kernel writes to: `value`, from `starts` along its axes (all of it if empty).

    `tail` are the views between what the kernel computes and the value, if there are any.
    Where the part is a value of more axes, of shape `unfolded`, whose last ones are one in the
    value, the kernel writes from `inside` along its axes.
    """

    value: Value
    starts: tuple[Size, ...] = ()
    tail: tuple[Node, ...] = ()
    unfolded: tuple[Size, ...] = ()
    inside: tuple[Size, ...] = ()

    @property
    def buffer(self) -> Buffer:
        """The kernel's output parameter, flat."""
        return Buffer("out0", self.value.type.dtype, (self.value.type.numel,))

    def offset(self, index: Index) -> Size:
        """The flat offset in the buffer of an element of what the kernel computes."""
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
        """What has to be known to write here."""
        return (*self.value.type.shape, *self.starts, *self.unfolded, *self.inside)

    def part(self, starts: Sequence[Size]) -> Destination:
        """A part of what is written here."""
        if self.unfolded:
            inside = tuple(a + b for a, b in zip(self.inside, starts, strict=True))
            return replace(self, inside=inside)
        if not self.starts:
            return Destination(self.value, tuple(starts))
        moved = tuple(a + b for a, b in zip(self.starts, starts, strict=True))
        return Destination(self.value, moved)

    def unfold(self, shape: tuple[Size, ...]) -> Destination:
        """What is written here, seen as a value of more axes."""
        return replace(self, unfolded=shape, inside=tuple(0 for _ in shape))


def is_fold(node: Node) -> bool:
    """Whether a node makes the last axes of a concatenation one."""
    if node.operator.name != "reshape":
        return False
    before, after = node.inputs[0].type.shape, node.output.type.shape
    kept = len(after) - 1
    return 0 < kept < len(before) - 1 and before[:kept] == after[:kept]


def is_of_phases(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a concatenation puts rows side by side that are concatenations themselves."""
    for part in node.inputs:
        fold = producers.get(part)
        if fold is None or not is_fold(fold):
            return False
        inner = producers.get(fold.inputs[0])
        if inner is None or inner.operator.name != "concat":
            return False
    return True


def parts_of(node: Node) -> list[tuple[Value, tuple[Size, ...]]]:
    """The operands that may lie in the output of a concatenation or a pad, and where they begin."""
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
    """Whether the kernel of a pad's operand can write it to the inside of the padded value."""
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
    """The values whose kernels write them to their part of another, their only reader.

    `derived` are names for sizes, each in terms of the symbols and of the names before it.
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
        """Whether a node's operands may lie in its output."""
        if node.operator.name == "pad":
            producer = self.producers.get(node.inputs[0])
            return fills_inside(node, self.users, producer, self.graph.outputs)
        return node.operator.name == "concat"

    def _written_to(self, node: Node, whole: Destination) -> Iterator[tuple[Value, Destination]]:
        """The operands of a node whose output is `whole` that are written there, and where."""
        folds = node.operator.name == "concat" and is_of_phases(node, self.producers)
        for part, starts in parts_of(node):
            place = whole.part(starts)
            if folds and not whole.unfolded and len(self.users[part]) == 1:
                part = self.producers[part].inputs[0]
                place = place.unfold(part.type.shape)
            if self._may_be_written_to(part, place):
                yield part, place

    def _may_be_written_to(self, part: Value, place: Destination) -> bool:
        """Whether a value has a kernel, which can find the place, and no other reader."""
        producer = self.producers.get(part)
        if producer is None or producer.operator.is_view or part not in self.roots:
            return False
        if part in self.graph.outputs or len(self.users[part]) != 1:
            return False
        return _known_at(place, self.known_behind) < self.places[producer]


def _known_behind(graph: Graph, derived: Mapping[str, Size]) -> dict[str, int]:
    """Names of sizes that nodes set while they run, and the place of the last node that sets one
    or something that it is computed from."""
    found = {name: at for at, node in enumerate(graph.nodes) for name in defined_symbols(node)}
    for name, definition in derived.items():
        places = [found[other] for other in symbol_names(definition) if other in found]
        if places:
            found[name] = max(places)
    return found


def _known_at(destination: Destination, known_behind: Mapping[str, int]) -> int:
    """The place of the node behind which a kernel can find its part; -1 if it always can."""
    names = {name for size in destination.sizes for name in symbol_names(size)}
    return max((known_behind.get(name, -1) for name in names), default=-1)
