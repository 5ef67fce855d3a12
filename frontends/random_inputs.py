"""Random arrays that a model accepts: the right shapes, and indices that are in range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.shapes import evaluate_shape

LARGEST = 100
"""Integers are below this, however long the table is that they index."""

_INDEXED = frozenset({"gather", "gather_elements", "scatter_elements"})


def default_sizes(infos: Sequence[ArrayInfo], symbols: Sequence[str]) -> dict[str, int]:
    """A size for every symbol: 1 where an array's first axis has it (a batch), 64 elsewhere."""
    leading = {info.shape[0] for info in infos if info.shape}
    return {name: 1 if name in leading else 64 for name in symbols}


def random_arrays(
    infos: Sequence[ArrayInfo],
    sizes: Mapping[str, int],
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """An array for every input, by name: normal floats, integers in 0 .. limit-1, masks of ones.

    `sizes` gives every symbol its value. An integer input without a limit gets zeros and ones,
    bytes get all of 0 to 255.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for info in infos:
        shape = evaluate_shape(info.shape, sizes)
        found[info.name] = _random(rng, info, shape, (limits or {}).get(info.name, 0))
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
    """The graph's inputs as a compiled model describes them."""
    return [
        ArrayInfo(
            value.name,
            value.type.dtype.numpy.name,
            tuple(size if isinstance(size, int) else str(size) for size in value.type.shape),
        )
        for value in graph.inputs
    ]
