"""Element types that ONNX does not have for an operator: cast to a wider one and back.

Ours computes bf16 in f32 and rounds once, and wraps small integers: the results are the same.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import DType, bf16, f32, i8, i16, i32, u8, u16
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.registry import Rule
from bessemer.frontends.onnx_writer.storage import Stored

NOT_BF16 = (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "round",
    "conv", "conv_transpose", "max_pool", "average_pool", "top_k", "cumulative", "deform_conv",
    "arg_max", "arg_min", "grid_sample", "roi_align", "max_roi_pool", "lstm", "gru", "rnn",
)  # fmt: skip
NOT_SMALL = ("matmul", "reduce_sum", "reduce_prod", "pow", "cumulative")
SMALL = {i8: i32, i16: i32, u8: i32, u16: i32}


def wider_type(node: Node) -> DType | None:
    """The type to compute a node in; None if ONNX has it as it is."""
    dtype = node.inputs[0].type.dtype if node.inputs else None
    if dtype is bf16 and node.operator.name in NOT_BF16:
        return f32
    if node.operator.name == "matmul" and node.output.type.dtype != dtype:
        return None  # a product of bytes has sums of its own type
    if dtype in SMALL and node.operator.name in NOT_SMALL:
        return SMALL[dtype]
    return None


def write_in_wider_type(emitter: Emitter, node: Node, write: Rule, dtype: DType) -> None:
    """Writes a node with a wider type in place of its first input's."""
    narrow = node.inputs[0].type.dtype
    inputs = tuple(_cast_input(emitter, value, narrow, dtype) for value in node.inputs)
    outputs = tuple(_retyped(value, narrow, dtype) for value in node.outputs)
    write(emitter, replace(node, inputs=inputs, outputs=outputs))
    for value, wide in zip(node.outputs, outputs):
        stored = emitter.stored(wide)
        name = emitter.cast(stored.name, narrow) if wide is not value else stored.name
        emitter.put(value, Stored(name, stored.shape, stored.order))


def _retyped(value: Value, narrow: DType, wide: DType) -> Value:
    return Value(value.type.with_dtype(wide)) if value.type.dtype == narrow else value


def _cast_input(emitter: Emitter, value: Value, narrow: DType, wide: DType) -> Value:
    result = _retyped(value, narrow, wide)
    if result is not value:
        stored = emitter.stored(value)
        name = emitter.cast(stored.name, wide)
        emitter.put(result, Stored(name, stored.shape, stored.order))
    return result
