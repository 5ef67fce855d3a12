"""Normalizations."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite_normalize as normalize
from bessemer.compiler.ops.composite.composite import binary, cast
from bessemer.compiler.ops.composite.composite_reduce import mean, variance
from bessemer.compiler.ops.composite.composite_shape import from_channels_last, to_channels_last
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size, with_trailing_sizes
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule


@rule("BatchNormalization")
def read_batch_norm(context: NodeContext) -> Value | list[Item]:
    x, scale, bias, center, spread = (context.input(position) for position in range(5))
    epsilon = context.number("epsilon")
    if context.opset < 9 and not context.integer("spatial", 1):
        return _batch_norm_of_every_element(context, epsilon)
    axis = 1 if x.type.rank > 1 else 0
    if context.opset >= 14 and context.integer("training_mode", 0):
        return _training_batch_norm(context, epsilon)
    channels = scale.type.numel
    x = with_size(context.builder, x, axis, channels)
    bias, center, spread = (_of_size(context, value, channels) for value in (bias, center, spread))
    return normalize.batch_norm(context.builder, x, scale, bias, center, spread, epsilon, axis)


def _of_size(context: NodeContext, vector: Value, size: dims.Size) -> Value:
    return with_size(context.builder, vector, 0, size) if vector.type.rank == 1 else vector


def _training_batch_norm(context: NodeContext, epsilon: float) -> list[Item]:
    """Statistics of the batch, and the running ones moved towards them."""
    b = context.builder
    x, scale, bias, old_center, old_spread = (context.input(position) for position in range(5))
    momentum = context.number("momentum")
    shape, channels = x.type.shape, scale.type.numel
    if x.type.rank == 1:
        x = context.reshape(x, (1, *shape))
    image = to_channels_last(b, with_size(b, x, 1, channels))
    bias = _of_size(context, bias, channels)
    normal, *statistics = normalize.norm_of_batch(b, image, scale, bias, epsilon)
    normal = from_channels_last(b, normal)
    moved: list[Item] = [normal if len(shape) > 1 else context.reshape(normal, shape)]
    for old, new in zip((old_center, old_spread), statistics, strict=True):
        new = cast(b, new, old.type.dtype)
        kept = binary(b, "mul", old, momentum)
        moved.append(binary(b, "add", kept, binary(b, "mul", new, 1 - momentum)))
    return moved


def _batch_norm_of_every_element(context: NodeContext, epsilon: float) -> Value:
    """spatial = 0: statistics for each element of an image, not for each channel."""
    x, *parameters = (context.input(position) for position in range(5))
    shape = (1, *x.type.shape[1:])
    scale, bias, center, spread = (context.reshape(value, shape) for value in parameters)
    deviation = context.apply("sqrt", binary(context.builder, "add", spread, epsilon))
    normal = context.elementwise("div", context.elementwise("sub", x, center), deviation)
    return context.elementwise("add", context.elementwise("mul", normal, scale), bias)


@rule("InstanceNormalization")
def read_instance_norm(context: NodeContext) -> Value:
    b = context.builder
    x, scale = context.input(0), context.input(1)
    channels = scale.type.numel
    x = to_channels_last(b, with_size(b, x, 1, channels))
    bias = _of_size(context, context.input(2), channels)
    result = normalize.instance_norm(b, x, scale, bias, context.number("epsilon"))
    return from_channels_last(b, result)


@rule("GroupNormalization")
def read_group_norm(context: NodeContext) -> Value:
    b = context.builder
    x, scale, bias = context.input(0), context.input(1), context.input(2)
    groups = context.integer("num_groups")
    if groups < 1:
        context.wrong(f"num_groups is {groups}")
    bias = _of_size(context, bias, scale.type.numel)
    if context.opset >= 21:
        x = with_size(b, x, 1, scale.type.numel)
    channels = x.type.shape[1]
    if scale.type.shape != (channels,):  # before opset 21: one number a group
        share = dims.floordiv(channels, groups)
        scale, bias = (_each_repeated(context, value, share) for value in (scale, bias))
    last = to_channels_last(b, x)
    epsilon = context.number("epsilon")
    return from_channels_last(b, normalize.group_norm(b, last, scale, bias, groups, epsilon))


def _each_repeated(context: NodeContext, value: Value, times: dims.Size) -> Value:
    (count,) = value.type.shape
    column = context.reshape(value, (count, 1))
    wide = context.apply("broadcast_to", column, shape=(count, times))
    return context.reshape(wide, (count * times,))


@rule("LayerNormalization")
def read_layer_norm(context: NodeContext) -> list[Item]:
    b = context.builder
    x = with_trailing_sizes(b, context.input(0), context.input(1).type.shape)
    axes = range(context.axis(x.type.rank), x.type.rank)
    epsilon = context.number("epsilon")
    normal, center, inverse = normalize.standardize(b, x, axes, epsilon)
    scaled = normalize.scale_and_shift(b, normal, context.input(1), context.optional(2))
    return [cast(b, scaled, x.type.dtype), center, inverse]


@rule("RMSNormalization")
def read_rms_norm(context: NodeContext) -> Value:
    scale = context.input(1)
    x = with_trailing_sizes(context.builder, context.input(0), scale.type.shape)
    axes = range(context.axis(x.type.rank), x.type.rank)
    epsilon = context.number("epsilon")
    return normalize.rms_norm(context.builder, x, scale, axes, epsilon)


@rule("LRN")
def read_lrn(context: NodeContext) -> Value:
    b = context.builder
    x = to_channels_last(b, context.input(0))
    size = context.integer("size")
    if size < 1:
        context.wrong(f"size is {size}")
    alpha, beta = context.number("alpha"), context.number("beta")
    return from_channels_last(b, normalize.lrn(b, x, size, alpha, beta, context.number("bias")))


@rule("MeanVarianceNormalization")
def read_mean_variance_norm(context: NodeContext) -> Value:
    b = context.builder
    x = context.input(0)
    axes = context.axes(x.type.rank, context.integers("axes"))
    center = mean(b, x, axes, keep=True)
    deviation = b.apply("sqrt", variance(b, x, axes, keep=True))
    # The epsilon of ONNX's definition, which is added to the deviation.
    below = binary(b, "add", deviation, 1e-9)
    return binary(b, "div", binary(b, "sub", x, center), below)
