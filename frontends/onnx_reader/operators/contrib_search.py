"""NGramRepeatBlock of com.microsoft, for the scores of a search."""

from __future__ import annotations

import math

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite import where
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule


@rule("NGramRepeatBlock", domain="com.microsoft")
def read_ngram_repeat_block(context: NodeContext) -> Value:
    """Scores of tokens that would end a sequence as it has gone on before become -inf.

    No row of `size` tokens begins before a sequence, where all tokens are -1: what a row of those
    is compared with has fewer of them.
    """
    b, tokens, scores = context.builder, context.cast(context.input(0), i64), context.input(1)
    size = context.integer("ngram_size")
    if size < 1:
        context.wrong(f"ngram_size is {size}")
    batch, length = tokens.type.shape
    longer = context.apply("pad", tokens, low=(0, size - 1), high=(0, 0), mode="constant", value=-1)
    repeats = context.full(TensorType(boolean, (batch, length)), True)
    for place in range(size - 1):
        earlier = slice_axis(b, longer, 1, place, length)
        last = slice_axis(b, longer, 1, length + place, 1)
        same = context.elementwise("eq", earlier, last)
        repeats = context.elementwise("and", repeats, same)
    limits = where(
        b,
        repeats,
        -math.inf,
        context.full(TensorType(scores.type.dtype, (batch, length)), math.inf),
    )
    return context.apply("scatter_elements", scores, tokens, limits, axis=1, reduction="min")
