"""Takes the padding out of convolutions that become register-tiled products.

    conv(x, w, low, high)      becomes      conv(pad(x), w)

A tiled convolution reads its input without asking where the border is; the padded copy is made by
whatever kernel produced the input, or by one of its own. Depthwise convolutions keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph


def separate_padding(graph: Graph) -> Graph:
    """The same network with explicit padding."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "conv":
        return None
    low, high = node.attributes["low"], node.attributes["high"]
    x, w = node.inputs
    depthwise = w.type.shape[-2] == 1 and node.attributes["groups"] > 1
    if depthwise or not any(size != 0 for size in (*low, *high)):
        return None
    padded = rewriter.emit("pad", x, low=(0, *low, 0), high=(0, *high, 0), mode="constant", value=0)
    none = tuple(0 for _ in low)
    return (rewriter.emit("conv", padded, w, **{**node.attributes, "low": none, "high": none}),)
