"""Gives names to computed sizes, so that index arithmetic stays simple.

    f32[((height+1)//2+1)//2, 8]      becomes      f32[size002, 8]
    size001 = (height+1)//2,  size002 = (size001+1)//2

The run body computes these sizes once, and passes them to the kernels as arguments. Kernels of
layers that differ only in such a size are then equal and compiled once, and the divisions are not
repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Dim, FloorDiv, Max, Min, Mod, Size
from bessemer.compiler.ir.graph import Graph, Node, Value


def name_derived_sizes(graph: Graph) -> tuple[Graph, dict[str, Size]]:
    """The graph with symbols in place of divisions, minima and maxima of sizes; and the definitions
    of these symbols, each in terms of the graph's symbols and of earlier ones."""
    namer = _Namer()
    return namer.graph(graph), namer.definitions


class _Namer:
    def __init__(self) -> None:
        self.definitions: dict[str, Size] = {}
        self._names: dict[Atom, Size] = {}

    def size(self, size: Size) -> Size:
        return dims.map_factors(size, self._named)

    def _named(self, factor: Atom) -> Size:
        if isinstance(factor, (FloorDiv, Mod, Min, Max)):
            return self._symbol(factor)
        return dims.atom(factor)

    def _symbol(self, factor: FloorDiv | Mod | Min | Max) -> Size:
        found = self._names.get(factor)
        if found is None:
            match factor:
                case FloorDiv(a, b):
                    definition = dims.floordiv(self.size(a), self.size(b))
                case Mod(a, b):
                    definition = dims.mod(self.size(a), self.size(b))
                case Min(a, b):
                    definition = dims.minimum(self.size(a), self.size(b))
                case Max(a, b):
                    definition = dims.maximum(self.size(a), self.size(b))
            # In formulas, factors are sorted by name: layers of other sizes have equal formulas.
            name = f"size{len(self.definitions) + 1:03}"
            self.definitions[name] = definition
            found = self._names[factor] = dims.symbol(name)
        return found

    def graph(self, graph: Graph) -> Graph:
        values: dict[Value, Value] = {}

        def now(value: Value) -> Value:
            found = values.get(value)
            if found is None:
                shape = tuple(self.size(size) for size in value.type.shape)
                same = shape == value.type.shape
                found = value if same else replace(value, type=value.type.with_shape(shape))
                values[value] = found
            return found

        inputs = tuple(now(value) for value in graph.inputs)
        nodes = tuple(self._node(node, now) for node in graph.nodes)
        return replace(
            graph,
            inputs=inputs,
            outputs=tuple(now(value) for value in graph.outputs),
            nodes=nodes,
            constants={now(value): array for value, array in graph.constants.items()},
        )

    def _node(self, node: Node, now: Callable[[Value], Value]) -> Node:
        return replace(
            node,
            inputs=tuple(now(value) for value in node.inputs),
            outputs=tuple(now(value) for value in node.outputs),
            attributes={key: self._attribute(value) for key, value in node.attributes.items()},
            regions=tuple(self.graph(region) for region in node.regions),
        )

    def _attribute(self, value: Any) -> Any:
        if isinstance(value, Dim):
            return self.size(value)
        if isinstance(value, tuple):
            return tuple(self._attribute(entry) for entry in value)
        return value
