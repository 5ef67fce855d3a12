"""Convolutions. ONNX puts channels first, we put them last: transposes are inserted around them,
and passes cancel the ones that meet."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite_shape import from_channels_last, to_channels_last
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.windows import read_window


def convolved(context: NodeContext, x: Value, weight: Value, bias: Value | None) -> Value:
    """The convolution of [N, C, *spatial] with [O, C / groups, *kernel] that the node describes."""
    rank = x.type.rank
    if rank < 3 or weight.type.rank != rank:
        context.wrong(f"the input is {x.type} and the weight {weight.type}")
    groups = context.integer("group", 1)
    if groups < 1:
        context.wrong(f"group is {groups}")
    spatial, kernel = x.type.shape[2:], weight.type.shape[2:]
    declared = context.integers("kernel_shape", ())
    if declared and tuple(declared) != kernel:
        context.wrong(f"kernel_shape is {list(declared)}, but the weight is {weight.type}")
    wanted = weight.type.shape[1] * groups
    x = with_size(context.builder, x, 1, wanted, "the weight's axis 1 times the groups")
    window = read_window(context, spatial, kernel)
    result = context.apply(
        "conv",
        to_channels_last(context.builder, x),
        context.transpose(weight, (*range(2, rank), 1, 0)),
        **window.steps,
        groups=groups,
    )
    return from_channels_last(context.builder, _with_bias(context, result, bias))


def _with_bias(context: NodeContext, result: Value, bias: Value | None) -> Value:
    if bias is None:
        return result
    return context.elementwise("add", result, context.reshape(bias, (bias.type.numel,)))


@rule("Conv")
def read_conv(context: NodeContext) -> Value:
    return convolved(context, context.input(0), context.input(1), context.optional(2))


@rule("ConvTranspose")
def read_conv_transpose(context: NodeContext) -> Value:
    count = context.input(0).type.rank - 2
    pads: tuple[Size, ...] = context.integers("pads", (0,) * 2 * count)
    return _transposed(context, pads, context.optional(2))


@rule("ConvTransposeWithDynamicPads", domain="com.microsoft")
def read_conv_transpose_with_pads(context: NodeContext) -> Value:
    """The form of ConvTranspose whose pads are an input."""
    count = context.input(0).type.rank - 2
    pads: tuple[Size, ...] = (0,) * 2 * count
    if context.optional(2) is not None:
        pads = context.sizes_in(context.input(2), signed=True)
    return _transposed(context, pads, context.optional(3))


def _transposed(context: NodeContext, pads: tuple[Size, ...], bias: Value | None) -> Value:
    x, weight = context.input(0), context.input(1)
    rank = x.type.rank
    if rank < 3 or weight.type.rank != rank:
        context.wrong(f"the input is {x.type} and the weight {weight.type}")
    groups = context.integer("group", 1)
    if groups < 1:
        context.wrong(f"group is {groups}")
    x = with_size(context.builder, x, 1, weight.type.shape[0], "the weight's axis 0")
    count = rank - 2
    strides = context.integers("strides", (1,) * count)
    dilations = context.integers("dilations", (1,) * count)
    padding = context.integers("output_padding", (0,) * count)
    low, high = _transposed_pads(context, pads, x.type.shape[2:], weight.type.shape[2:])
    # [C, O / groups, *kernel] to [*kernel, O / groups, C].
    result = context.apply(
        "conv_transpose",
        to_channels_last(context.builder, x),
        context.transpose(weight, (*range(2, rank), 1, 0)),
        strides=strides,
        dilations=dilations,
        low=low,
        high=high,
        output_padding=padding,
        groups=groups,
    )
    return from_channels_last(context.builder, _with_bias(context, result, bias))


def _transposed_pads(
    context: NodeContext, pads: tuple[Size, ...], spatial: Sequence[Size], kernel: Sequence[Size]
) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
    """What is cut off the full result at each end."""
    count = len(spatial)
    strides = context.integers("strides", (1,) * count)
    dilations = context.integers("dilations", (1,) * count)
    padding = context.integers("output_padding", (0,) * count)
    if any(len(entry) != count for entry in (strides, dilations, padding)) or (
        len(pads) != 2 * count
    ):
        context.wrong(f"strides, dilations and pads do not all fit {count} spatial axes")
    automatic = context.text("auto_pad", "NOTSET")
    shape = context.integers("output_shape", ())
    if automatic == "VALID" and not shape:
        return (0,) * count, (0,) * count
    if automatic in ("NOTSET", "", "VALID") and not shape:
        return pads[:count], pads[count:]
    low: list[Size] = []
    high: list[Size] = []
    wanted = shape[-count:] if shape else [n * s for n, s in zip(spatial, strides)]
    for axis in range(count):
        full = (spatial[axis] - 1) * strides[axis] + padding[axis]
        full = full + (kernel[axis] - 1) * dilations[axis] + 1
        cut = full - wanted[axis]
        half = dims.floordiv(cut, 2)
        low.append(half if automatic == "SAME_UPPER" else cut - half)
        high.append(cut - low[-1])
    return tuple(low), tuple(high)
