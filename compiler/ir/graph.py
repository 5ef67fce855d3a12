"""The graph language: values assigned once, nodes that compute them, regions for control flow.

A value is known by identity. A graph lists its nodes in an order in which every value is computed
before it is read. A region (the body of an `if` or `loop` node) is a graph that sees nothing of
the outer one: what it reads comes in through the node's inputs and the region's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from bessemer.compiler.ir.dims import Dim, Symbol, as_atom
from bessemer.compiler.ir.op import Operator
from bessemer.compiler.ir.types import Array, TensorType
from bessemer.runtime.artifact import Strings


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor in a graph. `name` is the user's name for it, empty where there is none."""

    type: TensorType
    name: str = ""


@dataclass(frozen=True, eq=False)
class Node:
    """One application of an operator. `sources` are the user's nodes that it came from."""

    operator: Operator
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    regions: tuple[Graph, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    @property
    def has_symbols(self) -> bool:
        """Whether an attribute contains a size that is not a number."""
        return _has_symbol(tuple(self.attributes.values()))


def _has_symbol(entry: object) -> bool:
    if isinstance(entry, tuple):
        return any(map(_has_symbol, entry))
    return isinstance(entry, Dim)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network, or a region of one.

    `symbols` are the dimension symbols that the inputs' shapes bind, in order; `constants` holds
    the weights. Nodes that define further symbols while running (see ops/bind.py) name them
    in their `symbols` attribute.
    `updates` are pairs (output, input) of positions: the caller may have that output written where
    that input is, if their shapes are equal then. `finite` are positions of floats, one number
    each: where one is not finite, the run fails before it has written any such output. `strings`
    says which inputs and outputs stand for strings, whose elements are i32; passes may drop it:
    the driver reads it first.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[Value, Array] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    updates: tuple[tuple[int, int], ...] = ()
    finite: tuple[int, ...] = ()
    strings: Strings | None = None

    def producers(self) -> dict[Value, Node]:
        """The node that computes each value (inputs and constants have none)."""
        return {output: node for node in self.nodes for output in node.outputs}

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, in order, once a reading; outputs are not counted."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        return readers

    def walk(self) -> Iterator[Node]:
        """Every node, those inside regions too."""
        for node in self.nodes:
            yield node
            for region in node.regions:
                yield from region.walk()


def axes_of_symbols(inputs: Iterable[Value], names: Set[str]) -> dict[str, str]:
    """For messages: the axis whose size each of these symbols is, such as "axis 1 of 'tokens'"."""
    found: dict[str, str] = {}
    for value in inputs:
        for axis, size in enumerate(value.type.shape):
            leaf = as_atom(size)
            if isinstance(leaf, Symbol) and leaf.name in names:
                found.setdefault(leaf.name, f"axis {axis} of {value.name!r}")
    return found
