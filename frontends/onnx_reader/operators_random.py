"""Random numbers. They are the same in every run: the seed is the node's, or made of its name."""

from __future__ import annotations

import zlib

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, f32, i32
from bessemer.compiler.ops.composite import binary
from bessemer.frontends.onnx_reader.context import NodeContext
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
    return _drawn(context, context.integers("shape"), context.dtype("dtype", f32))


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
    shape = (batch, context.integer("sample_size", 1), classes)
    # Away from 0 and 1, whose logarithms are no use.
    drawn = b.apply("uniform", shape=shape, seed=_seed(context), low=1e-7, high=1 - 1e-7)
    noise = b.apply("neg", b.apply("log", b.apply("neg", b.apply("log", drawn))))
    scores = binary(b, "add", context.reshape(logits, (batch, 1, classes)), noise)
    found = b.apply("arg_max", scores, axis=2, last=False)
    return context.cast(found, context.dtype("dtype", i32))
