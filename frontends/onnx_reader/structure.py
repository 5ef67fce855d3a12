"""The shape of a model as a graph of names: orders, scopes, and what is wrong with them.

Nothing here looks at what operators mean.
"""

from __future__ import annotations

import graphlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import onnx

from bessemer.compiler.errors import CompileError
from bessemer.frontends.onnx_reader import limits


def node_label(node: onnx.NodeProto) -> str:
    """How messages name a node: operator and name, or its first output where it has no name."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{operator_name(node.domain, node.op_type)} '{name}'"


def operator_name(domain: str, operator: str) -> str:
    """An operator's name, with its domain unless that is ONNX's own."""
    return operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check_graph(graph: onnx.GraphProto, where: str) -> None:
    """Names, single assignment, definition before use (in some order), in subgraphs too.

    Raises CompileError.
    """
    _check_graph(graph, where, frozenset(), 0, [limits.NODES])


def _check_graph(
    graph: onnx.GraphProto, where: str, outer: frozenset[str], depth: int, budget: list[int]
) -> None:
    """`outer` are the names that enclosing graphs define; `budget` is what is left of the nodes."""
    if depth > limits.NESTING:
        raise CompileError(f"{where}: graphs are nested more than {limits.NESTING} deep")
    budget[0] -= len(graph.node)
    if budget[0] < 0:
        raise CompileError(f"{where}: has more than {limits.NODES} nodes")
    inputs = [value.name for value in graph.input]
    for node in graph.node:
        _check_texts(node, f"{where}: node")
    _check_names(inputs, f"{where}: input")
    initializers = [tensor.name for tensor in graph.initializer]
    initializers += [tensor.values.name for tensor in graph.sparse_initializer]
    _check_names(initializers, f"{where}: initializer")
    defined = _definitions(graph.node, {*inputs, *initializers}, where)
    visible = outer | defined
    for node in graph.node:
        _check_inputs(node, visible, where)
        for inner in subgraphs(node):
            _check_graph(inner, f"{where}: {node_label(node)}", visible, depth + 1, budget)
    for output in graph.output:
        if output.name not in visible:
            raise CompileError(f"{where}: nothing computes the output '{output.name}'")


def _check_texts(node: onnx.NodeProto, what: str) -> None:
    for text in (node.name, node.op_type, node.domain, node.overload, *node.input):
        check_name(text, what)
    for attribute in node.attribute:
        check_name(attribute.name, f"{what} '{node.name}': an attribute")
        check_name(attribute.ref_attr_name, f"{what} '{node.name}': an attribute")


def _definitions(nodes: Iterable[onnx.NodeProto], given: set[str], where: str) -> frozenset[str]:
    defined = set(given)
    for node in nodes:
        for name in node.output:
            if not name:
                continue
            check_name(name, f"{where}: {node_label(node)}: output")
            if name in defined:
                raise CompileError(f"{where}: {node_label(node)} defines '{name}' a second time")
            defined.add(name)
    return frozenset(defined)


def _check_inputs(node: onnx.NodeProto, visible: frozenset[str], where: str) -> None:
    for name in node.input:
        if name and name not in visible:
            raise CompileError(
                f"{where}: {node_label(node)} reads '{name}', which is neither an input,"
                " nor an initializer, nor a node's output"
            )


def _check_names(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        check_name(name, what)
        if not name:
            raise CompileError(f"{what} without a name")
        if name in seen:
            raise CompileError(f"{what} '{name}' occurs twice")
        seen.add(name)


def check_name(name: str, what: str) -> None:
    """A name that can be printed; raises CompileError.

    A string that is not UTF-8 comes out of the protobuf library as bytes.
    """
    if not isinstance(name, str):
        raise CompileError(f"{what} has a name that is not UTF-8 text: {name[:40]!r}")
    if len(name) > limits.NAME_LENGTH:
        raise CompileError(f"{what} has a name of {len(name)} characters: {name[:40]!r}...")
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise CompileError(f"{what} has control characters in its name: {name!r}")


def ordered_nodes(nodes: Sequence[onnx.NodeProto], label: str) -> list[onnx.NodeProto]:
    """The nodes with every definition before its uses; as they come where that is so already.

    Raises CompileError naming the nodes of a cycle.
    """
    producer = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    needs = {
        at: [producer[name] for name in _read_names(node) if name in producer]
        for at, node in enumerate(nodes)
    }
    if all(source < at for at, sources in needs.items() for source in sources):
        return list(nodes)
    try:
        return [nodes[at] for at in graphlib.TopologicalSorter(needs).static_order()]
    except graphlib.CycleError as error:
        cycle = [node_label(nodes[at]) for at in reversed(error.args[1])]
        shown = " -> ".join(cycle[:8])
        raise CompileError(f"{label}: these nodes wait for each other: {shown}") from None


def _read_names(node: onnx.NodeProto) -> set[str]:
    """What a node reads itself and through its subgraphs."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= free_names(graph)
    if node.op_type == "Gradient":
        # What it differentiates is named in an attribute.
        names |= {one.s.decode(errors="replace") for one in node.attribute if one.name == "y"}
    return names


def free_names(graph: onnx.GraphProto) -> set[str]:
    """The names that a subgraph takes from the graphs around it."""
    bound = {value.name for value in graph.input}
    bound |= {tensor.name for tensor in graph.initializer}
    bound |= {tensor.values.name for tensor in graph.sparse_initializer}
    bound |= {name for node in graph.node for name in node.output}
    used = {output.name for output in graph.output}
    for node in graph.node:
        used |= _read_names(node)
    return used - bound


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the ordered nodes that the outputs depend on, in order."""
    wanted = {name for name in outputs if name}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= _read_names(node)
    return kept[::-1]
