"""Sizes that are negative for some values of the symbols, where a window is larger than its input.

    %1 = max_pool(%0, kernel=(4, 4), ...) : f32[batch,h-3,w-3,8]

A run fails where h is 2, before it computes anything from such a size.
"""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.evaluate import expanded
from bessemer.compiler.ir.graph import Graph, Node, axes_of_symbols


def required_sizes(graph: Graph, derived: Mapping[str, Size]) -> dict[Size, str]:
    """The sizes that a run must check, with the nodes and the inputs' axes to report."""
    definitions = expanded(derived)
    makers: dict[Size, Node] = {}
    for node in graph.nodes:
        for value in node.outputs:
            for size in value.type.shape:
                makers.setdefault(size, node)
    found: dict[Size, str] = {}
    for size, node in makers.items():
        whole = dims.rename(size, definitions)
        if not dims.is_nonnegative(whole):
            axes = " and ".join(axes_of_symbols(graph.inputs, dims.symbol_names(whole)).values())
            source = ", ".join(node.sources) or node.operator.name
            found[size] = f"{source} (whose size depends on {axes})" if axes else source
    return found
