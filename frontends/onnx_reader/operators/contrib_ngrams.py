"""Numbers of n-grams of tokens, by which embeddings of them are found."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.ops.composite.composite import broadcast_to
from bessemer.compiler.ops.composite.composite_shape import concat, slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule


@rule("NGramHashMapping", domain="com.microsoft")
def read_ngram_hashes(context: NodeContext) -> list[Value]:
    """Of tokens [B, T], for every order n from 2 on, the remainders [B, T, heads] of one number:

    token[t] * factor[0] xor token[t - 1] * factor[1] xor ... token[t - n + 1] * factor[n - 1]

    The tokens before the first are an input and an output [B, most - 1].
    """
    if context.optional(6) is not None or context.integer("reset_on_eos", 0):
        context.unsupported("n-grams that end where sequences do")
    b, ids, factors = context.builder, context.input(0), context.input(1)
    most, heads = context.integer("max_ngram_size"), context.integer("n_head_per_ngram")
    if most < 2 or heads < 1:
        context.wrong(f"max_ngram_size is {most}, n_head_per_ngram {heads}")
    batch, steps = ids.type.shape
    whole = concat(b, [_before(context, most - 1), ids], 1)
    mixed: Value | None = None
    parts: list[Value] = []
    for back in range(most):
        tokens = slice_axis(b, whole, 1, most - 1 - back, steps)
        factor = context.reshape(slice_axis(b, factors, 0, back, 1), ())
        product = context.elementwise("mul", tokens, factor)
        mixed = product if mixed is None else context.apply("xor", mixed, product)
        if back:
            sizes = slice_axis(b, context.input(2), 0, (back - 1) * heads, heads)
            number = context.reshape(mixed, (batch, steps, 1))
            parts.append(context.elementwise("mod", number, sizes))
    found = concat(b, parts, 2)
    if context.optional(4) is not None:
        found = context.elementwise("add", found, context.input(4))
    return [found, slice_axis(b, whole, 1, steps, most - 1)]


def _before(context: NodeContext, count: int) -> Value:
    """The tokens before the first."""
    ids, past, end = context.input(0), context.optional(3), context.optional(5)
    if past is not None:
        return past
    shape = (ids.type.shape[0], count)
    if end is None:
        return context.full(TensorType(ids.type.dtype, shape), context.integer("pad_id"))
    return broadcast_to(context.builder, context.reshape(end, (1, 1)), shape)
