"""Reads the text of a graph, as text_graph.py writes it."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.text.parse_sizes import NameRule, Tokens, read_size
from bessemer.compiler.ir.text.text_graph import AbsentArray
from bessemer.compiler.ir.types import ELEMENT_TYPES, Array, DType, TensorType, boolean

_STRING = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_LIST = rf"{_STRING}(?:,\s*{_STRING})*"
_COMMENT = re.compile(rf"(?P<names>{_LIST})?\s*(?:from\s+(?P<sources>{_LIST}))?")


def parse_graph(text: str, arrays: Mapping[str, Array] | None = None) -> Graph:
    """The graph that `print_graph` wrote.

    `arrays` gives the data of large constants by digest; those that it lacks become zeros, which
    print with their digest again. Types are taken from the text: verify_graph checks them. The
    operators that are named must be registered. Raises CompileError, with the line, for other text.
    """
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.split("#")[0].strip()
    ]
    parser = _Parser(lines, dict(arrays or {}))
    graph = parser.graph("graph")
    if parser.lines:
        raise CompileError(f"line {parser.lines[0][0]}: the graph has ended before this line")
    return graph


def read_type(tokens: Tokens, name: NameRule = symbol) -> TensorType:
    """A tensor type, f32[n,3]; `name` says what a name in its shape is."""
    return TensorType(read_dtype(tokens), _read_shape(tokens, name))


def read_dtype(tokens: Tokens) -> DType:
    """An element type."""
    if tokens.peek().text not in ELEMENT_TYPES:
        raise tokens.error("an element type")
    return ELEMENT_TYPES[tokens.take()]


def _read_shape(tokens: Tokens, name: NameRule) -> tuple[Size, ...]:
    tokens.expect("[")
    sizes: list[Size] = []
    while not tokens.accept("]"):
        if sizes:
            tokens.expect(",")
        sizes.append(read_size(tokens, name))
    return tuple(sizes)


def read_attribute(tokens: Tokens) -> Any:
    """An attribute: a number, size, string, element type, truth, or a tuple of these."""
    token = tokens.peek()
    if token.kind == "string":
        return tokens.string()
    if token.text in _WORDS:
        return _WORDS[tokens.take()]
    if token.text in ELEMENT_TYPES:
        return ELEMENT_TYPES[tokens.take()]
    if token.text == "(":
        found = _read_tuple(tokens)
        if found is not None:
            return found
    if token.text == "-" or token.kind == "number":
        number = _read_float(tokens)
        if number is not None:
            return number
    return read_size(tokens)


_WORDS = {
    "true": True,
    "false": False,
    "none": None,
    "inf": float("inf"),
    "nan": float("nan"),
}


def _read_tuple(tokens: Tokens) -> tuple[Any, ...] | None:
    """A tuple; None, with nothing taken, where the bracket opens a size."""
    start = tokens.mark()
    tokens.expect("(")
    entries: list[Any] = []
    comma = True
    while comma and not tokens.accept(")"):
        entries.append(read_attribute(tokens))
        comma = tokens.accept(",")
        if not comma:
            tokens.expect(")")
            break
    is_tuple = comma or len(entries) > 1
    if is_tuple and tokens.peek().text in (",", ")", "the end of the line"):
        return tuple(entries)
    tokens.back(start)
    return None


def _read_float(tokens: Tokens) -> float | None:
    start = tokens.mark()
    sign = -1.0 if tokens.accept("-") else 1.0
    token = tokens.peek()
    if token.text in ("inf", "nan"):
        return sign * float(tokens.take())
    if token.kind == "number" and not token.text.isdigit():
        return sign * float(tokens.take())
    tokens.back(start)
    return None


@dataclass(frozen=True)
class _Comment:
    names: tuple[str, ...]
    sources: tuple[str, ...]


def _read_comment(text: str) -> _Comment:
    """The names and sources in a comment; none where it says something else."""
    found = _COMMENT.fullmatch(text.strip())
    if found is None:
        return _Comment((), ())
    return _Comment(_strings(found["names"]), _strings(found["sources"]))


def _strings(text: str | None) -> tuple[str, ...]:
    return tuple(literal_eval(one) for one in re.findall(_STRING, text or ""))


@dataclass(frozen=True)
class _Output:
    value: Value
    is_finite: bool
    over: int | None


class _Parser:
    def __init__(self, lines: list[tuple[int, str]], arrays: dict[str, Array]) -> None:
        self.lines = lines
        self.arrays = arrays
        self.values: dict[str, Value] = {}

    def graph(self, keyword: str) -> Graph:
        """A graph or region, from its head, which begins with `keyword`, to its return."""
        if not self.lines:
            raise CompileError(f"expected a {keyword}, not the end of the text")
        number, line = self.lines.pop(0)
        tokens = Tokens(line, number)
        tokens.expect(keyword)
        name = tokens.take("name") if tokens.peek().kind == "name" else ""
        symbols: list[str] = []
        if tokens.accept("["):
            while not tokens.accept("]"):
                symbols.append(tokens.take("name"))
                tokens.accept(",")
        names = _read_comment(tokens.comment).names
        inputs = self.inputs(tokens, names)
        return self.body(name, inputs, tuple(symbols))

    def inputs(self, tokens: Tokens, names: tuple[str, ...]) -> tuple[Value, ...]:
        tokens.expect("(")
        found: list[Value] = []
        while not tokens.accept(")"):
            if found:
                tokens.expect(",")
            label = tokens.take("value")
            tokens.expect(":")
            name = names[len(found)] if len(found) < len(names) else ""
            found.append(self.define(tokens, label, Value(read_type(tokens), name)))
        tokens.end()
        return tuple(found)

    def define(self, tokens: Tokens, label: str, value: Value) -> Value:
        if label in self.values:
            raise tokens.error(f"a new value instead of {label}")
        self.values[label] = value
        return value

    def read(self, tokens: Tokens) -> Value:
        if tokens.peek().text not in self.values:
            raise tokens.error("a value that has been defined")
        return self.values[tokens.take("value")]

    def body(self, name: str, inputs: tuple[Value, ...], symbols: tuple[str, ...]) -> Graph:
        nodes: list[Node] = []
        constants: dict[Value, Array] = {}
        while self.lines:
            number, line = self.lines.pop(0)
            tokens = Tokens(line, number)
            comment = _read_comment(tokens.comment)
            if tokens.accept("return"):
                outputs = self.outputs(tokens, inputs)
                values = tuple(output.value for output in outputs)
                names = comment.names or ("",) * len(outputs)
                updates = tuple((k, o.over) for k, o in enumerate(outputs) if o.over is not None)
                finite = tuple(k for k, output in enumerate(outputs) if output.is_finite)
                return Graph(
                    name=name,
                    inputs=inputs,
                    outputs=values,
                    nodes=tuple(nodes),
                    constants=constants,
                    symbols=symbols,
                    output_names=names,
                    updates=updates,
                    finite=finite,
                )
            labels = self.labels(tokens)
            if tokens.accept("constant"):
                self.constant(tokens, labels, comment, constants)
            else:
                nodes.append(self.node(tokens, labels, comment, _indent(line)))
        raise CompileError(f"the graph '{name}' has no return")

    def outputs(self, tokens: Tokens, inputs: tuple[Value, ...]) -> list[_Output]:
        found: list[_Output] = []
        while tokens.peek().kind == "value":
            value, is_finite, over = self.read(tokens), tokens.accept("finite"), None
            if tokens.accept("over"):
                label = tokens.peek().text
                if self.values.get(label) not in inputs:
                    raise tokens.error("an input")
                over = inputs.index(self.read(tokens))
            found.append(_Output(value, is_finite, over))
            tokens.accept(",")
        tokens.end()
        return found

    def labels(self, tokens: Tokens) -> list[str]:
        found: list[str] = []
        while tokens.peek().kind == "value":
            found.append(tokens.take())
            if not tokens.accept(","):
                tokens.expect("=")
        return found

    def constant(
        self,
        tokens: Tokens,
        labels: list[str],
        comment: _Comment,
        constants: dict[Value, Array],
    ) -> None:
        (label,) = labels
        tokens.expect(":")
        type = read_type(tokens)
        tokens.expect("=")
        value = Value(type, comment.names[0] if comment.names else "")
        if tokens.accept("sha256"):
            array = self.large(tokens, type)
        else:
            array = _read_elements(tokens, type)
        tokens.end()
        constants[self.define(tokens, label, value)] = array

    def large(self, tokens: Tokens, type: TensorType) -> Array:
        tokens.expect(":")
        # The digits look like a number, a name, or one after the other.
        digest = ""
        while tokens.peek().kind in ("number", "name"):
            digest += tokens.take()
        if digest in self.arrays:
            return self.arrays[digest]
        zeros = np.broadcast_to(np.zeros((), type.dtype.numpy), type.static_shape)
        absent = zeros.view(AbsentArray)
        absent.digest = digest
        return absent

    def node(self, tokens: Tokens, labels: list[str], comment: _Comment, indent: int) -> Node:
        operator = OPS.get(tokens.peek().text)
        if operator is None:
            raise tokens.error("an operator")
        tokens.take("name")
        inputs, attributes = self.operands(tokens)
        types: list[TensorType] = []
        if labels:
            tokens.expect(":")
            types.append(read_type(tokens))
            while tokens.accept(","):
                types.append(read_type(tokens))
        if len(types) != len(labels):
            raise tokens.error(f"{len(labels)} types")
        tokens.end()
        regions: list[Graph] = []
        while self.lines and _indent(self.lines[0][1]) > indent:
            regions.append(self.graph("region"))
        names = comment.names or ("",) * len(labels)
        outputs = tuple(
            self.define(tokens, label, Value(type, name))
            for label, type, name in zip(labels, types, names)
        )
        return Node(operator, inputs, outputs, attributes, tuple(regions), comment.sources)

    def operands(self, tokens: Tokens) -> tuple[tuple[Value, ...], dict[str, Any]]:
        inputs: list[Value] = []
        attributes: dict[str, Any] = {}
        tokens.expect("(")
        while not tokens.accept(")"):
            if inputs or attributes:
                tokens.expect(",")
            if tokens.peek().kind == "value":
                inputs.append(self.read(tokens))
            else:
                name = tokens.take("name")
                tokens.expect("=")
                attributes[name] = read_attribute(tokens)
        return tuple(inputs), attributes


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _read_elements(tokens: Tokens, type: TensorType) -> Array:
    numbers: list[Any] = []
    tokens.expect("[")
    while not tokens.accept("]"):
        if numbers:
            tokens.expect(",")
        numbers.append(_read_number(tokens, type))
    array = np.array(numbers, dtype=type.dtype.numpy)
    if array.size != np.prod(type.static_shape, dtype=np.int64):
        raise tokens.error(f"as many elements as {type} has")
    return array.reshape(type.static_shape)


def _read_number(tokens: Tokens, type: TensorType) -> Any:
    sign = "-" if tokens.accept("-") else ""
    text = tokens.take()
    if type.dtype is boolean:
        return text == "true"
    if type.dtype.is_storage:
        return np.float32(sign + text).astype(type.dtype.numpy)
    # NumPy's own scalar reads the shortest text of its type without rounding twice.
    return type.dtype.numpy.type(sign + text)
