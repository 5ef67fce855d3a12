"""Classifies nodes by the kind of their work, which decides how they can take part in a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.nests.partial_sums import is_longer

Kind = Literal["view", "pointwise", "reduction", "heavy", "contraction", "statements", "structural"]

HEAVY = frozenset(
    {
        "max_pool", "average_pool", "conv_transpose", "deform_columns", "deform_conv", "plane_conv",
    }
)  # fmt: skip
"""Operators whose element is a sum or maximum of many: one a group, and never computed twice."""
CONTRACTIONS = frozenset({"matmul", "conv"})
COSTLY = frozenset(
    {
        "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
        "asinh", "acosh", "atanh", "erf", "sigmoid", "expm1", "log1p", "pow", "div", "sqrt",
        "rsqrt", "resize", "grid_sample", "roi_align", "concat", "uniform", "normal",
        "mix_neighbours", "neighbour_place", "neighbour_weight",
    }
)  # fmt: skip
"""Pointwise operators that are not computed again for every element of a larger root; see
`is_costly`."""

NOT_SAME_INDEX = frozenset(
    {
        "concat", "pad", "resize", "gather", "gather_elements", "gather_nd", "one_hot",
        "grid_sample", "roi_align", "mix_neighbours",
    }
)  # fmt: skip
"""Operators with an element rule that read their inputs at other indices than their own."""


def kind_of(node: Node) -> Kind:
    """How a node can take part in a group."""
    operator = node.operator
    if operator.name in CONTRACTIONS:
        return "contraction"
    if operator.name.startswith("reduce_"):
        return "reduction"
    if operator.name in HEAVY or samples_channels(node):
        return "heavy"
    if operator.is_view:
        return "view"
    if operator.element is not None:
        return "pointwise"
    if operator.statements is not None:
        return "statements"
    return "structural"


def is_costly(node: Node) -> bool:
    """Whether a node should not be computed again for every element of a larger root.
    (mix_neighbours with two inputs only looks up values, which is cheap.)"""
    only_looks_up = node.operator.name == "mix_neighbours" and len(node.inputs) == 2
    return node.operator.name in COSTLY and not only_looks_up


def samples_channels(node: Node) -> bool:
    """Whether a node computes places in an image and reads all channels there, and there are enough
    of these for vectors. If the channels are neighbours in memory, each place is computed once for
    all of them."""
    looks = node.operator.name in ("grid_sample", "deform_columns")
    return looks and is_longer(node.inputs[0].type.shape[-1], 7)


def pools_what_costs(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a pool should not compute its input itself. As many windows as there are pixels would
    then compute costly functions again, or what a product's kernel can compute in its epilogue."""
    if node.operator.name not in ("max_pool", "average_pool"):
        return False
    seen, waiting = set[Node](), [node.inputs[0]]
    while waiting:
        value = waiting.pop()
        made = producers.get(value)
        if made is None or made in seen or value.type.numel != node.output.type.numel:
            continue
        if is_costly(made) or kind_of(made) == "contraction":
            return True
        seen.add(made)
        if made.operator.is_view or kind_of(made) == "pointwise":
            waiting.extend(made.inputs)
    return False


def is_widening(node: Node) -> bool:
    """Whether a node converts a 16-bit float to f32, which costs nothing when it is loaded."""
    if node.operator.name != "cast" or node.output.type.dtype is not f32:
        return False
    source = node.inputs[0].type.dtype
    return source.is_float and source.bits == 16
