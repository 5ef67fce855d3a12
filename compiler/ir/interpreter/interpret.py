"""The meaning of a graph: every node by its operator's reference, in NumPy.

Slow and exact, it says what compiled code has to compute. It checks as it goes that every array has
the type that the graph promises for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.dims import Dim, Symbol, as_atom, symbol_names
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array, TensorType, dtype_of

ITERATION_LIMIT = 1_000_000
"""After so many turns a loop that has no trip count is taken to be endless."""


Watch = Callable[[Node, Sequence[Array], Sequence[Array]], None]
"""Told of a node, the arrays that it read, and those that it made."""


def run_graph(graph: Graph, inputs: Mapping[str, Array], watch: Watch | None = None) -> list[Array]:
    """The graph's outputs for inputs given by name, in the graph's order.

    `watch` is called after every node, but for those in regions.

    Dimension symbols take their values from the inputs' shapes. Raises CompileError where an input
    is missing or does not fit, or a bound dimension is negative; InternalError where an operator's
    reference and its types disagree.
    """
    missing = [value.name for value in graph.inputs if value.name not in inputs]
    if missing:
        raise CompileError(f"no array for the input {', '.join(missing)}")
    run = _Run({}, {})
    arrays = [np.asarray(inputs[value.name]) for value in graph.inputs]
    for value, array in zip(graph.inputs, arrays, strict=True):
        run.bind_shape(value.type, array)
    for value, array in zip(graph.inputs, arrays, strict=True):
        run.check(value, array, f"input {value.name}", CompileError)
    return run.graph(graph, arrays, watch)


class _Run:
    """The arrays and symbols of one run; the symbols are shared with regions."""

    def __init__(self, symbols: dict[str, int], arrays: dict[Value, Array]) -> None:
        self.symbols = symbols
        self.arrays = arrays

    def graph(
        self, graph: Graph, inputs: Sequence[Array], watch: Watch | None = None
    ) -> list[Array]:
        self.arrays.update(graph.constants)
        self.arrays.update(zip(graph.inputs, inputs, strict=True))
        last_use = _last_uses(graph)
        for position, node in enumerate(graph.nodes):
            with np.errstate(all="ignore"):
                self.node(node)
            if watch is not None:
                arrays, results = ([self.arrays[v] for v in x] for x in (node.inputs, node.outputs))
                watch(node, arrays, results)
            for value in node.inputs:
                if last_use.get(value) == position:
                    self.arrays.pop(value, None)
        return [self.arrays[value] for value in graph.outputs]

    def node(self, node: Node) -> None:
        arrays = [self.arrays[value] for value in node.inputs]
        special = _SPECIAL.get(node.operator.name)
        if special is not None:
            results = special(self, node, arrays)
        else:
            attributes = {name: self.value_of(item) for name, item in node.attributes.items()}
            results = list(node.operator.compute(arrays, attributes))
        # In a loop, a data-dependent size has a new value in every iteration.
        self.symbols.pop(node.attributes.get("symbol", ""), None)
        if len(results) != len(node.outputs):
            raise InternalError(f"{_describe(node)} made {len(results)} outputs")
        for value, result in zip(node.outputs, results, strict=True):
            array = np.asarray(result)
            self.bind_shape(value.type, array)
            self.check(value, array, _describe(node), InternalError)
            self.arrays[value] = array

    def bind_shape(self, type: TensorType, array: Array) -> None:
        """Gives symbols that have no value yet the sizes that they stand for in a shape."""
        for size, actual in zip(type.shape, array.shape):
            leaf = as_atom(size)
            if isinstance(leaf, Symbol) and leaf.name not in self.symbols:
                self.symbols[leaf.name] = actual

    def check(
        self, value: Value, array: Array, where: str, kind: Callable[[str], Exception]
    ) -> None:
        fits = dtype_of(array) == value.type.dtype and array.ndim == value.type.rank
        if not fits or array.shape != tuple(self.value_of(size) for size in value.type.shape):
            found = f"{array.dtype}{list(array.shape)}"
            raise kind(f"{where}: an array {found} for {value.type}, where {self.symbols}")

    def value_of(self, item: Any) -> Any:
        """An attribute with its Sizes evaluated."""
        if isinstance(item, Dim):
            unknown = symbol_names(item) - set(self.symbols)
            if unknown:
                raise InternalError(f"the symbols {sorted(unknown)} of {item} are not bound")
            return evaluate_named(item, self.symbols)
        if isinstance(item, tuple):
            return tuple(self.value_of(entry) for entry in item)
        return item


def _last_uses(graph: Graph) -> dict[Value, int]:
    """The position of the node that reads a value last; none for what outlives the graph."""
    found = {value: at for at, node in enumerate(graph.nodes) for value in node.inputs}
    for value in (*graph.outputs, *graph.inputs, *graph.constants):
        found.pop(value, None)
    return found


def _describe(node: Node) -> str:
    inputs = ", ".join(str(value.type) for value in node.inputs)
    return f"{', '.join(node.sources)}: {node.operator}({inputs}) {dict(node.attributes)}"


def _bind(run: _Run, node: Node, arrays: Sequence[Array]) -> list[Array]:
    (entries,) = arrays
    names: Sequence[str] = node.attributes["symbols"]
    for name, entry in zip(names, entries.tolist(), strict=True):
        if entry < 0:
            raise CompileError(f"{', '.join(node.sources)}: a dimension became {entry}")
        if name:
            run.symbols[name] = entry
    return []


def _branch(run: _Run, node: Node, arrays: Sequence[Array]) -> list[Array]:
    condition, *captures = arrays
    then, otherwise = node.regions
    return run.graph(then if bool(condition.reshape(())) else otherwise, captures)


def _loop(run: _Run, node: Node, arrays: Sequence[Array]) -> list[Array]:
    """See ops/control.py for the operands and what the region takes and gives."""
    trips, condition, *rest = arrays
    count: int = node.attributes["carried"]
    scans: int = node.attributes["scans"]
    carried, captures = list(rest[:count]), rest[count:]
    limit = int(trips) if node.attributes["has_trips"] else ITERATION_LIMIT
    going = bool(condition) if node.attributes["has_condition"] else True
    stacked: list[list[Array]] = [[] for _ in range(scans)]
    made = 0
    while going and made < limit:
        state = [np.array(made, np.int64), np.array(going), *carried, *captures]
        keep_going, *results = run.graph(node.regions[0], state)
        going = bool(keep_going) if node.attributes["has_condition"] else True
        carried = results[:count]
        for slices, result in zip(stacked, results[count:], strict=True):
            slices.append(result)
        made += 1
    if made >= ITERATION_LIMIT and going and limit == ITERATION_LIMIT:
        raise CompileError(f"{', '.join(node.sources)}: no end after {made} iterations")
    run.symbols[node.attributes["count"]] = made
    return [*carried, *(_stack(run, node, slices, count + k) for k, slices in enumerate(stacked))]


def _stack(run: _Run, node: Node, slices: list[Array], output: int) -> Array:
    if slices:
        return np.stack(slices)
    type = node.outputs[output].type
    # Without an iteration, symbols that the body would have bound are unknown, and do not matter.
    shape = [
        run.value_of(size) if symbol_names(size) <= set(run.symbols) else 0 for size in type.shape
    ]
    return np.zeros(shape, type.dtype.numpy)


_SPECIAL: dict[str, Callable[[_Run, Node, Sequence[Array]], list[Array]]] = {
    "bind": _bind,
    "if": _branch,
    "loop": _loop,
}
"""The operators that are not functions of arrays alone."""
