"""Casts, and the bits of one type as another's."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import onnx

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, boolean, u8
from bessemer.compiler.ops.composite.composite_small import Rounding, small_cast
from bessemer.compiler.signature import RUNTIME_NAMES
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import Outputs, rule
from bessemer.frontends.onnx_reader.strings import made_before


@rule("Cast")
def read_cast(context: NodeContext) -> Outputs:
    if context.integer("to") == onnx.TensorProto.STRING:
        return _to_strings(context)
    return _cast(context, context.dtype("to"))


@rule("CastLike")
def read_cast_like(context: NodeContext) -> Outputs:
    if context.text_at(1) is not None:
        return _to_strings(replace(context, items=context.items[:1]))
    return _cast(context, context.input(1).type.dtype)


def _to_strings(context: NodeContext) -> Outputs:
    if context.text_at(0) is not None:
        return context.item(0)
    return made_before(context, "write_numbers", [(None, context.input(0).type.shape)])


def _cast(context: NodeContext, dtype: DType) -> Outputs:
    text = context.text_at(0)
    if text is not None:
        one = replace(context, items=context.items[:1])
        name = RUNTIME_NAMES[dtype.name]
        return made_before(one, "read_numbers", [(dtype, text.value.type.shape)], dtype=name)
    mode = context.text("round_mode", "up")
    rounding: Rounding | None = next((one for one in get_args(Rounding) if one == mode), None)
    if rounding is None:
        context.wrong(f"round_mode is {mode!r}")
    saturate = bool(context.integer("saturate", 1))
    return small_cast(context.builder, context.input(0), dtype, saturate, rounding)


@rule("BitCast")
def read_bit_cast(context: NodeContext) -> Value:
    x, dtype = context.input(0), context.dtype("to")
    if x.type.dtype.bits != dtype.bits:
        context.wrong(f"the bits of {x.type} as {dtype}, which has another width")
    if x.type.dtype is boolean:
        x = context.cast(x, u8)
    if dtype is boolean:
        return context.cast(_bits(context, x, u8), boolean)
    return _bits(context, x, dtype)


def _bits(context: NodeContext, x: Value, dtype: DType) -> Value:
    return x if x.type.dtype is dtype else context.apply("reinterpret", x, dtype=dtype)
