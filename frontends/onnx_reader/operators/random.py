"""Random numbers and dropout, the same in every run. A seed is the node's, or made of its name."""

from __future__ import annotations

import zlib

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, TensorType, boolean, f32
from bessemer.compiler.ops.composite.composite import binary, where
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule


def _seed(context: NodeContext) -> int:
    if context.has("seed"):
        return int(context.number("seed")) & 0xFFFFFFFF
    return zlib.crc32(context.label.encode())


def _drawn(context: NodeContext, shape: tuple[Size, ...], dtype: DType) -> Value:
    """Uniform or normal numbers, as the node's attributes say."""
    if "Uniform" in context.node.op_type:
        return context.apply(
            "uniform",
            shape=shape,
            dtype=dtype,
            seed=_seed(context),
            low=context.number("low", 0.0),
            high=context.number("high", 1.0),
        )
    return context.apply(
        "normal",
        shape=shape,
        dtype=dtype,
        seed=_seed(context),
        mean=context.number("mean", 0.0),
        scale=context.number("scale", 1.0),
    )


@rule("RandomUniform", "RandomNormal")
def read_random(context: NodeContext) -> Value:
    return _drawn(context, context.integers("shape"), context.dtype("dtype"))


@rule("RandomUniformLike", "RandomNormalLike")
def read_random_like(context: NodeContext) -> Value:
    type = context.input(0).type
    return _drawn(context, type.shape, context.dtype("dtype", type.dtype))


@rule("Bernoulli")
def read_bernoulli(context: NodeContext) -> Value:
    """1 with the probability that the input is."""
    p = context.input(0)
    drawn = context.apply("uniform", shape=p.type.shape, dtype=p.type.dtype, seed=_seed(context))
    return context.cast(context.apply("lt", drawn, p), context.dtype("dtype", p.type.dtype))


@rule("Multinomial")
def read_multinomial(context: NodeContext) -> Value:
    """Classes drawn by their log-probabilities: the largest after adding Gumbel noise."""
    b = context.builder
    logits = context.cast(context.input(0), f32)
    if logits.type.rank != 2:
        context.wrong(f"the input is {logits.type}, [batch, classes] is wanted")
    batch, classes = logits.type.shape
    shape = (batch, context.integer("sample_size"), classes)
    # Away from 0 and 1, whose logarithms are no use.
    drawn = b.apply("uniform", shape=shape, seed=_seed(context), low=1e-7, high=1 - 1e-7)
    noise = b.apply("neg", b.apply("log", b.apply("neg", b.apply("log", drawn))))
    scores = binary(b, "add", context.reshape(logits, (batch, 1, classes)), noise)
    found = b.apply("arg_max", scores, axis=2, last=False)
    return context.cast(found, context.dtype("dtype"))


@rule("Dropout")
def read_dropout(context: NodeContext) -> list[Item]:
    """Nothing, unless the model says that it is being trained."""
    x = context.input(0)
    mask: Value = context.full(x.type.with_dtype(boolean), True)
    if context.opset >= 12 and context.optional(2) is not None:
        training, ratio = context.array(2), context.array(1)
        is_off = training is not None and not bool(training.reshape(-1)[0])
        if not is_off and not (ratio is not None and float(ratio.reshape(-1)[0]) == 0.0):
            return _dropped(context, x)
    return [x, mask if context.opset >= 10 else context.cast(mask, x.type.dtype)]


def _dropped(context: NodeContext, x: Value) -> list[Item]:
    """x where a number drawn is not below the ratio, grown so that the mean stays; and where."""
    b, scalar = context.builder, TensorType(f32, ())
    ratio = context.full(scalar, 0.5)
    if context.optional(1) is not None:
        ratio = context.cast(context.reshape(context.input(1), ()), f32)
    # Outside of training nothing is below it.
    training = context.cast(context.reshape(context.input(2), ()), boolean)
    ratio = b.apply("select", training, ratio, context.full(scalar, 0.0))
    drawn = context.apply("uniform", shape=x.type.shape, dtype=f32, seed=_seed(context))
    kept = context.elementwise("ge", drawn, ratio)
    factor = binary(b, "div", 1.0, binary(b, "sub", 1.0, ratio))
    grown = context.elementwise("mul", context.cast(x, f32), factor)
    return [context.cast(where(b, kept, grown, 0.0), x.type.dtype), kept]
