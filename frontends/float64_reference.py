"""The same network in float64, evaluated by the interpreter: the reference for accuracy.

Everything that is a float becomes float64, the weights keep their values. What rounds on purpose,
such as quantization, still rounds, for it goes through integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, DType, TensorType, f64


def widen(graph: Graph) -> Graph:
    """The graph with float64 in place of every other float."""
    return _Widened().graph(graph)


def run_in_float64(graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs of the graph in float64, by the interpreter. Slow: seconds for small networks.

    Raises CompileError where an input does not fit.
    """
    arrays = {value.name: _array(inputs[value.name], value.type.dtype) for value in graph.inputs}
    return run_graph(widen(graph), arrays)


def _array(array: Array, dtype: DType) -> Array:
    return array.astype(np.float64) if dtype.is_float else array


class _Widened:
    def __init__(self) -> None:
        self._new: dict[Value, Value] = {}

    def graph(self, graph: Graph) -> Graph:
        return replace(
            graph,
            inputs=self._values(graph.inputs),
            outputs=self._values(graph.outputs),
            nodes=tuple(self._node(node) for node in graph.nodes),
            constants={
                self._value(value): _array(array, value.type.dtype)
                for value, array in graph.constants.items()
            },
        )

    def _node(self, node: Node) -> Node:
        return replace(
            node,
            inputs=self._values(node.inputs),
            outputs=self._values(node.outputs),
            attributes={name: _attribute(entry) for name, entry in node.attributes.items()},
            regions=tuple(self.graph(region) for region in node.regions),
        )

    def _values(self, values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(self._value(value) for value in values)

    def _value(self, value: Value) -> Value:
        if not value.type.dtype.is_float:
            return value
        if value not in self._new:
            self._new[value] = Value(TensorType(f64, value.type.shape), value.name)
        return self._new[value]


def _attribute(entry: Any) -> Any:
    match entry:
        case DType():
            return f64 if entry.is_float else entry
        case tuple():
            return tuple(_attribute(one) for one in entry)
        case _:
            return entry
