"""Gathers of bytes whose places in a row are mostly close to each other, like those of floats in
clustered_gathers.py; but one instruction selects each lane from any of 64 bytes."""

from __future__ import annotations

from functools import cache

from bessemer.compiler.codegen.arithmetic import compare, intrinsic
from bessemer.compiler.codegen.kernels.clustered_gathers import Reach
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import splat, steps
from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import Pointer, Value, literal
from bessemer.compiler.ir.types import DType, i8, i32

_TABLE = 64


def gather_clustered_bytes(
    state: KernelState, buffer: str, kind: DType, row: Pointer, reach: Reach
) -> Value:
    """The bytes at these places of a row. Lanes that the loop's mask excludes are not read."""
    w, lanes = state.writer, reach.distances.lanes
    last = intrinsic(w, "umin", reach.farthest, literal(_TABLE, i32))
    narrow = w.compute(f"trunc {last.typed} to i8", i8, 1, last.level)
    read = compare(w, "ule", steps(i8, _TABLE), splat(w, narrow, _TABLE))
    operands = (reach.first, reach.distances, reach.farthest, read, reach.places, reach.mask)
    symbol = state.function(_function(lanes))
    texts = ", ".join(operand.typed for operand in operands)
    operation = f"call <{lanes} x i8> @{symbol}(ptr {{}}, {texts})"
    return w.load(operation, buffer, kind, lanes, row, max(one.level for one in operands))


_TEXT = """define internal {t} @{symbol}(ptr %row, i64 %first, {i} %distances, i32 %reach, \
<64 x i1> %read, {p} %places, {m} %mask) alwaysinline nounwind willreturn memory(read) {{
entry:
  %is.clustered = icmp ult i32 %reach, {table}
  br i1 %is.clustered, label %clustered, label %far
clustered:
  %begin = getelementptr i8, ptr %row, i64 %first
  %bytes = call <64 x i8> @{load}(ptr align 1 %begin, <64 x i1> %read, <64 x i8> zeroinitializer)
  %narrow = trunc {i} %distances to {t}
  %indices = shufflevector {t} %narrow, {t} poison, <64 x i32> <{widened}>
  %permuted = call <64 x i8> @{permute}(<64 x i8> %bytes, <64 x i8> %indices)
  %found = shufflevector <64 x i8> %permuted, <64 x i8> poison, <{lanes} x i32> <{first_lanes}>
  ret {t} %found
far:
  %pointers = getelementptr i8, ptr %row, {p} %places
  %gathered = call {t} @{gather}({a} align 1 %pointers, {m} %mask, {t} zeroinitializer)
  ret {t} %gathered
}}
"""


@cache
def _function(lanes: int) -> MathFunction:
    t, i, m, a = (f"<{lanes} x {kind}>" for kind in ("i8", "i32", "i1", "ptr"))
    load, permute = "llvm.masked.load.v64i8.p0", "llvm.x86.avx512.permvar.qi.512"
    gather = f"llvm.masked.gather.v{lanes}i8.v{lanes}p0"
    symbol = f"bessemer_gather_clustered_v{lanes}i8"
    text = _TEXT.format(
        t=t, i=i, m=m, a=a, p=f"<{lanes} x i64>", symbol=symbol, lanes=lanes, table=_TABLE,
        load=load, gather=gather, permute=permute,
        widened=", ".join(f"i32 {k % lanes}" for k in range(_TABLE)),
        first_lanes=", ".join(f"i32 {k}" for k in range(lanes)),
    )  # fmt: skip
    declarations = frozenset(
        {
            f"declare <64 x i8> @{load}(ptr, <64 x i1>, <64 x i8>)",
            f"declare {t} @{gather}({a}, {m}, {t})",
            f"declare <64 x i8> @{permute}(<64 x i8>, <64 x i8>)",
        }
    )
    return MathFunction(symbol, text, declarations)
