"""Operators that ONNX had on trial and took back, as converters from CoreML wrote them until 2019;
onnxruntime runs them still."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite_activation as activation
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule


@rule("Affine")
def read_affine(context: NodeContext) -> Value:
    scaled = _times(context, context.input(0), "alpha")
    return binary(context.builder, "add", scaled, context.number("beta", 0.0))


@rule("Scale")
def read_scale(context: NodeContext) -> Value:
    return _times(context, context.input(0), "scale")


@rule("ScaledTanh")
def read_scaled_tanh(context: NodeContext) -> Value:
    inner = _times(context, context.input(0), "beta")
    return _times(context, context.apply("tanh", inner), "alpha")


@rule("ParametricSoftplus")
def read_parametric_softplus(context: NodeContext) -> Value:
    inner = _times(context, context.input(0), "beta")
    return _times(context, activation.softplus(context.builder, inner), "alpha")


@rule("ImageScaler")
def read_image_scaler(context: NodeContext) -> Value:
    """A number for all, and one to add for each channel of [N, C, H, W]."""
    scaled = _times(context, context.input(0), "scale")
    biases = context.numbers("bias", ())
    if len(biases) != scaled.type.shape[1]:
        context.wrong(f"{len(biases)} biases for {scaled.type}")
    bias = context.builder.constant(scaled.type.dtype.numpy.type(biases).reshape(-1, 1, 1))
    return context.elementwise("add", scaled, bias)


@rule("Crop")
def read_crop(context: NodeContext) -> Value:
    """[N, C, H, W] without borders (left, top, right, bottom); with `scale`, of that size."""
    x = context.input(0)
    border = context.integers("border", ())
    if len(border) != 4 or x.type.rank != 4:
        context.wrong(f"border has {len(border)} entries for {x.type}")
    left, top, right, bottom = border
    height, width = x.type.shape[2] - top - bottom, x.type.shape[3] - left - right
    if context.has("scale"):
        size = context.integers("scale")
        if len(size) != 2:
            context.wrong(f"scale has {len(size)} entries for {x.type}")
        height, width = size
    rows = slice_axis(context.builder, x, 2, top, height)
    return slice_axis(context.builder, rows, 3, left, width)


def _times(context: NodeContext, x: Value, attribute: str) -> Value:
    number = context.number(attribute, 1.0)
    return x if number == 1 else binary(context.builder, "mul", x, number)
