"""QONNX: quantizers of any width as nodes, as Brevitas and FINN write them.

y = (round(clip(x / scale + zero, lowest, highest)) - zero) * scale
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.composite.composite import binary
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_DOMAINS = ("onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general")


def _rounded(context: NodeContext, x: Value, mode: str) -> Value:
    b = context.builder
    match mode.upper():
        case "ROUND" | "HALF_EVEN":
            return b.apply("round", x)
        case "CEIL":
            return b.apply("ceil", x)
        case "FLOOR":
            return b.apply("floor", x)
        case "ROUND_TO_ZERO" | "DOWN":
            return b.apply("trunc", x)
        case "UP":
            return _signed_like(context, b.apply("ceil", b.apply("abs", x)), x)
        case "HALF_UP":
            return _signed_like(context, b.apply("floor", _moved(context, x, 0.5)), x)
        case "HALF_DOWN":
            return _signed_like(context, b.apply("ceil", _moved(context, x, -0.5)), x)
        case _:
            context.unsupported(f"rounding_mode = {mode}")


def _moved(context: NodeContext, x: Value, step: float) -> Value:
    return binary(context.builder, "add", context.apply("abs", x), step)


def _signed_like(context: NodeContext, size: Value, x: Value) -> Value:
    """`size`, negative where x is."""
    is_negative = binary(context.builder, "lt", x, 0.0)
    return context.apply("select", is_negative, context.apply("neg", size), size)


def _range(context: NodeContext, bits: Array) -> tuple[Array, Array]:
    """The lowest and the highest number of so many bits."""
    narrow = context.integer("narrow", 0)
    if context.integer("signed", 1):
        highest = 2.0 ** (bits - 1) - 1
        return -highest - (not narrow), highest
    return np.zeros_like(bits), 2.0**bits - 1 - bool(narrow)


def _one_of_two(context: NodeContext, x: Value) -> Value:
    """1 or -1, also for 0 and -0.0: 1."""
    above = binary(context.builder, "ge", x, 0.0)
    return context.apply("select", above, context.like(x, 1.0), context.like(x, -1.0))


def read_quant(context: NodeContext) -> Value:
    x, scale, zero = context.input(0), context.input(1), context.input(2)
    bits = context.constant_array(3, "a width").astype(np.float64)
    scaled = context.elementwise("add", context.elementwise("div", x, scale), zero)
    if context.integer("signed", 1) and (bits == 1).all():
        whole = _one_of_two(context, scaled)
    else:
        lowest, highest = (
            context.builder.constant(limit.astype(x.type.dtype.numpy))
            for limit in _range(context, bits)
        )
        kept = context.elementwise("max", context.elementwise("min", scaled, highest), lowest)
        whole = _rounded(context, kept, context.text("rounding_mode", "ROUND"))
    return context.elementwise("mul", context.elementwise("sub", whole, zero), scale)


def read_bipolar_quant(context: NodeContext) -> Value:
    return context.elementwise("mul", _one_of_two(context, context.input(0)), context.input(1))


for _domain in _DOMAINS:
    rule("Quant", "IntQuant", domain=_domain)(read_quant)
    rule("BipolarQuant", domain=_domain)(read_bipolar_quant)
