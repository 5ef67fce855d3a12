"""Differences of four bits and a constant come from a table of 16 in a register, where the machine
has that.

    f32(x & 15) - constant                  three operations
    becomes   permute(table, x)             one, by the four low bits of every lane
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.values import Value, literal, type_text
from bessemer.compiler.ir.expr import Binary, Cast, Constant, Expression
from bessemer.compiler.ir.types import f32, u8, u32

_LANES = 16
_PERMUTE = "llvm.x86.avx512.permvar.sf.512"


def looked_up_difference(
    state: KernelState, evaluate: Callable[[Expression], Value], node: Binary
) -> Value | None:
    """The difference for every lane; None for other expressions, and where the lanes do not fill
    one register."""
    match node:
        case Binary(_, "sub", Cast(_, word), Constant(_, subtrahend)) if node.dtype is f32:
            index = _index_of_four_bits(word)
        case _:
            return None
    x = evaluate(index) if index is not None and state.target.has_lookup else None
    if x is None or x.lanes != _LANES:
        return None
    table = np.arange(_LANES, dtype=np.float32) - np.float32(subtrahend)
    entries = ", ".join(literal(float(entry), f32).typed for entry in table)
    w, kind = state.writer, type_text(f32, _LANES)
    w.declarations.add(f"declare {kind} @{_PERMUTE}({kind}, {type_text(u32, _LANES)})")
    call = f"call {kind} @{_PERMUTE}({kind} <{entries}>, {x.typed})"
    return w.compute(call, f32, _LANES, x.level)


def _index_of_four_bits(word: Expression) -> Expression | None:
    """A u32 whose four low bits are the number that a word is; None for words of more bits."""
    match word:
        case Binary(_, "and", whole, Constant(_, 15)) if word.dtype is u32:
            return whole
        case Binary(_, "shr", Cast(_, byte), Constant(_, 4)) if word.dtype is u32:
            return word if byte.dtype is u8 else None
    return None
