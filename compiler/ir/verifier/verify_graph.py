"""Checks that a graph is valid, as graph.py defines it; the driver calls it after every pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.dims import Dim, symbol_names
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.rewrite import defined_symbols
from bessemer.compiler.ir.text.text_graph import format_attribute, print_node
from bessemer.compiler.ir.types import TensorType, type_of


def verify_graph(graph: Graph) -> None:
    """Raises InternalError, with the guilty node and the user's node that it came from, unless

    - every value is defined once, before it is read, in the graph or region that reads it;
    - every node has the types that its operator infers, and attributes of the allowed types;
    - every dimension symbol has a value before it is used;
    - constants have the types of their arrays, and there is a name for each output;
    - outputs take the place of inputs of their type, each of another one; those that must be finite
      are single floats.
    """
    _Verifier().graph(graph, frozenset())


class _Verifier:
    def __init__(self) -> None:
        self.defined: set[Value] = set()  # in the whole graph: a region defines no value again

    def graph(self, graph: Graph, outer_symbols: frozenset[str]) -> None:
        known = {*outer_symbols, *graph.symbols}
        visible: set[Value] = set()
        for value in graph.inputs:
            self.define(value, visible, f"input {value.name} of {graph.name}")
            self.check_symbols(_in_types([value]), known, f"input {value.name} of {graph.name}")
        for value, array in graph.constants.items():
            self.define(value, visible, f"constant {value.name} of {graph.name}")
            if type_of(array) != value.type:
                _fail(f"constant {value.name} : {value.type} holds {type_of(array)}")
        for node in graph.nodes:
            self.node(node, visible, known)
        missing = [value for value in graph.outputs if value not in visible]
        if missing:
            _fail(f"graph {graph.name} returns {missing[0].type}, which nothing computes")
        if len(graph.output_names) != len(graph.outputs):
            _fail(f"graph {graph.name} has names {graph.output_names} for its outputs")
        _check_updates(graph)

    def node(self, node: Node, visible: set[Value], known: set[str]) -> None:
        for value in node.inputs:
            if value not in visible:
                why = "out of its graph" if value in self.defined else "before it is computed"
                _fail(f"{node.operator} reads {value.type} {value.name!r} {why}", node)
        if OPS.get(node.operator.name) is not node.operator:
            _fail(f"{node.operator} is not the registered operator", node)
        self.check_symbols(_in_attributes(node.attributes.values()), known, "an attribute", node)
        for name in defined_symbols(node):
            if name in known:
                _fail(f"the symbol {name} gets a value twice", node)
        for region in node.regions:
            self.graph(region, frozenset(known))
        known.update(defined_symbols(node))
        _check_types(node)
        self.check_symbols(_in_types(node.outputs), known, "an output", node)
        for value in node.outputs:
            self.define(value, visible, "an output", node)

    def define(
        self, value: Value, visible: set[Value], what: str, node: Node | None = None
    ) -> None:
        if value in self.defined:
            _fail(f"{what} is defined twice", node)
        self.defined.add(value)
        visible.add(value)

    def check_symbols(
        self, used: set[str], known: set[str], what: str, node: Node | None = None
    ) -> None:
        if not used <= known:
            _fail(f"{what} uses {', '.join(sorted(used - known))}, which has no value yet", node)


def _check_updates(graph: Graph) -> None:
    for place in range(2):
        positions = [pair[place] for pair in graph.updates]
        if len(set(positions)) != len(positions):
            _fail(f"graph {graph.name} has two updates for one place: {graph.updates}")
    for output, given in graph.updates:
        if not (0 <= output < len(graph.outputs) and 0 <= given < len(graph.inputs)):
            _fail(f"graph {graph.name} has no output {output} or no input {given} to update")
        types = graph.outputs[output].type, graph.inputs[given].type
        if not _may_be_equal(*types):
            _fail(f"output {output} of {graph.name}, {types[0]}, would overwrite {types[1]}")
    for output in graph.finite:
        type = graph.outputs[output].type if 0 <= output < len(graph.outputs) else None
        if type is None or not type.dtype.is_float or type.numel != 1:
            _fail(f"output {output} of {graph.name} is to be finite, but it is {type}")


def _may_be_equal(one: TensorType, other: TensorType) -> bool:
    if (one.dtype, one.rank) != (other.dtype, other.rank):
        return False
    pairs = zip(one.shape, other.shape, strict=True)
    return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs)


def _check_types(node: Node) -> None:
    attributes = {**node.attributes, "regions": node.regions} if node.regions else node.attributes
    for entry in node.attributes.values():
        try:
            format_attribute(entry)
        except InternalError as error:
            _fail(str(error), node)
    try:
        types = node.operator.infer_types([value.type for value in node.inputs], attributes)
    except (CompileError, TypeError) as error:
        _fail(str(error), node)
    found = tuple(value.type for value in node.outputs)
    if types != found:
        wanted = ", ".join(str(type) for type in types)
        _fail(f"{node.operator} gives {wanted or 'nothing'} by its rule", node)


def _in_types(values: Iterable[Value]) -> set[str]:
    return {name for value in values for size in value.type.shape for name in symbol_names(size)}


def _in_attributes(entries: Iterable[object]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        if isinstance(entry, Dim):
            found |= symbol_names(entry)
        elif isinstance(entry, tuple):
            found |= _in_attributes(entry)
    return found


def _fail(problem: str, node: Node | None = None) -> NoReturn:
    if node is None:
        raise InternalError(problem)
    try:
        text = print_node(node)
    except InternalError:
        text = str(node.operator)
    source = f" (from the model's node {', '.join(node.sources)})" if node.sources else ""
    raise InternalError(f"{problem}{source}\n  {text}")
