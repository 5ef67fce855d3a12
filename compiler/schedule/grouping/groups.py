"""The records that grouping makes. A group is the nodes that one kernel computes together.

form_groups.py makes them, and the lowering functions in ../lowering read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Bands
from bessemer.compiler.schedule.convolution.padding_regions import Region
from bessemer.compiler.schedule.grouping.attention import Attention
from bessemer.compiler.schedule.grouping.views import Source, source_of, view_chain


@dataclass(eq=False)
class Group:
    """The nodes of one kernel. `root` is the value that it writes. A group that packs the right
    operand of a contraction has the contraction as `packs` instead.

    `tail` are the views between `core`, the value whose shape the kernel has, and the root.
    `anchor` is the group's contraction, if it has one. `ways` are those by which the group
    reads each value (repeated_work.py).
    """

    root: Value | None
    packs: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    anchor: Node | None = None
    reductions: list[Node] = field(default_factory=list)
    heavy: list[Node] = field(default_factory=list)
    tail: tuple[Node, ...] = ()
    attention: Attention | None = None
    ways: dict[Value, dict[tuple[Node, ...], float]] = field(default_factory=dict)

    @property
    def core(self) -> Value:
        """The value that the kernel computes, before views that only move its elements."""
        assert self.root is not None
        return self.tail[0].inputs[0] if self.tail else self.root

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape over which the kernel iterates."""
        if self.root is not None:
            return self.root.type.shape
        assert self.packs is not None
        return self.packs.inputs[1].type.shape


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a graph or region: `roots` by the value that they write, and `packs`, those
    that pack a right operand, by the contraction.

    `producers` are all nodes by output, and `bands` the bands of matrix products
    (diagonal_bands.py). The `unpadded` convolutions read the image in place of a padded copy,
    region by region.
    """

    roots: dict[Value, Group]
    packs: dict[Node, Group]
    producers: dict[Value, Node]
    bands: dict[Node, Bands]
    unpadded: dict[Node, list[Region]] = field(default_factory=dict)

    def views(self, value: Value) -> dict[Value, Node]:
        """The views between a value and the memory in which it lies, which may be that of a group's
        root."""
        return view_chain(value, self.producers, self.roots)

    def own_sources(self, product: Node) -> list[Source | None]:
        """Where the operands of a product lie; nothing if other products pack its right one, too,
        which is done once for all."""
        right = product.inputs[1]
        if any(other is not product and other.inputs[1] is right for other in self.packs):
            return []
        return [source_of(value, self.views(value)) for value in product.inputs]


def in_order(group: Group | None) -> list[Node]:
    """The nodes of a group, if there is one, in the order of computation."""
    return [] if group is None else list(dict.fromkeys(reversed(group.nodes)))
