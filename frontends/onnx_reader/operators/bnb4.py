"""Weights of four bits as bitsandbytes makes them: sixteen numbers that are not evenly spaced."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.registry import rule

_FLOAT4 = (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
"""Of a sign, two bits of exponent and one of mantissa."""

# Quantiles of a normal distribution (Dettmers et al., "QLoRA: Efficient finetuning of quantized
# LLMs", 2023, appendix E).
_NORMAL_FLOAT4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

_NUMBERS = ((*_FLOAT4, *(-number for number in _FLOAT4)), _NORMAL_FLOAT4)
"""By the attribute quant_type."""


@rule("MatMulBnb4", domain="com.microsoft")
def read_matmul_bnb4(context: NodeContext) -> Value:
    """Weights [N, K], the first of a byte in its high bits, in blocks that go on from row to row.
    They become floats when the model is compiled."""
    x, kind = context.input(0), context.integer("quant_type")
    depth, columns, block = (context.integer(name) for name in ("K", "N", "block_size"))
    if kind not in (0, 1) or not context.integer("transB", 1):
        context.unsupported(f"quant_type {kind} with transB {context.integer('transB', 1)}")
    packed = context.constant_array(1, "weights").reshape(-1).astype(np.uint8, copy=False)
    largest = context.constant_array(2, "absmax").reshape(-1)
    count = columns * depth
    if packed.size != -(-count // 2) or largest.size != -(-count // block):
        context.wrong(f"{packed.size} bytes and {largest.size} blocks for {count} weights")
    places = np.stack([packed >> 4, packed & 15], -1).reshape(-1)[:count]
    numbers = np.array(_NUMBERS[kind], np.float32)
    weights = numbers[places] * np.repeat(largest.astype(np.float32), block)[:count]
    right = weights.astype(x.type.dtype.numpy).reshape(columns, depth)
    return product(context, x, context.builder.constant(np.ascontiguousarray(right.T)))
