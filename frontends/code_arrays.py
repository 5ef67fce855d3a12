"""Graphs that take strings, run by an interpreter: the caller's arrays as the code's, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.strings import StringBoundary

Interpreter = Callable[[Graph, Mapping[str, Array]], list[Array]]


def code_infos(graph: Graph) -> list[ArrayInfo]:
    """The graph's own inputs, as the signature describes them."""
    texts = graph.strings.inputs if graph.strings is not None else ()
    return [
        ArrayInfo(
            value.name,
            "string" if place in texts else value.type.dtype.numpy.name,
            tuple(size if isinstance(size, int) else str(size) for size in value.type.shape),
        )
        for place, value in enumerate(graph.inputs)
    ]


def code_arrays(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What the graph itself takes for a caller's arrays: numbers for strings."""
    if graph.strings is None:
        return dict(arrays)
    numbers, _ = StringBoundary(graph.strings, code_infos(graph)).enter(arrays)
    return {value.name: array for value, array in zip(graph.inputs, numbers, strict=True)}


def run_on_arrays(graph: Graph, arrays: Mapping[str, Array], run: Interpreter) -> list[Array]:
    """What an interpreter gives for a caller's arrays, strings as strings."""
    if graph.strings is None:
        return run(graph, arrays)
    numbers, words = StringBoundary(graph.strings, code_infos(graph)).enter(arrays)
    outputs = run(graph, dict(zip([value.name for value in graph.inputs], numbers, strict=True)))
    texts = graph.strings.outputs
    return [words.texts(y) if place in texts else y for place, y in enumerate(outputs)]
