"""Makes sums over a batch from the sums over each of its images, where both are computed.

The gradients of a group norm or an instance norm add up the same products twice, with factors that
are constant over an image, and so can be applied to its sums:

    reduce_sum(dy * d * inverse, axes=(0, 1, 2))          for the scale
    reduce_sum(neg(dy * scale * d), axes=(1, 2))          for x
becomes
    s = reduce_sum(dy * d, axes=(1, 2))
    reduce_sum(s * inverse, axes=(0,))
    neg(s * scale)

Then `dy * scale`, which both the sums and the gradient of x would read, need not be stored, and dy
and d are read once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import f32, f64

_MOST_FACTORS = 16
"""Of one sum. A square of a square of a square has eight times the same one, and so on."""


@dataclass(frozen=True, eq=False)
class _Sum:
    """A sum of products. Factors may have other axes than the operand behind the ones that are
    added up: reshapes are looked through. An odd number of negations makes it `negative`."""

    node: Node
    factors: tuple[Value, ...]
    negative: bool

    @property
    def axes(self) -> frozenset[int]:
        return frozenset(self.node.attributes["axes"])

    @property
    def front(self) -> tuple[Size, ...]:
        """The operand's axes up to the last one that is added up."""
        return self.node.inputs[0].type.shape[: max(self.axes) + 1]


def share_image_sums(graph: Graph) -> Graph:
    """The same network with such sums, also inside of regions."""
    nodes = tuple(map_regions(node, share_image_sums) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    shared = _shared(graph)
    if not shared:
        return graph
    rewriter = GraphRewriter(graph)
    writer = _Writer(rewriter, graph.producers(), {})
    for node in graph.nodes:
        if node in shared:
            rewriter.sources = node.sources
            rewriter.stand(node.output, writer.write(*shared[node]))
        else:
            rewriter.visit(node)
    return rewriter.finish()


def _shared(graph: Graph) -> dict[Node, tuple[_Sum, frozenset[int]]]:
    """The sums to rewrite, with the axes over which one sum serves all of a kind."""
    producers = graph.producers()
    kinds: dict[tuple[Size, ...], list[_Sum]] = {}
    for node in graph.nodes:
        if _keeps_channels(node):
            factors, negative = _factors(node, producers)
            found = _Sum(node, tuple(factors), negative)
            kinds.setdefault(found.front, []).append(found)
    result: dict[Node, tuple[_Sum, frozenset[int]]] = {}
    for sums in kinds.values():
        for inner in sums:
            axes, wide = inner.axes, _varying(inner, inner.axes, producers)
            larger = [
                other for other in sums
                if other.axes > axes and _varying(other, axes, producers) == wide
            ]  # fmt: skip
            if larger and inner.node not in result:
                result |= {each.node: (each, axes) for each in (inner, *larger)}
    return result


def _keeps_channels(node: Node) -> bool:
    """Whether a node adds up floats over axes of which the last one is not one."""
    if node.operator.name != "reduce_sum" or node.output.type.dtype not in (f32, f64):
        return False
    axes = node.attributes["axes"]
    return bool(axes) and max(axes) < node.inputs[0].type.rank - 1


def _factors(node: Node, producers: dict[Value, Node]) -> tuple[list[Value], bool]:
    """What a sum's operand is the product of, and whether it is negated."""
    front = node.inputs[0].type.shape[: max(node.attributes["axes"]) + 1]
    factors: list[Value] = []
    negative, waiting = False, [node.inputs[0]]
    while waiting:
        value = waiting.pop()
        maker = producers.get(value) if len(factors) + len(waiting) < _MOST_FACTORS else None
        match maker.operator.name if maker is not None else "":
            case "mul" | "neg" as name:
                assert maker is not None
                waiting += reversed(maker.inputs)
                negative ^= name == "neg"
            case "reshape" if maker and maker.inputs[0].type.shape[: len(front)] == front:
                waiting.append(maker.inputs[0])
            case _:
                factors.append(value)
    return factors, negative


def _varying(found: _Sum, axes: frozenset[int], producers: dict[Value, Node]) -> Counter[Value]:
    """The factors that are not the same all along these axes."""
    return Counter(f for f in found.factors if not _repeats(f, axes, producers))


def _repeats(value: Value, axes: frozenset[int], producers: dict[Value, Node]) -> bool:
    """Whether a value is broadcast along axes."""
    maker = producers.get(value)
    if maker is None or maker.operator.name != "broadcast_to":
        return False
    source = maker.inputs[0].type.shape
    added = value.type.rank - len(source)
    return all(axis < added or source[axis - added] == 1 for axis in axes)


@dataclass(frozen=True, eq=False)
class _Writer:
    """Writes sums from those of `written`, by their factors and axes."""

    rewriter: GraphRewriter
    producers: dict[Value, Node]
    written: dict[tuple[frozenset[tuple[Value, int]], frozenset[int]], Value]

    def write(self, found: _Sum, axes: frozenset[int]) -> Value:
        emit, wanted = self.rewriter.emit, found.node.output.type.shape
        total = self._image_sums(found, axes)
        for factor in found.factors:
            if _repeats(factor, axes, self.producers):
                total = emit("mul", total, self._once(factor, axes, total.type.shape))
        left = sorted(found.axes - axes)
        if left:
            places = tuple(axis - sum(other < axis for other in axes) for axis in left)
            total = emit("reduce_sum", total, axes=places)
        total = emit("neg", total) if found.negative else total
        return total if total.type.shape == wanted else emit("reshape", total, shape=wanted)

    def _image_sums(self, found: _Sum, axes: frozenset[int]) -> Value:
        """The sums of what varies along the axes: what is left of these, then one axis."""
        varying = _varying(found, axes, self.producers)
        key = (frozenset(varying.items()), axes)
        if key not in self.written:
            operand = found.node.inputs[0].type.shape
            front = found.front
            shape = (*front, product(operand[len(front) :]))
            parts = [self._reshaped(self.rewriter.now(f), shape) for f in varying.elements()]
            whole = parts[0]
            for part in parts[1:]:
                whole = self.rewriter.emit("mul", whole, part)
            self.written[key] = self.rewriter.emit("reduce_sum", whole, axes=tuple(sorted(axes)))
        return self.written[key]

    def _once(self, factor: Value, axes: frozenset[int], shape: Sequence[Size]) -> Value:
        """A factor without the axes along which it is broadcast."""
        source = self.rewriter.now(self.producers[factor].inputs[0])
        added = factor.type.rank - source.type.rank
        kept = [axis for axis in range(factor.type.rank) if axis not in axes]
        small = tuple(source.type.shape[axis - added] if axis >= added else 1 for axis in kept)
        spread = tuple(factor.type.shape[axis] for axis in kept)
        value = self._reshaped(source, small)
        if small != spread:
            value = self.rewriter.emit("broadcast_to", value, shape=spread)
        return self._reshaped(value, tuple(shape))

    def _reshaped(self, value: Value, shape: tuple[Size, ...]) -> Value:
        if value.type.shape == shape:
            return value
        return self.rewriter.emit("reshape", value, shape=shape)
