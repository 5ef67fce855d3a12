"""The inputs of a graph that takes strings: what the code reads, and what the caller gives.

words = Tokenizer(text); y = f(words)       the caller gives `text`, the code reads `words`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bessemer.compiler.ir.dims import symbol_names
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.frontends.onnx_reader.string_state import ModelStrings
from bessemer.runtime.artifact import ArrayInfo, Strings


def with_strings(
    graph: Graph, strings: ModelStrings, declared: Sequence[Value], outputs: Sequence[int]
) -> Graph:
    """The graph with what it has to do with strings; itself where there are none.

    `declared` are the model's own inputs, `outputs` the positions of outputs that hold strings.
    """
    if not strings.texts_in and not outputs and not strings.steps:
        return graph
    if strings.steps:
        graph = _without_what_only_steps_read(graph, {n for s in strings.steps for n in s.inputs})
    texts = strings.texts_in
    given = tuple(_info(value, value.name in texts) for value in declared) if strings.steps else ()
    inputs = [place for place, value in enumerate(graph.inputs) if value.name in texts]
    return replace(
        graph,
        strings=Strings(
            tuple(strings.places), tuple(inputs), tuple(outputs), given, tuple(strings.steps)
        ),
    )


def _info(value: Value, is_text: bool) -> ArrayInfo:
    sizes = tuple(size if isinstance(size, int) else str(size) for size in value.type.shape)
    return ArrayInfo(value.name, "string" if is_text else value.type.dtype.numpy.name, sizes)


def _without_what_only_steps_read(graph: Graph, read: set[str]) -> Graph:
    """The graph without inputs that steps take and no node does, if the sizes that only they bind
    are not wanted either."""
    alive = remove_dead(graph)
    used = {*alive.outputs, *(value for node in alive.nodes for value in node.inputs)}
    kept = [value for value in graph.inputs if value in used or value.name not in read]
    bound = _symbols(kept)
    wanted = _symbols([*alive.outputs, *(v for node in alive.nodes for v in node.outputs)])
    if not wanted & set(graph.symbols) <= bound:
        return graph
    symbols = tuple(name for name in graph.symbols if name in bound)
    return replace(alive, inputs=tuple(kept), symbols=symbols)


def _symbols(values: Sequence[Value]) -> set[str]:
    return {name for value in values for size in value.type.shape for name in symbol_names(size)}
