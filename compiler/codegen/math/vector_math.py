"""Mathematical functions on vectors as LLVM IR text, so that an artifact needs no vector math
library.

    definition("exp", "f32", 16).text     define internal <16 x float> @bessemer_exp_v16f32(...)

Every function has the same source for all numbers of lanes. There are no branches, except in sin,
cos and tan of f32, which call another function if a lane is large. The functions use only
intrinsics that x86 (SSE4.2 and later) and AArch64 have instructions for, and shorter ones of
AVX-512 for some functions.

NaN gives NaN, and odd functions keep the sign of zero. A result below the smallest normal number
may be zero, as everywhere in artifacts, which run with denormals flushed. Errors, in units in the
last place:

    f32  at most 1.9 found (sin; sigmoid by lookups 2.48 near -16.6), 2 (2.5) tested: everywhere
    f64  at most 1.8 found (tan 2.3), 3 tested: sin, cos, tan for |x| <= 2^30, the others everywhere
    GELU (for x > -2), SiLU, softplus, mish of f32: at most 1.8, 2.4, 2.6 (without multiply-add
         3.4), 4.0 found; see `math_gated`

The functions are marked alwaysinline, so LLVM's always-inline pass must run even if no other does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import TypeAlias

from bessemer.compiler.codegen.math.math_arc import acos, asin, atan
from bessemer.compiler.codegen.math.math_conversions import converted
from bessemer.compiler.codegen.math.math_error_function import erf
from bessemer.compiler.codegen.math.math_exponential import (
    cosh,
    exp,
    exp2,
    exp_nonpositive,
    expm1,
    sigmoid,
    sinh,
    tanh,
)
from bessemer.compiler.codegen.math.math_gated import (
    gelu,
    gelu_by_tanh,
    gelu_slope,
    mish,
    silu,
    softplus,
)
from bessemer.compiler.codegen.math.math_logarithm import acosh, asinh, atanh, log, log1p
from bessemer.compiler.codegen.math.math_modulo_pi import (
    FARTHEST,
    cos_modulo_pi,
    sin_modulo_pi,
)
from bessemer.compiler.codegen.math.math_power import power
from bessemer.compiler.codegen.math.math_tables import one_plus_erf
from bessemer.compiler.codegen.math.math_terms import MathFunction, Term, Writer, llvm_type
from bessemer.compiler.codegen.math.math_trigonometric import LARGE, cos, sin, tan

UNARY: dict[str, Callable[[Term], Term]] = {
    "acos": acos,
    "acosh": acosh,
    "asin": asin,
    "asinh": asinh,
    "atan": atan,
    "atanh": atanh,
    "cos": cos,
    "cosh": cosh,
    "erf": erf,
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sigmoid": sigmoid,
    "sin": sin,
    "sinh": sinh,
    "tan": tan,
    "tanh": tanh,
}
_OF_LARGE: dict[str, Callable[[Term], Term]] = {
    "cos": partial(cos, is_large=True),
    "sin": partial(sin, is_large=True),
    "tan": partial(tan, is_large=True),
}
"""The functions for lanes of f32 beyond LARGE."""
_MODULO_PI: dict[str, Callable[[Term], Term]] = {
    "cos": cos_modulo_pi,
    "sin": sin_modulo_pi,
}
"""The functions for lanes of f32 up to FARTHEST, on machines with multiply-add."""
COMPOSED: dict[str, Callable[[Term], Term]] = {"mish": mish, "silu": silu, "softplus": softplus}
"""Functions that replace several operations, and are as exact: within 4 ULP."""
LOOKED_UP: dict[str, Callable[[Term], Term]] = {
    "exp_nonpositive": exp_nonpositive,
    "gelu": gelu,
    "gelu_by_tanh": gelu_by_tanh,
    "gelu_slope": gelu_slope,
    "one_plus_erf": one_plus_erf,
}
"""More of these, and cheaper forms of others, only for machines with lookups."""
_BY_LOOKUP = frozenset({
    *LOOKED_UP, "acosh", "asinh", "atanh", "erf", "exp", "log", "log1p", "pow", "sigmoid", "silu",
    "softplus", "tanh",
})  # fmt: skip
"""The functions that have a shorter form with lookups, which rounds differently."""
_LOOKUP_LANES = 16
_ELSEWHERE = {"exp_nonpositive": "exp"}
"""What stands for some of these functions on machines without lookups."""
BINARY: dict[str, Callable[[Term, Term], Term]] = {"pow": power}

_Range: TypeAlias = tuple[float, Callable[[Term], Term]]
_STORED = {"bf16": "i16", "f16": "i16", "f32": "f32", "f64": "f64"}
_ATTRIBUTES = "alwaysinline nounwind willreturn memory(none)"
_RARE = "noinline cold nounwind willreturn memory(none)"


def least_lanes(name: str, dtype: str, has_lookup: bool) -> int:
    """The fewest lanes that the function is computed on. A remainder of an array, or a single
    number, is computed as part of so many lanes, so that it is rounded as the other elements
    are."""
    return _LOOKUP_LANES if has_lookup and dtype == "f32" and name in _BY_LOOKUP else 1


@cache
def definition(
    name: str, dtype: str, lanes: int, has_fma: bool = True, has_lookup: bool = False
) -> MathFunction:
    """The function `name` of UNARY or BINARY on `lanes` values of "f32" or "f64".

    The symbol is bessemer_exp_f32 for one lane (scalar types), bessemer_exp_v16f32 for sixteen. Set
    `has_fma` and `has_lookup` (see targets/machine.py) only for targets with these instructions;
    lookups need `least_lanes`. Raises ValueError for an unknown name or type.
    """
    if dtype not in ("f32", "f64"):
        raise ValueError(f"vector math is for f32 and f64, not {dtype}")
    has_lookup = has_lookup and dtype == "f32" and name in _BY_LOOKUP
    if has_lookup and lanes < _LOOKUP_LANES:
        raise ValueError(f"{name} by lookups wants {_LOOKUP_LANES} lanes, not {lanes}")
    if not has_lookup:
        name = _ELSEWHERE.get(name, name)
    symbol = f"bessemer_{name}_{dtype}" if lanes == 1 else f"bessemer_{name}_v{lanes}{dtype}"
    writer = _writer(lanes, has_fma)
    writer.has_lookup = has_lookup
    x, y = Term(writer, dtype, "%x"), Term(writer, dtype, "%y")
    if name in _OF_LARGE and dtype == "f32":
        return _by_ranges(writer, symbol, _ranges(name, has_fma), _ATTRIBUTES)
    for functions in (UNARY, COMPOSED):
        if name in functions:
            return _function(writer, symbol, [x], functions[name](x))
    if name in LOOKED_UP and has_lookup:
        return _function(writer, symbol, [x], LOOKED_UP[name](x))
    if name in BINARY:
        return _function(writer, symbol, [x, y], BINARY[name](x, y))
    raise ValueError(f"no vector math function named {name}")


@cache
def conversion(source: str, target: str, lanes: int, native_half: bool = False) -> MathFunction:
    """The conversion of `source` to `target`: bf16, f16, f32 or f64, of which one is a 16-bit
    format. Rounds once.

    16-bit values are passed as i16. The symbol is bessemer_f32_to_bf16, with _v16 for 16 lanes.
    `native_half`: the target converts f16 from and to f32 itself (x86 F16C, AArch64).
    """
    if source == target or not {source, target} <= _STORED.keys():
        raise ValueError(f"no vector conversion from {source} to {target}")
    if not {source, target} & {"bf16", "f16"}:
        raise ValueError(f"{source} to {target} is one LLVM instruction")
    symbol = f"bessemer_{source}_to_{target}" + (f"_v{lanes}" if lanes > 1 else "")
    writer = _writer(lanes, has_fma=False)
    x = Term(writer, _STORED[source], "%x")
    return _function(writer, symbol, [x], converted(x, source, target, native_half))


def _writer(lanes: int, has_fma: bool) -> Writer:
    if lanes not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError(f"vector math has 1, 2, 4, ... 64 lanes, not {lanes}")
    return Writer(lanes, has_fma)


def _ranges(name: str, has_fma: bool) -> list[_Range]:
    """The functions that compute sin, cos or tan of f32, each with the largest |x| that it is
    for."""
    ranges = [(LARGE, UNARY[name]), (math.inf, _OF_LARGE[name])]
    if has_fma and name in _MODULO_PI:
        return [(FARTHEST, _MODULO_PI[name]), *ranges]
    return ranges


def _by_ranges(writer: Writer, symbol: str, ranges: list[_Range], attributes: str) -> MathFunction:
    """A function whose lanes beyond the first range are computed by another function, which is
    rarely called."""
    x = Term(writer, "f32", "%x")
    (limit, function), *further = ranges
    usual = function(x)
    lanes, vector = writer.lanes, llvm_type("f32", writer.lanes)
    if not further:
        lines = [*writer.lines, f"  ret {usual.typed}"]
        text = _text(symbol, vector, x.typed, attributes, lines)
        return MathFunction(symbol, text, frozenset(writer.declarations))
    is_beyond = abs(x) > limit
    beyond = _by_ranges(_writer(lanes, writer.has_fma), f"{symbol}_beyond", further, _RARE)
    any_lane = is_beyond.text
    lines = ["start:", *writer.lines]
    if lanes > 1:
        lines.append(f"  %bits = bitcast {is_beyond.typed} to i{lanes}")
        lines.append(f"  %any = icmp ne i{lanes} %bits, 0")
        any_lane = "%any"
    lines += [
        f"  br i1 {any_lane}, label %rare, label %done",
        "rare:",
        f"  %exact = call {vector} @{beyond.symbol}({x.typed})",
        f"  %mixed = select {is_beyond.typed}, {vector} %exact, {usual.typed}",
        "  br label %done",
        "done:",
        f"  %result = phi {vector} [ {usual.text}, %start ], [ %mixed, %rare ]",
        f"  ret {vector} %result",
    ]
    text = _text(symbol, vector, x.typed, attributes, lines) + beyond.text
    return MathFunction(symbol, text, beyond.declarations | writer.declarations)


def _function(writer: Writer, symbol: str, parameters: list[Term], result: Term) -> MathFunction:
    arguments = ", ".join(parameter.typed for parameter in parameters)
    lines = [*writer.lines, f"  ret {result.typed}"]
    text = _text(symbol, llvm_type(result.kind, writer.lanes), arguments, _ATTRIBUTES, lines)
    return MathFunction(symbol, text, frozenset(writer.declarations))


def _text(symbol: str, result: str, arguments: str, attributes: str, lines: list[str]) -> str:
    head = f"define internal {result} @{symbol}({arguments}) {attributes} {{"
    return "\n".join([head, *lines, "}"]) + "\n"
