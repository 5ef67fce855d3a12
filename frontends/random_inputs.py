"""Random arrays that a model accepts: the right shapes, and indices that are in range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array
from bessemer.frontends.code_arrays import code_infos
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.artifact import ArrayInfo, Strings
from bessemer.runtime.errors import InputError
from bessemer.runtime.shapes import evaluate_shape, names_in

_OTHER = "something else"
LARGEST = 100
"""Integers are below this, however long the table is that they index."""

_INDEXED = frozenset({"gather", "gather_elements", "scatter_elements"})


def default_sizes(infos: Sequence[ArrayInfo], symbols: Sequence[str]) -> dict[str, int]:
    """A size for every symbol of these arrays: 1 where an array's first axis has it (a batch), 64
    elsewhere. `symbols` are the code's, in order; those of what is prepared first come behind."""
    leading = {info.shape[0] for info in infos if info.shape}
    named = [name for info in infos for size in info.shape for name in sorted(names_in(str(size)))]
    ordered = [name for name in symbols if name in named]
    return {name: 1 if name in leading else 64 for name in (*ordered, *named)}


def random_arrays(
    infos: Sequence[ArrayInfo],
    sizes: Mapping[str, int],
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    texts: Sequence[str] = (),
) -> dict[str, Array]:
    """An array for every input, by name: normal floats, integers in 0 .. limit-1, masks of ones.

    `sizes` gives every symbol its value. An integer input without a limit gets zeros and ones,
    bytes get all of 0 to 255. Strings are among `texts`, or a word that is not.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for info in infos:
        shape = evaluate_shape(info.shape, sizes)
        if info.dtype == "string":
            found[info.name] = np.array([*texts, _OTHER])[rng.integers(0, len(texts) + 1, shape)]
            continue
        try:
            found[info.name] = _random(rng, info, shape, (limits or {}).get(info.name, 0))
        except (MemoryError, ValueError):  # NumPy's for more elements than an index can count
            raise InputError(
                f"Input '{info.name}' of shape {list(shape)} does not fit in memory. Choose "
                "smaller sizes (--dim on the command line)."
            ) from None
    return found


def _random(rng: np.random.Generator, info: ArrayInfo, shape: tuple[int, ...], limit: int) -> Array:
    dtype = numpy_dtype(info.dtype)
    if info.dtype == "bool" or (info.dtype.startswith("int") and "mask" in info.name.lower()):
        return np.ones(shape, dtype)
    if "float" in info.dtype:
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if not limit:
        limit = 256 if info.dtype == "uint8" else 2
    return np.asarray(rng.integers(0, min(limit, LARGEST), shape)).astype(dtype)


def index_limits(graph: Graph) -> dict[str, int]:
    """For inputs that tables are indexed with: the length of the shortest such table.

    Follows indices back through whatever computes them element by element or moves them.
    """
    producers = graph.producers()
    limits: dict[str, int] = {}
    for node in graph.nodes:
        length = _table_length(node)
        if length is None:
            continue
        for source in _origins(node.inputs[1], producers):
            if source in graph.inputs:
                limits[source.name] = min(length, limits.get(source.name, length))
    return limits


def _table_length(node: Node) -> int | None:
    if node.operator.name not in _INDEXED:
        return None
    size = node.inputs[0].type.shape[node.attributes["axis"]]
    return size if isinstance(size, int) else None


def _origins(value: Value, producers: Mapping[Value, Node]) -> set[Value]:
    """The values that an index is computed from, element by element."""
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        node = producers.get(current)
        if node is not None and node.operator.element is not None:
            waiting += [one for one in node.inputs if one.type.dtype.kind in "iuf"]
    return seen


def input_infos(graph: Graph) -> list[ArrayInfo]:
    """The inputs that a compiled model of this graph takes, as it describes them."""
    strings = graph.strings
    if strings is not None and strings.steps:
        return list(strings.given)
    return code_infos(graph)


def random_inputs(graph: Graph) -> dict[str, Array]:
    """Random arrays for a graph, at its default sizes."""
    infos = input_infos(graph)
    return random_arrays(infos, default_sizes(infos, graph.symbols), 0, index_limits(graph))


def known_texts(strings: Strings | None) -> tuple[str, ...]:
    """The strings that a model knows, for random_arrays."""
    return () if strings is None else strings.table
