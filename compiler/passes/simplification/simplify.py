"""Rewrites nodes by the laws of arithmetic and of views.

    add(x, 0)  mul(x, 1)  pow(x, 2)                   become    x    x    mul(x, x)
    transpose(transpose(x, (1, 0)), (1, 0))           becomes   x
    max(min(x, 6), 0)                                 becomes   clip(x, 0, 6)
    if(true, ...)                                     becomes   the branch taken

The rules are in tables by operator, in simplify_arithmetic.py, simplify_views.py, simplify_pools.py
and simplify_taps.py. A rule sees a node whose inputs are already simplified, and what it writes is
simplified in turn, so a single walk is enough. No rule adds work. Nodes that are left without
readers are removed by remove_dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.passes.known_values import uniform
from bessemer.compiler.passes.simplification.simplify_arithmetic import ARITHMETIC
from bessemer.compiler.passes.simplification.simplify_blocks import BLOCKS
from bessemer.compiler.passes.simplification.simplify_pools import POOLS
from bessemer.compiler.passes.simplification.simplify_taps import TAPS
from bessemer.compiler.passes.simplification.simplify_views import VIEWS

_RULES: Mapping[str, Callable[[GraphRewriter, Node], Value | None]] = {
    **ARITHMETIC,
    **VIEWS,
    **POOLS,
    **TAPS,
    **BLOCKS,
}


def simplify(graph: Graph) -> Graph:
    """The graph with every rule applied until none applies."""
    return rewrite_graph(graph, _simplify)


def _simplify(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name == "if":
        return _take_branch(rewriter, node)
    rule = _RULES.get(node.operator.name)
    value = None if rule is None else rule(rewriter, node)
    return None if value is None else (value,)


def _take_branch(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """The branch that a constant condition chooses, in place of the `if`."""
    condition = uniform(rewriter, node.inputs[0])
    if condition is None:
        return None
    return rewriter.inline(node.regions[0 if condition else 1], node.inputs[1:])
