"""Gathers of lanes whose places in a row are mostly close to each other, such as pixels of an image
that is resized: contiguous loads and permutations replace the load per lane.

If the places of the lanes are computed before a loop over rows, so is their distance from the first
one. Up to four vectors from there on are loaded, and the lanes are selected from these. Lanes that
are farther away are gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from bessemer.compiler.codegen.arithmetic import compare, intrinsic, select
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import extract, splat, steps
from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import Pointer, Value, literal
from bessemer.compiler.ir.types import boolean, f32, i32, i64

_VECTORS = 4
_BITS = {8: 256, 16: 512}
"""The vectors of f32 in two of which lanes can be looked up, by their lanes."""


def can_be_clustered(state: KernelState, places: Value) -> bool:
    """Whether lanes at these places of a row should be gathered in this way: the places change less
    often than the row."""
    return state.target.has_lookup and places.lanes in _BITS and places.level < state.writer.depth


@dataclass(frozen=True)
class Reach:
    """Places in a row. Those of the lanes under the loop's `mask` are at `distances` from the first
    one, of which `farthest` is the largest."""

    places: Value
    mask: Value
    first: Value
    distances: Value
    farthest: Value


def reach_of(state: KernelState, places: Value) -> Reach:
    """The reach of places, which is computed where these are computed."""
    w, mask, lanes = state.writer, state.mask, places.lanes
    first = extract(w, places, 0)
    far = w.operate("sub", i64, places, splat(w, first, lanes))
    far = intrinsic(w, "umin", far, literal((1 << 32) - 1, i64, lanes))
    distances = w.compute(f"trunc {far.typed} to <{lanes} x i32>", i32, lanes, far.level)
    if mask is None:
        mask = literal(True, boolean, lanes)
    else:
        distances = select(w, mask, distances, literal(0, i32, lanes))
    farthest = w.call(f"llvm.vector.reduce.umax.v{lanes}i32", i32, 1, distances)
    return Reach(places, mask, first, distances, farthest)


def gather_clustered(state: KernelState, buffer: str, row: Pointer, reach: Reach) -> Value:
    """The f32 elements at these places of a row. Lanes that the loop's mask excludes are not
    read."""
    w, lanes = state.writer, reach.distances.lanes
    within = splat(w, reach.farthest, lanes)
    starts = range(0, _VECTORS * lanes, lanes)
    read = [compare(w, "ule", steps(i32, lanes, 1, start), within) for start in starts]
    operands = (reach.first, reach.distances, reach.farthest, *read, reach.places, reach.mask)
    symbol = state.function(_function(lanes))
    texts = ", ".join(operand.typed for operand in operands)
    operation = f"call <{lanes} x float> @{symbol}(ptr {{}}, {texts})"
    return w.load(operation, buffer, f32, lanes, row, max(one.level for one in operands))


_TEXT = """define internal {t} @{symbol}(ptr %row, i64 %first, {i} %distances, i32 %reach, \
{m} %low, {m} %high, {m} %third, {m} %last, {p} %places, {m} %mask) \
alwaysinline nounwind willreturn memory(read) {{
entry:
  %begin = getelementptr float, ptr %row, i64 %first
  %is.clustered = icmp ult i32 %reach, {double}
  br i1 %is.clustered, label %clustered, label %distant
distant:
  %is.wide = icmp ult i32 %reach, {fourfold}
  br i1 %is.wide, label %wide, label %far
clustered:
  %one = call {t} @{load}(ptr align 4 %begin, {m} %low, {t} zeroinitializer)
  %is.one = icmp ult i32 %reach, {lanes}
  br i1 %is.one, label %single, label %double
single:
  %permuted = call {t} @{permute}({permuted})
  ret {t} %permuted
double:
  %behind = getelementptr float, ptr %begin, i64 {lanes}
  %other = call {t} @{load}(ptr align 4 %behind, {m} %high, {t} zeroinitializer)
  %looked.up = call {t} @{look_up}({t} %one, {i} %distances, {t} %other)
  ret {t} %looked.up
wide:
  %begin.1 = getelementptr float, ptr %begin, i64 {lanes}
  %begin.2 = getelementptr float, ptr %begin, i64 {double}
  %begin.3 = getelementptr float, ptr %begin, i64 {threefold}
  %wide.0 = load {t}, ptr %begin, align 4
  %wide.1 = load {t}, ptr %begin.1, align 4
  %wide.2 = call {t} @{load}(ptr align 4 %begin.2, {m} %third, {t} zeroinitializer)
  %wide.3 = call {t} @{load}(ptr align 4 %begin.3, {m} %last, {t} zeroinitializer)
  %first.two = call {t} @{look_up}({t} %wide.0, {i} %distances, {t} %wide.1)
  %last.two = call {t} @{look_up}({t} %wide.2, {i} %distances, {t} %wide.3)
  %is.behind = icmp uge {i} %distances, splat (i32 {double})
  %found = select {m} %is.behind, {t} %last.two, {t} %first.two
  ret {t} %found
far:
  %pointers = getelementptr float, ptr %row, {p} %places
  %gathered = call {t} @{gather}({a} align 4 %pointers, {m} %mask, {t} zeroinitializer)
  ret {t} %gathered
}}
"""


@cache
def _function(lanes: int) -> MathFunction:
    t, i, m = (f"<{lanes} x {kind}>" for kind in ("float", "i32", "i1"))
    a, bits = f"<{lanes} x ptr>", _BITS[lanes]
    load = f"llvm.masked.load.v{lanes}f32.p0"
    gather = f"llvm.masked.gather.v{lanes}f32.v{lanes}p0"
    permute = "llvm.x86.avx512.permvar.sf.512" if bits == 512 else "llvm.x86.avx2.permps"
    look_up = f"llvm.x86.avx512.vpermi2var.ps.{bits}"
    symbol = f"bessemer_gather_clustered_v{lanes}f32"
    text = _TEXT.format(
        t=t, i=i, m=m, a=a, p=f"<{lanes} x i64>", symbol=symbol, lanes=lanes, double=2 * lanes,
        threefold=3 * lanes, fourfold=_VECTORS * lanes,
        load=load, gather=gather, permute=permute, look_up=look_up,
        permuted=f"{t} %one, {i} %distances",
    )  # fmt: skip
    declarations = frozenset(
        {
            f"declare {t} @{load}(ptr, {m}, {t})",
            f"declare {t} @{gather}({a}, {m}, {t})",
            f"declare {t} @{permute}({t}, {i})",
            f"declare {t} @{look_up}({t}, {i}, {t})",
        }
    )
    return MathFunction(symbol, text, declarations)
