"""Attention by mma.sync: the scores of some keys at a time, which never leave the registers.

    copy the queries' tile, and the first keys and values
    for every tile of keys
      wait for its keys and values; copy those of the next
      scores = queries . keys          then what the score makes of them; beyond the keys -inf
      new    = max(largest, scores)    a row lies in the lanes of a quad
      weight = 2^(log2(e) (scores - new));  what has been added up shrinks by 2^(... largest - new)
      sums  += weight;  results += weight . values
    store results / sums

A warp has 16 rows. The sums of the first product lie as the second one wants its left operand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.compiler.codegen.arithmetic import binary, compare, intrinsic, select
from bessemer.compiler.codegen.control_flow import Range, counted_loop
from bessemer.compiler.codegen.cpu import emit_store
from bessemer.compiler.codegen.expressions import evaluate, first_lanes, indices
from bessemer.compiler.codegen.lanes import extract, splat
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.gemm_mma import MmaProducts
from bessemer.compiler.codegen.ptx.shared_memory import Layout
from bessemer.compiler.codegen.ptx.tile_copies import TileCopy, chunk_elements, direction_of
from bessemer.compiler.codegen.ptx.tile_epilogue import Epilogue, slabs_bytes
from bessemer.compiler.codegen.ptx.tile_products import Threads
from bessemer.compiler.codegen.ptx.words import Word, Words, vector_of, wide
from bessemer.compiler.codegen.state import Vectors, number
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.loops import Attend, Contract
from bessemer.compiler.ir.operands import Operand
from bessemer.compiler.ir.types import bf16, boolean, f32, i32

STAGES = 2
_PAIR = 2
_LOG2_E = math.log2(math.e)
_HALVES = range(2)
"""A lane has two rows, eight apart."""


def threads_of(attend: Attend) -> int:
    """The threads of a block."""
    return attend.tile.warps[0] * 32


def padded_depth(extent: int) -> int:
    """A length of lines whose chunks can be permuted."""
    power = 16
    while power < min(extent, 64):
        power *= 2
    return power if extent <= power else -(-extent // 64) * 64


def emit(state: DeviceState, attend: Attend) -> int:
    """Writes the statement for the block at hand; the bytes of shared memory it takes."""
    block = _Block(state, attend)
    block.write()
    return block.shared_bytes


@dataclass(frozen=True)
class _Block:
    state: DeviceState
    attend: Attend

    @property
    def words(self) -> Words:
        return Words(self.state.writer)

    @property
    def writer(self) -> Writer:
        return self.state.writer

    @cached_property
    def threads(self) -> Threads:
        words, thread = self.words, self.state.register("tid.x")
        warp = words.div(thread, 32)
        return Threads(thread, words.rem(thread, 32), words.mul(warp, 16), 0)

    @cached_property
    def depth(self) -> int:
        """The queries' depth, padded."""
        extent = self.attend.queries.depth_extent
        assert isinstance(extent, int)
        return padded_depth(extent)

    @property
    def keys(self) -> int:
        """Keys in a tile."""
        return self.attend.tile.depth

    @cached_property
    def scores(self) -> MmaProducts:
        """Queries . keys."""
        contract, _ = self.attend.products
        return self._products(replace(contract, tile=replace(contract.tile, depth=self.depth)))

    @cached_property
    def results(self) -> MmaProducts:
        """Weights . values."""
        return self._products(self.attend.products[1])

    def _products(self, contract: Contract) -> MmaProducts:
        return MmaProducts(
            self.state,
            contract,
            self.threads,
            direction_of(contract.left),
            direction_of(contract.right),
        )

    # Shared memory: queries, then stages of keys and values; at the end slabs

    @cached_property
    def layouts(self) -> tuple[Layout, Layout, Layout]:
        """Of queries, keys and values."""
        queries, keys = self.scores.layouts()
        return queries, keys, self.results.layouts()[1]

    @property
    def stage_bytes(self) -> int:
        return self.layouts[1].size + self.layouts[2].size

    @property
    def shared_bytes(self) -> int:
        slabs = slabs_bytes(self.attend.tile, self.results.slab())
        return max(self.layouts[0].size + STAGES * self.stage_bytes, slabs)

    def _stage(self, stage: Word) -> tuple[Word, Word]:
        """Where keys and values of a stage begin."""
        keys = self.words.add(self.words.mul(stage, self.stage_bytes), self.layouts[0].size)
        return keys, self.words.add(keys, self.layouts[1].size)

    def _copies(self) -> tuple[TileCopy, TileCopy, TileCopy]:
        """Keys are copied as what has their depth along it and goes on from key to key."""
        attend = self.attend
        depth = attend.queries.depth_extent
        along = replace(attend.keys, outer=attend.keys.depth, depth=attend.keys.outer)
        key_count = attend.key.extent or 0
        columns, rows = attend.column.extent or 0, attend.row.extent or 0
        tile = attend.tile
        return (
            self._copy(attend.queries, 0, tile.rows, self.depth, attend.row_begin, rows, depth),
            self._copy(along, 1, self.depth, self.keys, 0, depth, key_count),
            self._copy(attend.values, 2, tile.columns, self.keys, 0, columns, key_count),
        )

    def _copy(
        self,
        operand: Operand,
        number_: int,
        outer: int,
        depth: int,
        begin: Size,
        extent: Size,
        depth_end: Size,
    ) -> TileCopy:
        words = self.words
        return TileCopy(
            self.state,
            operand,
            self.layouts[number_],
            outer,
            depth,
            chunk_elements(operand, (begin, 0)),
            self.threads.thread,
            threads_of(self.attend),
            words.resized(self._size(begin)),
            words.resized(self._size(extent)),
            tuple(self._size(index) for index in self.attend.batch),
            words.resized(self._size(depth_end)),
            True,
        )

    def _size(self, size: Size) -> Word:
        return size if isinstance(size, int) else indices(self.state).scalar(size)

    # The block's way over the keys

    def write(self) -> None:
        """All of it."""
        words, long = self.words, wide(self.writer)
        queries, keys, values = self._copies()
        queries.deposit(queries.fetch(0, 0), 0)
        self._fetch(keys, values, 0, 0)
        self._call("cp.async.commit.group()")
        self.results.clear()
        for half in _HALVES:
            self.state.locals[self._largest(half)] = literal(-math.inf, f32)
            self.state.locals[self._sum(half)] = literal(0.0, f32)
        count = words.resized(self._size(self.attend.key.extent or 0))
        tiles = words.div(words.add(count, self.keys - 1), self.keys)
        carried = [*self.results.names()]
        carried += [name(half) for half in _HALVES for name in (self._largest, self._sum)]

        def step(index: Value) -> None:
            at = words.resized(index)
            self._call("cp.async.wait.group(i32 0)")
            shared_memory.block_barrier(self.writer)
            later = words.add(at, 1)
            fetched = self._fetch(keys, values, words.mul(later, self.keys), later, False)
            self._call("cp.async.commit.group()")
            keys_at, values_at = self._stage(words.rem(at, STAGES))
            self._tile(keys_at, values_at, long.mul(index, self.keys))
            for copy, loaded, place in fetched:
                copy.deposit(loaded, place)

        over = Range(number(0), long.value(long.resized(tiles)))
        counted_loop(self.state, over, carried, frozenset(), step)
        self._call("cp.async.wait.group(i32 0)")
        shared_memory.block_barrier(self.writer)
        self._store()

    def _fetch(
        self, keys: TileCopy, values: TileCopy, begin: Word, stage: Word, put: bool = True
    ) -> list[tuple[TileCopy, list[Value | None], Word]]:
        places = self._stage(self.words.rem(stage, STAGES))
        fetched = [
            (copy, copy.fetch(begin, place), place)
            for copy, place in zip((keys, values), places, strict=True)
        ]
        if put:
            for copy, loaded, place in fetched:
                copy.deposit(loaded, place)
        return fetched

    def _call(self, text: str) -> None:
        name = text.split("(")[0]
        kind = "i32" if "i32" in text else ""
        self.writer.declarations.add(f"declare void @llvm.nvvm.{name}({kind})")
        self.writer.line(f"call void @llvm.nvvm.{text}")

    def _largest(self, half: int) -> str:
        return f"{self.attend.scores}.largest.{half}"

    def _sum(self, half: int) -> str:
        return f"{self.attend.scores}.sum.{half}"

    def _tile(self, keys_at: Word, values_at: Word, first: Word) -> None:
        """One tile of keys, of which `first` is the first."""
        self.scores.clear()
        self.scores.multiply(0, keys_at)
        blocks = self.keys // 8
        weights: list[list[list[Value]]] = [[], []]
        for half in _HALVES:
            scores = [self._scored(j, half, first) for j in range(blocks)]
            weights[half] = self._weighted(scores, half)
        for step in range(self.keys // 16):
            a = [
                self._packed(weights[half][2 * step + block])
                for block in range(2)
                for half in _HALVES
            ]
            self._accumulate(a, values_at, step)

    def _accumulate(self, a: list[Value], values_at: Word, step: int) -> None:
        """Adds the products of 16 keys' weights and values."""
        layout = self.layouts[2]
        for j in range(0, self.results.counts[1], 2):
            four = self.results.right_part(layout, values_at, j, step)
            self.results.accumulate(0, j, a, four[:2])
            self.results.accumulate(0, j + 1, a, four[2:])

    def _packed(self, pair: list[Value]) -> Value:
        """Two weights as the values' type."""
        w, narrow = self.writer, self.attend.values.buffer.dtype
        name = "bfloat" if narrow is bf16 else "half"
        both = vector_of(w, pair)
        cut = w.compute(f"fptrunc {both.typed} to <2 x {name}>", boolean, 1, both.level)
        return w.compute(f"bitcast <2 x {name}> {cut.text} to i32", i32, 1, both.level)

    # Scores and weights of one of a lane's rows

    def _scored(self, j: int, half: int, first: Word) -> list[Value]:
        """Two neighbouring scores, -inf where there is no such key."""
        state, attend, w = self.state, self.attend, self.writer
        words, long = self.words, wide(self.writer)
        raw = [state.locals[self.scores.name(0, j, 2 * half + i)] for i in range(_PAIR)]
        lane = words.mul(words.rem(self.threads.lane, 4), _PAIR)
        key = long.add(first, long.resized(words.add(lane, 8 * j)))
        count = attend.key.extent or 0
        ragged = not (isinstance(count, int) and count % self.keys == 0)
        mask = None
        if ragged:
            left = long.value(long.sub(self._size(count), key))
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
        """Which of two neighbours are among the `left` ones."""
        with self.state.vector_context(Vectors(self.attend.key, _PAIR), 0):
            return first_lanes(self.state, left)

    def _row(self, half: int) -> Word:
        """The row, the last one where there is none: what it reads must be there."""
        words, long = self.words, wide(self.writer)
        own = words.add(self.threads.warp_row, words.div(self.threads.lane, 4))
        row = long.add(self._size(self.attend.row_begin), long.resized(words.add(own, 8 * half)))
        extent = self.attend.row.extent or 0
        if isinstance(extent, int) and extent % self.attend.tile.rows == 0:
            return row
        last = long.value(long.sub(self._size(extent), 1))
        return intrinsic(self.writer, "smin", long.value(row), last)

    def _weighted(self, scores: list[list[Value]], half: int) -> list[list[Value]]:
        """The weights; what has been added up before is brought to the same scale."""
        w, locals_ = self.writer, self.state.locals
        largest = locals_[self._largest(half)]
        for score in (one for pair in scores for one in pair):
            largest = intrinsic(w, "maxnum", largest, score)
        for distance in (1, 2):
            largest = intrinsic(w, "maxnum", largest, self._from_lane(largest, distance))
        # Where nothing but -inf has come, the weights are 2^-inf, not 2^(inf - inf).
        infinite = compare(w, "oeq", largest, literal(-math.inf, f32))
        base = select(w, infinite, literal(0.0, f32), largest)
        scaled = w.operate("fmul", f32, base, literal(-_LOG2_E, f32))
        shrink = self._power(locals_[self._largest(half)], scaled)
        total = w.operate("fmul", f32, locals_[self._sum(half)], shrink)
        weights = [[self._power(score, scaled) for score in pair] for pair in scores]
        for weight in (one for pair in weights for one in pair):
            total = w.operate("fadd", f32, total, weight)
        for j in range(self.results.counts[1]):
            for part in range(2 * half, 2 * half + 2):
                name = self.results.name(0, j, part)
                locals_[name] = w.operate("fmul", f32, locals_[name], shrink)
        locals_[self._largest(half)] = largest
        locals_[self._sum(half)] = total
        return weights

    def _power(self, score: Value, minus: Value) -> Value:
        """e^score, times 2^minus."""
        w = self.writer
        exponent = intrinsic(w, "fma", score, literal(_LOG2_E, f32), minus)
        return w.call("llvm.nvvm.ex2.approx.ftz.f32", f32, 1, exponent)

    def _from_lane(self, value: Value, distance: int) -> Value:
        """The value of the lane whose number differs in one bit."""
        w = self.writer
        bits = w.compute(f"bitcast {value.typed} to i32", i32, 1, value.level)
        name = "llvm.nvvm.shfl.sync.bfly.i32"
        w.declarations.add(f"declare i32 @{name}(i32, i32, i32, i32)")
        other = w.here(f"call i32 @{name}(i32 -1, {bits.typed}, i32 {distance}, i32 31)", i32)
        return w.compute(f"bitcast {other.typed} to float", f32, 1, other.level)

    def _store(self) -> None:
        """Divides by the sums, and stores."""
        w, words, long = self.writer, self.words, wide(self.writer)
        for half in _HALVES:
            total = self.state.locals[self._sum(half)]
            for distance in (1, 2):
                total = binary(w, "add", total, self._from_lane(total, distance))
            inverse = w.operate("fdiv", f32, literal(1.0, f32), total)
            for j in range(self.results.counts[1]):
                for part in range(2 * half, 2 * half + 2):
                    name = self.results.name(0, j, part)
                    value = self.state.locals[name]
                    self.state.locals[name] = w.operate("fmul", f32, value, inverse)
        slab = self.results.slab()
        slab_at = words.mul(words.div(self.threads.thread, 32), slab.size)
        epilogue = Epilogue(
            self.state, self.results.contract, slab, slab_at, self.threads.lane, emit_store
        )
        self.results.put(0, slab_at)
        row = long.add(self._size(self.attend.row_begin), long.resized(self.threads.warp_row))
        epilogue.run(row, 1, 0)


def _loads(score: Expression) -> bool:
    """Whether an expression reads memory."""
    if isinstance(score, expr.Load):
        return True
    return any(_loads(child) for child in expr.children(score))
