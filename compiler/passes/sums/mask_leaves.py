"""Gives ensembles of trees the tables by which many samples are scored at once.

    tree_ensemble(x, tables)    becomes    tree_ensemble(x, tables, words, masks, questions ...)

See ops/tree_masks.py for the method. Samples must be many, or of a number that is not known, and
trees not too large.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ops.tree_masks import MOST_BYTES, OPPOSITE, SAMPLES, with_masks
from bessemer.compiler.passes.known_values import known

_MOST_NODES = 1 << 20
"""Sorting this many nodes takes about a second of compile time."""
_MOST_SAMPLES = 24
"""Ensembles that pay only for more samples of a block, of 32, are not faster on every machine."""


def mask_leaves(graph: Graph) -> Graph:
    """The same network with masks for such ensembles, also inside regions."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    attributes = node.attributes
    if node.operator.name != "tree_ensemble" or attributes.get("masked_from"):
        return None
    x, *tables = node.inputs
    samples, targets = x.type.shape[0], node.output.type.shape[-1]
    if attributes["comparison"] not in OPPOSITE or attributes.get("has_modes"):
        return None
    if attributes["width"] * SAMPLES * x.type.dtype.bytes > MOST_BYTES:
        return None
    if not isinstance(targets, int) or targets * SAMPLES * 8 > MOST_BYTES:
        return None
    arrays = [array for table in tables if (array := known(rewriter, table)) is not None]
    leaves = attributes["leaves"]
    if len(arrays) != len(tables) or not 0 < leaves <= len(arrays[0]) <= _MOST_NODES:
        return None
    masked = with_masks(arrays, leaves)
    if masked is None:
        return None
    found, fewest = masked
    if fewest > min(samples if isinstance(samples, int) else _MOST_SAMPLES, _MOST_SAMPLES):
        return None
    constants = map(rewriter.constant, found)
    return (rewriter.emit("tree_ensemble", x, *constants, **{**attributes, "masked_from": fewest}),)
