"""Activation functions."""

from __future__ import annotations

import math

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite import composite_reduce
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import broadcast_value
from bessemer.frontends.onnx_reader.registry import rule


@rule("LeakyRelu")
def read_leaky_relu(context: NodeContext) -> Value:
    slope = context.number("alpha")
    return context.apply("leaky_relu", context.input(0), slope=slope)


@rule("PRelu")
def read_prelu(context: NodeContext) -> Value:
    x, slope = context.input(0), context.input(1)
    if context.opset < 7 and slope.type.rank == 1 and x.type.rank > 1:
        slope = context.reshape(slope, (*slope.type.shape, *(1,) * (x.type.rank - 2)))
    return activation.prelu(
        context.builder, x, broadcast_value(context.builder, slope, x.type.shape)
    )


@rule("Elu")
def read_elu(context: NodeContext) -> Value:
    return activation.elu(context.builder, context.input(0), context.number("alpha"))


@rule("Celu")
def read_celu(context: NodeContext) -> Value:
    return activation.celu(context.builder, context.input(0), context.number("alpha"))


@rule("Selu")
def read_selu(context: NodeContext) -> Value:
    alpha = context.number("alpha")
    gamma = context.number("gamma")
    return activation.selu(context.builder, context.input(0), alpha, gamma)


@rule("ThresholdedRelu")
def read_thresholded_relu(context: NodeContext) -> Value:
    alpha = context.number("alpha")
    return activation.thresholded_relu(context.builder, context.input(0), alpha)


@rule("HardSigmoid")
def read_hard_sigmoid(context: NodeContext) -> Value:
    alpha, beta = context.number("alpha"), context.number("beta")
    return activation.hard_sigmoid(context.builder, context.input(0), alpha, beta)


@rule("HardSwish")
def read_hard_swish(context: NodeContext) -> Value:
    return activation.hard_swish(context.builder, context.input(0))


@rule("Swish")
def read_swish(context: NodeContext) -> Value:
    return activation.silu(context.builder, context.input(0), context.number("alpha"))


@rule("Mish")
def read_mish(context: NodeContext) -> Value:
    return activation.mish(context.builder, context.input(0))


@rule("Softplus")
def read_softplus(context: NodeContext) -> Value:
    return activation.softplus(context.builder, context.input(0))


@rule("Softsign")
def read_softsign(context: NodeContext) -> Value:
    return activation.softsign(context.builder, context.input(0))


@rule("Shrink")
def read_shrink(context: NodeContext) -> Value:
    bias, limit = context.number("bias"), context.number("lambd")
    x = context.input(0)
    if not x.type.dtype.is_integer:
        return activation.shrink(context.builder, x, bias, limit)
    if bias != int(bias) or limit < 0 or x.type.dtype.kind == "u":
        context.unsupported(f"bias = {bias}, lambd = {limit} on {x.type.dtype}")
    # |x| > limit holds for an integer if it is above the limit's whole part.
    return activation.shrink(context.builder, x, int(bias), math.floor(limit))


@rule("Gelu")
def read_gelu(context: NodeContext) -> Value:
    approximate = context.text("approximate")
    if approximate not in ("none", "tanh"):
        context.wrong(f"approximate is {approximate!r}, none or tanh are possible")
    return activation.gelu(context.builder, context.input(0), approximate == "tanh")


def _axes(context: NodeContext, x: Value) -> tuple[int, ...]:
    """The axes to normalize over: one; before opset 13 also all that follow it."""
    rank = x.type.rank
    if rank == 0:
        return ()
    if context.opset >= 13:
        return (context.axis(rank),)
    return tuple(range(context.axis(rank), rank))


@rule("Softmax")
def read_softmax(context: NodeContext) -> Value:
    x = context.input(0)
    return composite_reduce.softmax(context.builder, x, _axes(context, x))


@rule("LogSoftmax")
def read_log_softmax(context: NodeContext) -> Value:
    x = context.input(0)
    return composite_reduce.log_softmax(context.builder, x, _axes(context, x))


@rule("Hardmax")
def read_hardmax(context: NodeContext) -> Value:
    """1 where the maximum is first met, 0 elsewhere."""
    x = context.input(0)
    axes = _axes(context, x)
    if not axes:
        return context.like(x, 1.0)
    shape, axis = x.type.shape, axes[0]
    row = dims.product(shape[at] for at in axes)
    rows = context.reshape(x, (*shape[:axis], row, *shape[axes[-1] + 1 :]))
    place = context.apply("arg_max", rows, axis=axis, last=False)
    off_on = context.builder.constant(np.array([0, 1], x.type.dtype.numpy))
    hot = context.apply("one_hot", place, off_on, depth=row, axis=axis)
    return context.reshape(hot, shape)
