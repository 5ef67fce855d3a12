"""Pointwise arithmetic, comparison and logic, with broadcasting."""

from __future__ import annotations

from functools import reduce

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, boolean, dtype_of
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import TextItem
from bessemer.frontends.onnx_reader.registry import rule


def operands(context: NodeContext) -> tuple[Value, Value]:
    """Both inputs; before opset 7, the second lies along the axis that an attribute names."""
    left, right = context.input(0), context.input(1)
    if context.opset < 7 and context.attributes.get("broadcast", 0):
        axis = context.axis(left.type.rank, context.integer("axis", -right.type.rank))
        after = left.type.rank - axis - right.type.rank
        right = context.reshape(right, (*right.type.shape, *(1,) * max(after, 0)))
    return left, right


_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "and",
    "BitwiseOr": "or",
    "BitwiseXor": "xor",
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
}


@rule(*_BINARY)
def read_binary(context: NodeContext) -> Value:
    return context.elementwise(_BINARY[context.node.op_type], *operands(context))


@rule("Div")
def read_div(context: NodeContext) -> Value:
    left, right = operands(context)
    is_float = left.type.dtype.is_float
    return context.elementwise("div" if is_float else "trunc_div", left, right)


@rule("Mod")
def read_mod(context: NodeContext) -> Value:
    left, right = operands(context)
    truncates = bool(context.integer("fmod"))
    return context.elementwise("fmod" if truncates else "mod", left, right)


@rule("BitShift")
def read_bit_shift(context: NodeContext) -> Value:
    left, right = operands(context)
    direction = context.text("direction")
    if direction not in ("LEFT", "RIGHT"):
        context.wrong(f"the direction is {direction!r}, LEFT or RIGHT are possible")
    return context.elementwise("shl" if direction == "LEFT" else "shr", left, right)


@rule("Pow")
def read_pow(context: NodeContext) -> Value:
    base, exponent = operands(context)
    known = context.array(1)
    if known is not None and known.size == 1 and base.type.dtype.is_float:
        simple = _known_power(context, base, float(known.reshape(-1)[0]))
        if simple is not None and exponent.type.rank <= base.type.rank:
            return simple
    result = base.type.dtype
    working = _common_float(result, exponent.type.dtype)
    power = context.elementwise("pow", context.cast(base, working), context.cast(exponent, working))
    return context.cast(power, result)


def _known_power(context: NodeContext, base: Value, exponent: float) -> Value | None:
    """Small powers as products, which are also exact to the last bit."""
    if exponent == 1:
        return base
    if exponent == 2:
        return context.apply("mul", base, base)
    if exponent == 3:
        return context.apply("mul", context.apply("mul", base, base), base)
    return None


def _common_float(base: DType, exponent: DType) -> DType:
    """The type to compute a power in: the base's, or the wider float of the two."""
    if exponent.is_float and (not base.is_float or exponent.bits > base.bits):
        return exponent
    return base


_VARIADIC = {"Max": "max", "Min": "min", "Sum": "add", "Mean": "add"}


@rule(*_VARIADIC)
def read_variadic(context: NodeContext) -> Value:
    operator = _VARIADIC[context.node.op_type]
    total = reduce(lambda a, b: context.elementwise(operator, a, b), context.tensors())
    if context.node.op_type != "Mean":
        return total
    return context.elementwise("div", total, context.like(total, float(len(context))))


@rule("Where")
def read_where(context: NodeContext) -> Value:
    return context.elementwise("select", *context.tensors())


@rule("Clip")
def read_clip(context: NodeContext) -> Value:
    x = context.input(0)
    if context.opset < 11:
        low = context.number("min", -np.inf)
        high = context.number("max", np.inf)
        return context.apply("clip", x, minimum=low, maximum=high)
    arrays = [context.array(1), context.array(2)]
    given = [context.optional(1), context.optional(2)]
    if all(value is None or array is not None for value, array in zip(given, arrays)):
        bounds = [array.reshape(-1)[0].item() if array is not None else None for array in arrays]
        if not any(bound is not None and bound != bound for bound in bounds):
            low = -np.inf if bounds[0] is None else bounds[0]
            high = np.inf if bounds[1] is None else bounds[1]
            return context.apply("clip", x, minimum=low, maximum=high)
    for operator, value in zip(("max", "min"), given):
        if value is not None:
            x = context.elementwise(operator, x, context.reshape(value, ()))
    return x


_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "not",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "IsNaN": "isnan",
    "Log": "log",
    "Neg": "neg",
    "Not": "not",
    "Relu": "relu",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}


@rule(*_UNARY)
def read_unary(context: NodeContext) -> Value:
    return context.apply(_UNARY[context.node.op_type], context.input(0))


@rule("Reciprocal")
def read_reciprocal(context: NodeContext) -> Value:
    x = context.input(0)
    return context.apply("div", context.like(x, 1.0), x)


@rule("Sign")
def read_sign(context: NodeContext) -> Value:
    x = context.input(0)
    zero = context.like(x, 0)
    positive = context.cast(context.apply("gt", x, zero), x.type.dtype)
    if x.type.dtype.kind == "u":
        return positive
    negative = context.cast(context.apply("lt", x, zero), x.type.dtype)
    sign = context.apply("sub", positive, negative)
    if not x.type.dtype.is_float:
        return sign
    return context.apply("select", context.apply("isnan", x), x, sign)


@rule("IsInf")
def read_is_inf(context: NodeContext) -> Value:
    x = context.input(0)
    negative = bool(context.integer("detect_negative"))
    positive = bool(context.integer("detect_positive"))
    if negative and positive:
        return context.apply("isinf", x)
    if not negative and not positive:
        return context.full(x.type.with_dtype(boolean), False)
    return context.apply("eq", x, context.like(x, np.inf if positive else -np.inf))


@rule("Constant")
def read_constant(context: NodeContext) -> Value | TextItem:
    name = next(iter(context.node.output), "")
    for attribute in ("value", "value_string", "value_strings"):
        texts = np.asarray(context.attributes.get(attribute, 0))
        if texts.dtype.kind in "OU":
            return context.strings(texts, name)
    for attribute, dtype in (("value", None), ("sparse_value", None), ("value_float", np.float32),
                             ("value_int", np.int64), ("value_floats", np.float32),
                             ("value_ints", np.int64)):  # fmt: skip
        if context.has(attribute):
            array = np.asarray(context.attributes[attribute], dtype)
            dtype_of(array)
            return context.builder.constant(array, name)
    if not context.attributes:
        context.wrong("has no value: none of the attributes value, value_float, value_ints ...")
    context.unsupported(f"a constant of {', '.join(context.attributes)}")
