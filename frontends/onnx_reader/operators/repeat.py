"""repeat_interleave, which spreads phonemes over frames: every row as often as a vector says.

PyTorch's exporter writes a loop over two sequences, of the rows and of how often each comes. Here
the loop is one node before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, i64
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import agreed_size
from bessemer.frontends.onnx_reader.registry import rule

DOMAIN = "bessemer"
"""Of nodes that the reader writes for itself; no model has them."""
_BODY = [
    "SequenceAt", "SequenceAt", "Unsqueeze", "Concat", "Shape", "ConstantOfShape",
    "Mul", "Equal", "Where", "Expand", "Reshape", "SequenceInsert",
]  # fmt: skip


def with_repeats(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, with one `RepeatInterleave` for each concatenation of such a loop's sequence."""
    if not any(node.op_type == "ConcatFromSequence" for node in nodes):
        return list(nodes)
    makers = {name: node for node in nodes for name in node.output}
    return [_repeat(node, makers) or node for node in nodes]


def _repeat(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node in place of a ConcatFromSequence."""
    loop = _maker(makers, node, 0)
    if node.op_type != "ConcatFromSequence" or loop is None or loop.op_type != "Loop":
        return None
    body = next(entry.g for entry in loop.attribute if entry.name == "body")
    steps = [each for each in body.node if each.op_type not in ("Constant", "Cast", "Identity")]
    if [each.op_type for each in steps] != _BODY:
        return None
    repeats, rows, spread, counts = steps[:4]
    all_repeats, all_rows = _maker(makers, repeats, 0), _maker(makers, rows, 0)
    if all_repeats is None or all_rows is None:
        return None
    axis = _integer(node, "axis")
    facts = (
        len(loop.output) == 1 and not _integer(node, "new_axis"),
        _is_of(_maker(makers, loop, 2), "SequenceEmpty"),
        all_repeats.op_type == all_rows.op_type == "SplitToSequence",
        _integer(all_repeats, "axis") == 0 and _integer(all_rows, "axis") == axis,
        all_repeats.input[1:] == all_rows.input[1:] and _are_ones(_maker(makers, all_rows, 1)),
        repeats.input[1] == rows.input[1] == body.input[0].name,
        spread.input[0] == rows.output[0] and repeats.output[0] in counts.input,
    )
    if not all(facts):
        return None
    names = [all_rows.input[0], all_repeats.input[0]]
    return onnx.helper.make_node(
        "RepeatInterleave", names, list(node.output), node.name, domain=DOMAIN, axis=axis
    )


def _maker(
    makers: dict[str, onnx.NodeProto], node: onnx.NodeProto, place: int
) -> onnx.NodeProto | None:
    """What computes an input of a node."""
    return makers.get(node.input[place]) if place < len(node.input) else None


def _is_of(node: onnx.NodeProto | None, operator: str) -> bool:
    return node is not None and node.op_type == operator


def _are_ones(node: onnx.NodeProto | None) -> bool:
    if node is None or node.op_type != "ConstantOfShape":
        return False
    value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
    return value is not None and bool((onnx.numpy_helper.to_array(value) == 1).all())


def _integer(node: onnx.NodeProto, name: str) -> int:
    return next((int(entry.i) for entry in node.attribute if entry.name == name), 0)


@rule("RepeatInterleave", domain=DOMAIN)
def read_repeat_interleave(context: NodeContext) -> Value:
    """Output row j comes from input row k, where k rows end, with all their repeats, up to j."""
    x, repeats = context.input(0), context.cast(context.input(1), i64)
    axis = context.axis(x.type.rank)
    count = agreed_size(context.builder, x.type.shape[axis], repeats.type.shape[0])
    repeats = context.reshape(repeats, (count,))
    whole = context.apply("reduce_sum", repeats, axes=(0,))
    (length,) = context.sizes_in(whole)
    ends = _running_sum(context, repeats)
    none = context.full(TensorType(i64, (length + 1,)), 0)
    ending = context.apply(
        "scatter_elements", none, ends, context.like(ends, 1), axis=0, reduction="add"
    )
    ended = _running_sum(context, ending)
    places = context.apply("slice", ended, starts=(0,), shape=(length,), steps=(1,))
    return context.apply("gather", x, places, axis=axis)


def _running_sum(context: NodeContext, x: Value) -> Value:
    return context.apply("cumulative", x, axis=0, reduction="add", exclusive=False, reverse=False)
