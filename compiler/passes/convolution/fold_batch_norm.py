"""Folds scales and shifts by channel into the weights of the operator before them. In inference, a
batch norm consists of such a scale and shift.

    %2 = conv(%1, w)
    %3 = mul(%2, scale)      (scale, shift: one number per channel, or one for all)
    %4 = add(%3, shift)                      becomes    %2 = conv(%1, w * scale)
                                                        %4 = add(%2, shift)

Transposes in between stay where they are. The pass only applies if nothing else reads the values in
between or the weights. Any number of products and sums in any order become one product (in the
weights) and one sum. A sum alone stays as it is, and so do weights that multiply quantized numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import Array, i8, u8
from bessemer.compiler.passes.known_values import known_array, spread

CONTRACTIONS = ("conv", "conv_transpose", "matmul")
SCALES_AND_SHIFTS = ("add", "sub", "mul", "div")


@dataclass(frozen=True, eq=False)
class _Chain:
    """A contraction, and the steps after it, which compute output * scale + shift by channel."""

    contraction: Node
    steps: tuple[Node, ...]
    operands: tuple[Value, ...]  # what each step scales or shifts
    axis: int  # where the channels are in the last step's output
    scale: Array  # float64 [channels]
    shift: Array


def fold_batch_norm(graph: Graph) -> Graph:
    """The graph with each such chain folded, also inside of regions."""
    chains = _find_chains(graph)
    firsts = {chain.contraction: chain for chain in chains}
    lasts = {chain.steps[-1]: chain for chain in chains}
    dropped = {s: value for chain in chains for s, value in zip(chain.steps, chain.operands)}
    rewriter = GraphRewriter(graph)
    for node in graph.nodes:
        rewriter.sources = node.sources
        if node in firsts:
            rewriter.stand(node.output, _fold_scale(rewriter, firsts[node]))
        elif node in lasts:
            rewriter.stand(node.output, _add_shift(rewriter, lasts[node]))
        elif node in dropped:
            rewriter.stand(node.output, rewriter.now(dropped[node]))
        else:
            renewed = map_regions(rewriter.renewed(node), fold_batch_norm)
            rewriter.changed |= renewed is not node
            rewriter.append(renewed)
    return rewriter.finish()


def _fold_scale(rewriter: GraphRewriter, chain: _Chain) -> Value:
    node = chain.contraction
    x, w = node.inputs
    array = rewriter.constants[w]
    scale = _along_weights(node, array, chain.scale)
    # In float64 and rounded once: the folded weights are as good as the product could be.
    scaled = (array.astype(np.float64) * scale).astype(array.dtype)
    weights = rewriter.constant(scaled, w.name)
    merged = (node, *chain.steps)
    new = (rewriter.now(x), weights)
    return rewriter.emit_many(node.operator.name, new, node.attributes, merged)[0]


def _along_weights(node: Node, weights: Array, scale: Array) -> Array:
    """The scale in a shape that multiplies the weights by output channel."""
    if node.operator.name != "conv_transpose":
        return scale
    groups = node.attributes["groups"]
    outputs, inputs = weights.shape[-2:]
    # [kernel..., outputs of a group, inputs of all groups]: the group is that of the input.
    by_group = scale.reshape(groups, outputs)
    return np.repeat(by_group, inputs // groups, axis=0).T


def _add_shift(rewriter: GraphRewriter, chain: _Chain) -> Value:
    last = chain.steps[-1]
    value = rewriter.now(chain.operands[-1])
    if not chain.shift.any():
        return value
    type = last.output.type
    shape = (-1, *(1 for _ in range(chain.axis + 1, type.rank)))
    shift = spread(rewriter, chain.shift.astype(type.dtype.numpy).reshape(shape), type)
    return rewriter.emit("add", value, shift, merged=chain.steps)


def _find_chains(graph: Graph) -> list[_Chain]:
    search = _Search(graph)
    contractions = [node for node in graph.nodes if node.operator.name in CONTRACTIONS]
    return [chain for node in contractions if (chain := search.chain(node)) is not None]


class _Search:
    def __init__(self, graph: Graph) -> None:
        self.constants = graph.constants
        self.users = graph.users()
        self.producers = graph.producers()
        self.outputs = set(graph.outputs)

    def chain(self, node: Node) -> _Chain | None:
        weights, value = node.inputs[1], node.output
        if weights not in self.constants or self.only_reader(weights) is None:
            return None
        count = value.type.shape[-1]
        if not weights.type.dtype.is_float or not isinstance(count, int):
            return None
        if self.is_whole(node.inputs[0]):
            return None
        scale, shift = np.ones(count), np.zeros(count)
        axis = last_axis = value.type.rank - 1
        steps: list[Node] = []
        operands: list[Value] = []
        while (step := self.only_reader(value)) is not None:
            if step.operator.name == "transpose":
                axis = step.attributes["permutation"].index(axis)
            elif (changed := self.step(step, value, axis, scale, shift)) is not None:
                scale, shift = changed
                steps.append(step)
                operands.append(value)
                last_axis = axis
            else:
                break
            value = step.output
        is_sum = len(steps) < 2 and (scale == 1).all()
        sane = np.isfinite(scale).all() and np.isfinite(shift).all()
        if is_sum or not sane:
            return None
        return _Chain(node, tuple(steps), tuple(operands), last_axis, scale, shift)

    def is_whole(self, value: Value) -> bool:
        """Whether a float tensor holds 8-bit integers. Sums of their products are exact, and stay
        so only if the weights stay whole numbers."""
        node = self.producers.get(value)
        if node is not None and node.operator.name in ("add", "sub"):
            node = self.producers.get(node.inputs[0])
        return (
            node is not None
            and node.operator.name == "cast"
            and node.inputs[0].type.dtype in (i8, u8)
        )

    def only_reader(self, value: Value) -> Node | None:
        readers = self.users.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def step(
        self, node: Node, value: Value, axis: int, scale: Array, shift: Array
    ) -> tuple[Array, Array] | None:
        """The scale and shift after one more node; None if the node is neither."""
        if node.operator.name not in SCALES_AND_SHIFTS:
            return None
        is_left = node.inputs[0] is value
        operand = self.by_channel(node.inputs[1 if is_left else 0], axis, len(scale))
        if operand is None:
            return None
        match node.operator.name:
            case "add":
                return scale, shift + operand
            case "sub":
                return (scale, shift - operand) if is_left else (-scale, operand - shift)
            case "mul":
                return scale * operand, shift * operand
            case "div" if is_left and operand.all():
                return scale / operand, shift / operand
            case _:
                return None

    def by_channel(self, value: Value, axis: int, count: int) -> Array | None:
        """A known value as one float64 per channel, if it differs along that axis only."""
        array = known_array(value, self.constants, self.producers.get)
        if array is None:
            return None
        own_axis = axis - (value.type.rank - array.ndim)
        if any(size != 1 for place, size in enumerate(array.shape) if place != own_axis):
            return None
        return np.broadcast_to(array.reshape(-1), (count,)).astype(np.float64)
