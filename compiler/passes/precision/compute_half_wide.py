"""Computes networks of float16 in float32, because the vector units do not compute with 16 bits.

    %2 = mul(%0, %1) : f16                      %2 = mul(cast(%0) : f32, cast(%1) : f32) : f32
    %3 = conv(%2, w) : f16         becomes      %3 = conv(%2, w as f32) : f32
    return %3                                   return cast(%3) : f16

Computed values stay float32 from kernel to kernel. They are rounded where they leave the network,
or where they meet float16 numbers that are only moved, such as a decoder's keys. A table of which
only some rows are read stays float16. Rounding after every operator, as the file says, would be
less exact and slower by the conversions; onnxruntime does not do it either.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import TensorType, f16, f32

_MOVES = frozenset({
    "transpose", "broadcast_to", "slice", "reshape", "windows", "pad", "concat", "gather",
    "gather_elements", "gather_nd", "scatter_elements", "scatter_nd", "select", "tensor_scatter",
    "top_k",
})  # fmt: skip
"""Operators without arithmetic: they become float32 only if all their operands have."""
_STAY = frozenset({"reinterpret", "bind", "unique"})


def compute_half_wide(graph: Graph) -> Graph:
    """The same network with float32 in place of float16 between its inputs and its outputs."""
    return _Widening(graph).run()


class _Widening:
    """`_wide` has, for a new float16 value, the float32 numbers that it was rounded from or that
    equal it. `_rounded` are the values that the network itself rounds: a node that converts these
    to float32 again needs the rounded numbers."""

    def __init__(self, graph: Graph) -> None:
        self._rewriter = GraphRewriter(graph)
        self._wide: dict[Value, Value] = {}
        self._rounded: set[Value] = set()

    def run(self) -> Graph:
        rewriter = self._rewriter
        for node in rewriter.graph.nodes:
            node = map_regions(node, compute_half_wide)
            rewriter.sources = node.sources
            if self._computes(node):
                self._compute(node)
                continue
            rewriter.visit(node)
            if node.operator.name == "cast":
                self._note(node, rewriter.now(node.inputs[0]), rewriter.now(node.output))
        return rewriter.finish()

    def _note(self, node: Node, before: Value, after: Value) -> None:
        """Remembers the numbers that are available after a conversion."""
        if (before.type.dtype, after.type.dtype) == (f32, f16):
            self._wide[after] = before
            if _is_asked_for(node):
                self._rounded.add(after)
        elif (before.type.dtype, after.type.dtype) == (f16, f32):
            self._wide.setdefault(before, after)

    def _computes(self, node: Node) -> bool:
        """Whether a node computes with float16 numbers that may be float32 numbers as well."""
        halves = [value for value in node.inputs if value.type.dtype is f16]
        if not halves or node.regions or node.operator.name in _STAY:
            return False
        known = [self._rewriter.now(value) for value in halves]
        if node.operator.name == "cast":
            return known[0] in self._wide and known[0] not in self._rounded
        if node.operator.name in _MOVES:
            made = [value for value in known if value not in self._rewriter.constants]
            if not made or any(value not in self._wide for value in made):
                return False
        types = [_wide_type(value.type) for value in node.inputs]
        wanted = [_wide_type(value.type) for value in node.outputs]
        # An attribute may say which type the result has.
        return list(node.operator.infer_types(types, _wide_attributes(node))) == wanted

    def _compute(self, node: Node) -> None:
        rewriter = self._rewriter
        operands = [self._widened(rewriter.now(value)) for value in node.inputs]
        outputs = rewriter.emit_many(node.operator.name, operands, _wide_attributes(node))
        for old, new in zip(node.outputs, outputs, strict=True):
            if old.type.dtype is not f16:
                rewriter.stand(old, new)
                continue
            rewriter.stand(old, rewriter.emit("cast", new, dtype=f16))
            self._wide[rewriter.now(old)] = new

    def _widened(self, value: Value) -> Value:
        if value.type.dtype is not f16:
            return value
        if value not in self._wide:
            array = self._rewriter.constants.get(value)
            self._wide[value] = (
                self._rewriter.emit("cast", value, dtype=f32)
                if array is None
                else self._rewriter.constant(array.astype(np.float32), value.name)
            )
        return self._wide[value]


def _is_asked_for(node: Node) -> bool:
    """Whether a conversion is one of the network itself. (The reader writes others around operators
    that compute in float32, such as a norm.)"""
    return not node.sources or any(
        source.partition(" ")[0] in ("Cast", "CastLike") for source in node.sources
    )


def _wide_attributes(node: Node) -> Mapping[str, object]:
    """The attributes without the type of the sums: products of float32 numbers have float32 sums
    anyway."""
    attributes = node.attributes
    if node.operator.name in ("matmul", "conv") and attributes.get("dtype") is f32:
        return {**attributes, "dtype": None}
    return attributes


def _wide_type(type_: TensorType) -> TensorType:
    return TensorType(f32, type_.shape) if type_.dtype is f16 else type_
