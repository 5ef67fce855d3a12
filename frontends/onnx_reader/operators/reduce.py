"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import boolean, f64, i32, u8
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.compiler.ops.composite.composite import cast, in_f32
from bessemer.compiler.ops.composite.composite_einsum import einsum, operand_labels
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import broadcast_shape, with_sizes_of
from bessemer.frontends.onnx_reader.registry import rule

# The axis attribute became an input in opset 13 for ReduceSum, in 18 for the others.

Reduction = Callable[[GraphBuilder, Value, Sequence[int], bool], Value]


def _named(name: str) -> Reduction:
    return lambda b, x, axes, keep: composite_reduce.reduce(b, name, x, axes, keep)


def _log_sum(b: GraphBuilder, x: Value, axes: Sequence[int], keep: bool) -> Value:
    total = composite_reduce.reduce(b, "sum", in_f32(b, x), axes, keep)
    return cast(b, b.apply("log", total), x.type.dtype)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": _named("sum"),
    "ReduceProd": _named("prod"),
    "ReduceMax": _named("max"),
    "ReduceMin": _named("min"),
    "ReduceMean": composite_reduce.mean,
    "ReduceL1": composite_reduce.l1_norm,
    "ReduceL2": composite_reduce.l2_norm,
    "ReduceSumSquare": composite_reduce.sum_square,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": composite_reduce.logsumexp,
}
_OF_FLOATS = ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp")


@rule(*_REDUCTIONS)
def read_reduction(context: NodeContext) -> Value:
    x = context.input(0)
    operator = context.node.op_type
    given = context.axes_given() or ()
    if not given and context.integer("noop_with_empty_axes", 0):
        axes: Sequence[int] = ()
    else:
        axes = context.axes(x.type.rank, given) if given else range(x.type.rank)
    keep = bool(context.integer("keepdims"))
    return _reduced(context, operator, x, tuple(axes), keep)


def _reduced(
    context: NodeContext, operator: str, x: Value, axes: Sequence[int], keep: bool
) -> Value:
    reduction = _REDUCTIONS[operator]
    dtype = x.type.dtype
    if dtype == boolean:
        # The maximum of truths is true if any is.
        return context.cast(reduction(context.builder, context.cast(x, u8), axes, keep), boolean)
    if dtype.is_integer and operator in _OF_FLOATS:
        wide = context.cast(x, f64)
        return context.cast(reduction(context.builder, wide, axes, keep), dtype)
    if dtype.bits < 32 and dtype.is_integer and operator == "ReduceMean":
        return context.cast(reduction(context.builder, context.cast(x, i32), axes, keep), dtype)
    return reduction(context.builder, x, axes, keep)


@rule("LpNormalization")
def read_lp_normalization(context: NodeContext) -> Value:
    x = context.input(0)
    p = context.integer("p")
    if p not in (1, 2):
        context.wrong(f"p is {p}, 1 or 2 are possible")
    axis = context.axis(x.type.rank)
    return composite_reduce.lp_normalize(context.builder, x, axis, p)


@rule("Einsum")
def read_einsum(context: NodeContext) -> Value:
    b, equation, values = context.builder, context.text("equation"), context.tensors()
    sizes: dict[str, Size] = {}
    operands = operand_labels(equation, values)
    for value, labels in zip(values, operands):
        for label, size in zip(labels, value.type.shape):
            (sizes[label],) = broadcast_shape(b, [(sizes.get(label, 1),), (size,)])
    agreeing = [
        with_sizes_of(b, value, [sizes[label] for label in labels])
        for value, labels in zip(values, operands)
    ]
    return einsum(b, equation, *agreeing)
