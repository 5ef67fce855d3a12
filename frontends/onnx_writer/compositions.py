"""Finds in a graph what was composed of several operators and is one operator in ONNX.

A candidate is recognized by its last node; the composition is then written anew, on inputs of the
same types, by the function of ops/composite/ that composes it, and both are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite.composite_normalize import batch_norm, layer_norm
from bessemer.compiler.ops.composite.composite_reduce import log_softmax, mean, softmax

Producers = Mapping[Value, Node]


@dataclass(frozen=True)
class Composition:
    """One operator of ONNX, its inputs, and its attributes; `axes` are those of the value."""

    kind: str
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Proposal:
    """What a node may be the end of: how it would be composed, of inputs of these types."""

    kind: str
    compose: Callable[..., Value]
    types: tuple[TensorType, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    axes: tuple[int, ...] = ()


def find_compositions(graph: Graph) -> dict[Node, Composition]:
    """What ONNX has one operator for, by its last node."""
    producers = graph.producers()
    found: dict[Node, Composition] = {}
    for node in graph.nodes:
        for proposal in _proposals(node, producers):
            inputs = _match(proposal, node, producers)
            if inputs is not None:
                found[node] = Composition(proposal.kind, inputs, proposal.attributes, proposal.axes)
                break
    return found


def _match(proposal: _Proposal, node: Node, producers: Producers) -> tuple[Value, ...] | None:
    """The values that stand for the composition's inputs, if it is what the node ends."""
    b = GraphBuilder("pattern")
    inputs = [b.input(f"x{k}", type) for k, type in enumerate(proposal.types)]
    try:
        output = proposal.compose(b, *inputs)
    except CompileError:
        return None
    bound: dict[Value, Value] = {}
    if not _is_same(output, node.output, b, producers, bound, frozenset(inputs)):
        return None
    return tuple(bound[value] for value in inputs) if len(bound) == len(inputs) else None


def _is_same(
    pattern: Value, value: Value, b: GraphBuilder, producers: Producers,
    bound: dict[Value, Value], inputs: frozenset[Value],
) -> bool:  # fmt: skip
    if pattern in inputs:
        return bound.setdefault(pattern, value) is value and pattern.type == value.type
    wanted, node = b.producer(pattern), producers.get(value)
    if wanted is None or node is None or wanted.operator is not node.operator:
        return False
    if dict(wanted.attributes) != dict(node.attributes) or node.regions:
        return False
    pairs = zip(wanted.inputs, node.inputs)
    return len(wanted.inputs) == len(node.inputs) and all(
        _is_same(left, right, b, producers, bound, inputs) for left, right in pairs
    )


# What a node may end


UNARY: tuple[tuple[str, str, Callable[[GraphBuilder, Value], Value], dict[str, Any]], ...] = (
    ("mul", "Gelu", activation.gelu, {}),
    ("mul", "Gelu", lambda b, x: activation.gelu(b, x, tanh=True), {"approximate": "tanh"}),
    ("mul", "HardSwish", activation.hard_swish, {}),
    ("mul", "Mish", activation.mish, {}),
    ("mul", "Selu", activation.selu, {}),
    ("add", "Softplus", activation.softplus, {}),
    ("div", "Softsign", activation.softsign, {}),
    ("add", "Elu", activation.elu, {}),
)
"""Pointwise functions: the last node's operator, ONNX's operator, composition, attributes."""


def _proposals(node: Node, producers: Producers) -> Iterator[_Proposal]:
    match node.operator.name:
        case "div":
            yield from _means(node, producers)
            yield from _softmaxes("Softmax", softmax, node, producers)
        case "sub":
            yield from _softmaxes("LogSoftmax", log_softmax, node, producers)
        case "add":
            yield from _layer_norms(node, producers)
            yield from _batch_norms(node, producers)
        case _:
            pass
    if node.operator.name in {last for last, *_ in UNARY} and not _is_broadcast(node, producers):
        for last, kind, compose, attributes in UNARY:
            if last == node.operator.name:
                yield _Proposal(kind, compose, (node.output.type,), attributes)


