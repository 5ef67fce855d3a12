"""Keeps the rows of an attention in registers: scores, weights, and running sums.

A lane has two rows of its warp's sixteen, eight apart. Of each it has every fourth pair of keys;
the other lanes of its quad have the rest of the row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.codegen.arithmetic import binary, compare, intrinsic, select
from bessemer.compiler.codegen.kernels.expressions import evaluate, first_lanes
from bessemer.compiler.codegen.kernels.state import Vectors
from bessemer.compiler.codegen.lanes import extract, splat
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.tiles.gemm_mma import MmaProducts
from bessemer.compiler.codegen.ptx.tiles.tile_products import Threads
from bessemer.compiler.codegen.ptx.words import Word, vector_of, wide
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir import walk_expr
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.loops import LOWEST_SCORE, Attend
from bessemer.compiler.ir.types import boolean, f32, i32

_PAIR = 2
_LOG2_E = math.log2(math.e)
_NOTHING = -200.0
"""Powers of e below this are 0 in float32."""
HALVES = range(2)


@dataclass(frozen=True)
class AttentionRows(Emitter):
    """The rows of a lane. `scores` and `results` are the sums of the two products."""

    state: DeviceState
    attend: Attend
    threads: Threads
    scores: MmaProducts
    results: MmaProducts

    @property
    def is_narrow(self) -> bool:
        """Whether weights will be rounded to 16 bits."""
        return self.attend.values.buffer.dtype.bytes < f32.bytes

    def names(self) -> Iterator[str]:
        """The locals whose values are carried from one tile of keys to the next."""
        yield from self.results.names()
        for half in HALVES:
            yield from (self._largest(half), self._sum(half))

    def clear(self) -> None:
        """Sets these locals to their values before the first tile."""
        self.results.clear()
        for half in HALVES:
            self.state.locals[self._largest(half)] = literal(-math.inf, f32)
            self.state.locals[self._sum(half)] = literal(0.0, f32)

    def _largest(self, half: int) -> str:
        return f"{self.attend.scores}.largest.{half}"

    def _sum(self, half: int) -> str:
        return f"{self.attend.scores}.sum.{half}"

    def weights(self, first: Word) -> list[list[list[Value]]]:
        """The weights of the tile that begins at key `first`, as pairs of neighbours: [row of the
        lane][pair]."""
        blocks = self.attend.tile.depth // 8
        found = []
        for half in HALVES:
            scores = [self._scored(j, half, first) for j in range(blocks)]
            found.append(self._weighted(scores, half))
        return found

    def is_unsure(self) -> Value:
        """Whether one of the lane's rows has seen no score yet that is so large that the weights of
        hidden keys are 0 beside it."""
        w, limit = self.writer, literal(LOWEST_SCORE / 10, f32)
        low = [compare(w, "ole", self.state.locals[self._largest(half)], limit) for half in HALVES]
        return w.operate("or", boolean, *low)

    def divide(self) -> None:
        """Divides the results by the sums of the weights, after the last tile."""
        w, locals_ = self.writer, self.state.locals
        for half in HALVES:
            total = locals_[self._sum(half)]
            for distance in (1, 2):
                total = binary(w, "add", total, self._from_lane(total, distance))
            inverse = w.operate("fdiv", f32, literal(1.0, f32), total)
            self._scale(half, inverse)

    def _scale(self, half: int, factor: Value) -> None:
        for j in range(self.results.counts[1]):
            for part in range(2 * half, 2 * half + 2):
                name = self.results.name(0, j, part)
                scaled = self.writer.operate("fmul", f32, self.state.locals[name], factor)
                self.state.locals[name] = scaled

    # Scores and weights of one of a lane's rows

    def _scored(self, j: int, half: int, first: Word) -> list[Value]:
        """Two neighbouring scores; -inf beyond the last key."""
        state, attend, w = self.state, self.attend, self.writer
        words, long = self.words, wide(self.writer)
        raw = [state.locals[self.scores.name(0, j, 2 * half + i)] for i in range(_PAIR)]
        lane = words.mul(words.rem(self.threads.lane, 4), _PAIR)
        key = long.add(first, long.resized(words.add(lane, 8 * j)))
        count = attend.key.extent or 0
        ragged = not (isinstance(count, int) and count % attend.tile.depth == 0)
        mask = None
        if ragged:
            left = long.value(long.sub(self.size(count), key))
            mask = self._first_of_pair(left)
        state.indices[attend.row] = self._row(half)
        reads = ragged and _loads(attend.score)
        vectors = Vectors(attend.key, _PAIR, mask if reads else None)
        with state.vector_context(vectors, key):
            state.indices[attend.key] = key
            both = vector_of(w, raw)
            state.element = lambda fragment, row: both
            score = splat(w, evaluate(state, attend.score), _PAIR)
            state.element = None
            state.indices.pop(attend.key, None)
        del state.indices[attend.row]
        if mask is not None:
            score = select(w, mask, score, literal(-math.inf, f32, _PAIR))
        return [extract(w, score, i) for i in range(_PAIR)]

    def _first_of_pair(self, left: Value) -> Value:
        """Which of two neighbours exist, if only `left` keys are left."""
        with self.state.vector_context(Vectors(self.attend.key, _PAIR), 0):
            return first_lanes(self.state, left)

    def _row(self, half: int) -> Word:
        """The number of the row. For rows beyond the end it is the last row's, so that loads stay
        inside."""
        words, long = self.words, wide(self.writer)
        own = words.add(self.threads.warp_row, words.div(self.threads.lane, 4))
        row = long.add(self.size(self.attend.row_begin), long.resized(words.add(own, 8 * half)))
        extent = self.attend.row.extent or 0
        if isinstance(extent, int) and extent % self.attend.tile.rows == 0:
            return row
        last = long.value(long.sub(self.size(extent), 1))
        return intrinsic(self.writer, "smin", long.value(row), last)

    def _weighted(self, scores: list[list[Value]], half: int) -> list[list[Value]]:
        """The weights of these scores. Earlier sums are brought to the same scale."""
        w, locals_ = self.writer, self.state.locals
        largest = locals_[self._largest(half)]
        for score in (one for pair in scores for one in pair):
            largest = intrinsic(w, "maxnum", largest, score)
        for distance in (1, 2):
            largest = intrinsic(w, "maxnum", largest, self._from_lane(largest, distance))
        # Where nothing but -inf has come, the weights are 2^-inf, not 2^(inf - inf).
        infinite = compare(w, "oeq", largest, literal(-math.inf, f32))
        base = select(w, infinite, literal(0.0, f32), largest)
        shrink = self._power(locals_[self._largest(half)], base)
        total = w.operate("fmul", f32, locals_[self._sum(half)], shrink)
        weights = [[self._power(score, base) for score in pair] for pair in scores]
        for weight in (one for pair in weights for one in pair):
            total = w.operate("fadd", f32, total, weight)
        self._scale(half, shrink)
        locals_[self._largest(half)] = largest
        locals_[self._sum(half)] = total
        return weights

    def _power(self, score: Value, base: Value) -> Value:
        """e^(score - base)."""
        w = self.writer
        if self.is_narrow:
            scaled = w.operate("fmul", f32, base, literal(-_LOG2_E, f32))
            exponent = intrinsic(w, "fma", score, literal(_LOG2_E, f32), scaled)
            return w.call("llvm.nvvm.ex2.approx.ftz.f32", f32, 1, exponent)
        distance = w.operate("fsub", f32, score, base)
        nothing = literal(_NOTHING, f32)
        distance = select(w, compare(w, "olt", distance, nothing), nothing, distance)
        # The exponent of 2 in two parts: large ones have few bits left behind the point.
        high = w.operate("fmul", f32, distance, literal(_LOG2_E, f32))
        minus = w.operate("fneg", f32, high)
        low = intrinsic(w, "fma", distance, literal(_LOG2_E, f32), minus)
        rest = float(_LOG2_E - np.float32(_LOG2_E))
        low = intrinsic(w, "fma", distance, literal(rest, f32), low)
        power = w.call("llvm.nvvm.ex2.approx.ftz.f32", f32, 1, high)
        more = w.operate("fmul", f32, low, literal(math.log(2.0), f32))
        return intrinsic(w, "fma", power, more, power)

    def _from_lane(self, value: Value, distance: int) -> Value:
        """The value of the lane whose number differs in one bit."""
        w = self.writer
        bits = w.compute(f"bitcast {value.typed} to i32", i32, 1, value.level)
        name = "llvm.nvvm.shfl.sync.bfly.i32"
        w.declarations.add(f"declare i32 @{name}(i32, i32, i32, i32)")
        other = w.here(f"call i32 @{name}(i32 -1, {bits.typed}, i32 {distance}, i32 31)", i32)
        return w.compute(f"bitcast {other.typed} to float", f32, 1, other.level)


def _loads(score: Expression) -> bool:
    """Whether an expression reads memory."""
    return bool(walk_expr.loads_of(score))
