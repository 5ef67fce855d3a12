"""Quantizes to 8 or 16 bits in few instructions: byte(round(x / scale) + zero), where scale and
zero are constants, and the scale may be missing.

    x' = min(x, many scales)                           what is larger is 255 all the same
    q = x' * r,   q + (x' - q * scale) * r             the quotient: see quotients.py
    max(int(q) + zero, 0), cut to a byte               the conversion rounds, to even at ties

Every product of a quantized network ends like this, and for small products this takes most of the
time. Because of the limit no step overflows upwards. An overflow downwards gives NaN, which is
converted to the lowest integer and so to 0, as every NaN is. The lowest number of a signed type is
not 0, so there NaN takes a step of its own, and the zero point is added while numbers are floats.
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.codegen.arithmetic import binary, compare, intrinsic, like, select
from bessemer.compiler.codegen.kernels.conversions import resized
from bessemer.compiler.codegen.kernels.quotients import (
    Number,
    constant_divisor,
    known_number,
    scaled,
    two_quotients,
)
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import join, part, splat
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.ir.expr import Binary, Cast, Constant, Expression, Given, Unary
from bessemer.compiler.ir.types import DType, f32, i8, i16, i32, u8, u16

_LANES = 16
_CONVERT = "llvm.x86.avx512.mask.cvtps2dq.512"
_MANY = 2.0**20
"""Larger than any of these integers and zero points."""
_ONE, _NOTHING = Constant(f32, 1.0), Constant(f32, 0.0)
_UNSIGNED, _SIGNED = (u8, u16), (i8, i16)


def quantized(
    state: KernelState, evaluate: Callable[[Expression], Value], node: Cast
) -> Value | None:
    """The integers that the expression computes; None if it is no such quantization, or the machine
    lacks the instruction."""
    if not state.target.has_masks or node.dtype not in (*_UNSIGNED, *_SIGNED):
        return None
    steps = node.operand
    zero: Number = _NOTHING
    match steps:
        case Binary(_, "add", left, Constant() | Given() as number):
            steps, zero = left, number
    divisor: Number | None = _ONE
    match steps:
        case Unary(_, "round", Binary(_, "div", numerator, _) as division):
            divisor = constant_divisor(state, division)
        case Unary(_, "round", numerator):
            pass
        case _:
            return None
    if divisor is None or (isinstance(divisor, Constant) and divisor.value < 0):
        return None
    if isinstance(zero, Constant) and not node.dtype.has(zero.value):
        return None  # the lowest integer, which NaN becomes, less something would be the highest
    x = evaluate(numerator)
    if x.lanes % _LANES:
        return None
    limited = _limited(state, x, divisor, node.dtype in _SIGNED)
    whole = _whole(state, limited, divisor)
    if node.dtype in _UNSIGNED:
        return _unsigned(state, _converted(state, whole), zero, node.dtype)
    return _signed(state, whole, zero, node.dtype)


def _limited(state: KernelState, x: Value, divisor: Number, both: bool) -> Value:
    """x, at most _MANY times the scale, beyond which all results are the largest integer. NaN stays
    NaN."""
    w = state.writer

    def steps(many: float) -> Value:
        return splat(w, scaled(state, divisor, many), x.lanes)

    limited = select(w, compare(w, "ogt", x, steps(_MANY)), steps(_MANY), x)
    if both:
        below = compare(w, "olt", limited, steps(-_MANY))
        limited = select(w, below, steps(-_MANY), limited)
    return limited


def _whole(state: KernelState, x: Value, divisor: Number) -> Value:
    """x / divisor, before it is rounded to whole numbers."""
    is_one = isinstance(divisor, Constant) and divisor.value == 1
    return x if is_one else two_quotients(state, x, divisor)[1]


def _converted(state: KernelState, x: Value) -> Value:
    """x rounded to i32; NaN becomes the lowest i32."""
    w = state.writer
    vector, integers = type_text(f32, _LANES), type_text(i32, _LANES)
    w.declarations.add(f"declare {integers} @{_CONVERT}({vector}, {integers}, i16, i32)")
    pieces = [part(w, x, start, _LANES) for start in range(0, x.lanes, _LANES)]
    return join(w, [
        w.compute(
            f"call {integers} @{_CONVERT}({piece.typed}, {integers} zeroinitializer, "
            "i16 -1, i32 4)",
            i32,
            _LANES,
            piece.level,
        )
        for piece in pieces
    ])  # fmt: skip


def _unsigned(state: KernelState, x: Value, zero: Number, dtype: DType) -> Value:
    w = state.writer
    if isinstance(zero, Given):
        whole = state.of_given(zero.symbol, "fptosi float {} to i32", i32)
        x = binary(w, "add", x, whole)
    elif zero.value:
        x = binary(w, "add", x, like(x, int(zero.value)))
    positive = intrinsic(w, "smax", x, like(x, 0))
    most = (1 << dtype.bits) - 1
    return resized(w, intrinsic(w, "umin", positive, like(x, most)), dtype)


def _signed(state: KernelState, x: Value, zero: Number, dtype: DType) -> Value:
    w = state.writer
    steps = intrinsic(w, "roundeven", x)
    if isinstance(zero, Given) or zero.value:
        steps = binary(w, "add", steps, known_number(state, zero))
    steps = select(w, compare(w, "ord", steps, steps), steps, like(x, 0.0))
    whole = _converted(state, steps)
    end = 1 << (dtype.bits - 1)
    above = intrinsic(w, "smax", whole, like(whole, -end))
    return resized(w, intrinsic(w, "smin", above, like(whole, end - 1)), dtype)