def _is_broadcast(node: Node, producers: Producers) -> bool:
    """Whether an operand is a broadcast view: pointwise functions of one tensor have none."""
    made = [producers.get(value) for value in node.inputs]
    return any(p is not None and p.operator.name == "broadcast_to" for p in made)


def _path(value: Value, producers: Producers, *operators: str) -> Node | None:
    """The last of nodes with these operators, each the producer of the one before's first input.

    Reshapes and broadcasts on the way are passed over.
    """
    node: Node | None = None
    for operator in operators:
        node = producers.get(value)
        while node is not None and node.operator.name in ("reshape", "broadcast_to"):
            node = producers.get(node.inputs[0])
        if node is None or node.operator.name != operator or not node.inputs:
            return None
        value = node.inputs[0]
    return node


def _number(value: Value, producers: Producers) -> float | None:
    """The number that a `full` is everywhere."""
    node = producers.get(value)
    if node is None or node.operator.name != "full":
        return None
    return float(node.attributes["value"])


def _means(node: Node, producers: Producers) -> Iterator[_Proposal]:
    total = _path(node.inputs[0], producers, "reduce_sum")
    if total is None:
        return
    axes, x = total.attributes["axes"], total.inputs[0].type
    keep = node.output.type.rank == x.rank
    yield _Proposal(
        "ReduceMean", lambda b, v: mean(b, v, axes, keep), (x,), {"keepdims": int(keep)}, axes
    )


def _softmaxes(
    kind: str, compose: Callable[..., Value], node: Node, producers: Producers
) -> Iterator[_Proposal]:
    below = ("reduce_sum",) if kind == "Softmax" else ("log", "reduce_sum")
    total = _path(node.inputs[1], producers, *below)
    if total is not None and len(total.attributes["axes"]) == 1:
        axes = total.attributes["axes"]
        yield _Proposal(kind, lambda b, x: compose(b, x, axes), (node.output.type,), {}, axes)


def _spread(value: Value, producers: Producers) -> Value | None:
    """What was broadcast."""
    node = producers.get(value)
    if node is None or node.operator.name != "broadcast_to":
        return None
    return node.inputs[0]


def _layer_norms(node: Node, producers: Producers) -> Iterator[_Proposal]:
    scaled, bias = producers.get(node.inputs[0]), _spread(node.inputs[1], producers)
    if scaled is None or scaled.operator.name != "mul" or bias is None:
        return
    scale, normal = _spread(scaled.inputs[1], producers), producers.get(scaled.inputs[0])
    if scale is None or normal is None or len(normal.inputs) != 2:
        return
    inverse = _path(normal.inputs[1], producers, "rsqrt", "add")
    epsilon = None if inverse is None else _number(inverse.inputs[1], producers)
    x, count = node.output.type, scale.type.rank
    if epsilon is None or scale.type.shape != x.shape[x.rank - count :]:
        return
    axes = tuple(range(x.rank - count, x.rank))
    yield _Proposal(
        "LayerNormalization",
        lambda b, v, s, t: layer_norm(b, v, s, t, axes, epsilon),
        (x, scale.type, bias.type),
        {"axis": -count, "epsilon": epsilon},
        axes,
    )


def _batch_norms(node: Node, producers: Producers) -> Iterator[_Proposal]:
    scaled = producers.get(node.inputs[0])
    if scaled is None or scaled.operator.name != "mul":
        return
    factor = _path(scaled.inputs[1], producers, "div")
    deviation = None if factor is None else _path(factor.inputs[1], producers, "sqrt", "add")
    if factor is None or deviation is None:
        return
    epsilon, vector = _number(deviation.inputs[1], producers), factor.output.type
    view = _spread(scaled.inputs[1], producers)
    if epsilon is None or view is None or vector.rank != 1:
        return
    x = node.output.type
    padded = (*[1] * (x.rank - view.type.rank), *view.type.shape)
    axes = tuple(axis for axis, size in enumerate(padded) if size != 1) or (1,)
    yield _Proposal(
        "BatchNormalization",
        lambda b, v, s, t, m, d: batch_norm(b, v, s, t, m, d, epsilon, axes[0]),
        (x, vector, vector, vector, vector),
        {"epsilon": epsilon},
        axes,
    )
