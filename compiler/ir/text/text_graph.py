"""Writes graphs as text, one line a node, with all types; parse_graph reads it back.

    graph net[n](%0 : f32[n,3])                              # 'x'
      %1 = constant : f32[3,4] = sha256:5feceb66ffc86f38     # 'weight'
      %2 = matmul(%0, %1) : f32[n,4]                         # from 'MatMul_0'
      %3 = leaky_relu(%2, slope=0.1) : f32[n,4]              # 'h' from 'LeakyRelu_1', 'Dropout_2'
      return %3                                              # 'y'

An output that may be written where an input is, is `%3 over %0`; one that must be finite,
`%3 finite`. Names and sources are the user's. A constant of more than 16 elements shows a digest of
its data, not the data. Regions follow their node, indented.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Dim, Symbol, format_size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import ELEMENT_TYPES, Array, DType

SHOWN_ELEMENTS = 16
COMMENT_COLUMN = 60
_COMMENT = "\0"  # between a line and its comment until both are in place


class AbsentArray(np.ndarray):
    """Zeros in place of a constant that was read from text without its data; knows its digest."""

    digest: str = ""


def print_graph(graph: Graph) -> str:
    """The text of a graph."""
    return "\n".join(_align(line) for line in _Printer().graph(graph, "graph")) + "\n"


def print_node(node: Node) -> str:
    """The line of one node, its inputs numbered as they come: for error messages."""
    printer = _Printer()
    inputs = [f"{printer.name(value)} : {value.type}" for value in node.inputs]
    line = _align(next(iter(printer.node(node))))
    return f"{line}\n  where {', '.join(inputs)}" if inputs else line


def format_attribute(entry: object) -> str:
    """The text of an attribute."""
    match entry:
        case bool():
            return "true" if entry else "false"
        case None:
            return "none"
        case int() | Dim():
            text = format_size(entry)
            return f"`{text}`" if text in ELEMENT_TYPES else text
        case float():
            return repr(entry)
        case str():
            return repr(entry)
        case DType():
            return entry.name
        case tuple() | list():
            inner = ", ".join(format_attribute(one) for one in entry)
            return f"({inner},)" if len(entry) == 1 else f"({inner})"
        case _:
            raise InternalError(f"an attribute cannot be a {type(entry).__name__}")


def format_constant(array: Array) -> str:
    """The contents of a small constant, the digest of a large one."""
    if array.size > SHOWN_ELEMENTS:
        return f"sha256:{digest(array)}"
    return f"[{', '.join(_format_number(number) for number in array.reshape(-1))}]"


def digest(array: Array) -> str:
    """The first 16 digits of the SHA-256 of the array's bytes in row-major order."""
    if isinstance(array, AbsentArray) and array.digest:
        return array.digest
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _format_number(number: np.generic) -> str:
    if number.dtype == np.bool_:
        return "true" if number else "false"
    if number.dtype.kind in "iu":
        return str(int(number))
    if number.dtype.kind == "f":
        return str(number)  # the shortest text that this type reads back
    return repr(float(number))


class _Printer:
    def __init__(self) -> None:
        self._numbers: dict[Value, int] = {}

    def name(self, value: Value) -> str:
        return f"%{self._numbers.setdefault(value, len(self._numbers))}"

    def graph(self, graph: Graph, keyword: str) -> Iterator[str]:
        inputs = ", ".join(f"{self.name(value)} : {value.type}" for value in graph.inputs)
        symbols = f"[{', '.join(str(Symbol(name)) for name in graph.symbols)}]"
        title = str(Symbol(graph.name))
        head = f"{keyword} {title}{symbols if graph.symbols else ''}({inputs})"
        yield _with_comment(head, _names([value.name for value in graph.inputs]))
        for value, array in graph.constants.items():
            line = f"  {self.name(value)} = constant : {value.type} = {format_constant(array)}"
            yield _with_comment(line, _names([value.name]))
        for node in graph.nodes:
            for line in self.node(node):
                yield f"  {line}"
        outputs = ", ".join(self.outputs(graph))
        yield _with_comment(f"  return {outputs}".rstrip(), _names(graph.output_names))

    def outputs(self, graph: Graph) -> Iterator[str]:
        places = dict(graph.updates)
        for position, value in enumerate(graph.outputs):
            text = self.name(value)
            if position in graph.finite:
                text += " finite"
            if position in places:
                text += f" over {self.name(graph.inputs[places[position]])}"
            yield text

    def node(self, node: Node) -> Iterator[str]:
        operands = [self.name(value) for value in node.inputs]
        operands += [f"{key}={format_attribute(e)}" for key, e in node.attributes.items()]
        line = f"{node.operator.name}({', '.join(operands)})"
        if node.outputs:
            results = ", ".join(self.name(value) for value in node.outputs)
            types = ", ".join(str(value.type) for value in node.outputs)
            line = f"{results} = {line} : {types}"
        comment = _names([value.name for value in node.outputs])
        if node.sources:
            comment = f"{comment} from {', '.join(repr(name) for name in node.sources)}".strip()
        yield _with_comment(line, comment)
        for region in node.regions:
            for inner in self.graph(region, "region"):
                yield f"  {inner}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) if any(names) else ""


def _with_comment(line: str, comment: str) -> str:
    return f"{line}{_COMMENT}{comment}" if comment else line


def _align(line: str) -> str:
    """The comment, if there is one, in the comments' column."""
    text, mark, comment = line.partition(_COMMENT)
    return f"{text.ljust(COMMENT_COLUMN)}  # {comment}" if mark else text
