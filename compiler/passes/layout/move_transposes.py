"""Moves transposes to where they cancel. This pass makes networks channels-last throughout.

Readers of channels-first formats put a transpose before and after every convolution:

    conv -> transpose(0, 3, 1, 2) -> relu -> transpose(0, 2, 3, 1) -> conv
    becomes                          conv -> relu -> conv

Every value of a flexible operator (see axis_orders.py) may be stored in another order of its axes;
transposes, broadcasts, axes of size 1 and constants can follow at no cost. Bytes are transposed
where a flexible operator reads an operand, or a rigid one (conv, matmul, an output of the graph)
any value, in another order than that in which it is stored. The pass looks for the orders with the
fewest such bytes. It sweeps down and up the graph, and gives one value after the other the order of
its operands or of its readers, if that does not cost more. Orders that gain nothing in the end are
undone, so there are never more bytes to transpose than before.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.rewrite import map_regions
from bessemer.compiler.passes.layout.apply_orders import apply_orders
from bessemer.compiler.passes.layout.order_search import OrderSearch
from bessemer.compiler.passes.simplification.remove_dead import remove_dead


def move_transposes(graph: Graph) -> Graph:
    """The graph with fewer transposes, also inside regions; the same one if there is no gain."""
    nodes = tuple(map_regions(node, move_transposes) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    # Values without readers must not influence how others are stored.
    live = remove_dead(graph)
    search = OrderSearch(live)
    return apply_orders(live, search) if search.run() else graph
