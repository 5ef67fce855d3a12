"""Writes attention by mma.sync (flash attention: Dao et al., arXiv 2205.14135). The scores of one
tile of keys at a time stay in registers.

    copy the queries' tile, and the first keys and values
    for every tile of keys
      wait for its keys and values; copy those of the next
      scores = queries . keys          and the pointwise work on them; -inf beyond the last key
      new    = max(largest, scores)    a row is distributed over the four lanes of a quad
      weight = 2^(log2(e) (scores - new));  earlier sums are multiplied by 2^(... largest - new)
      sums  += weight;  results += weight . values
    store results / sums

A warp has 16 rows. The first product's sums lie in registers as the second product expects its left
operand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.compiler.codegen.arithmetic import compare
from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop, while_loop
from bessemer.compiler.codegen.kernels.cpu import emit_store
from bessemer.compiler.codegen.kernels.state import number
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.shared_memory import Layout
from bessemer.compiler.codegen.ptx.tiles.attention_rows import HALVES, AttentionRows
from bessemer.compiler.codegen.ptx.tiles.bfloat16_parts import split_pair
from bessemer.compiler.codegen.ptx.tiles.gemm_mma import MmaProducts
from bessemer.compiler.codegen.ptx.tiles.gemm_mma_split import PairedProducts, SplitMmaProducts
from bessemer.compiler.codegen.ptx.tiles.tile_copies import TileCopy, chunk_elements, direction_of
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import Epilogue, slabs_bytes
from bessemer.compiler.codegen.ptx.tiles.tile_products import Threads
from bessemer.compiler.codegen.ptx.words import Word, vector_of, wide
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Attend, Contract
from bessemer.compiler.ir.operands import Operand
from bessemer.compiler.ir.types import bf16, boolean, f32, i32
from bessemer.compiler.targets.nvptx import DeviceTarget

STAGES = 2
_FEW_REGISTERS, _MOST_REGISTERS = 168, 255
_FEW_NUMBERS = 128
"""Scores and results of a row for which a thread needs few registers."""
_TILE, _END = "tile", "tiles.seen"


def threads_of(attend: Attend) -> int:
    """The number of threads of a block."""
    return attend.tile.warps[0] * 32


def blocks_of_processor(attend: Attend, target: DeviceTarget) -> int:
    """The number of blocks for which a processor has registers."""
    tile = attend.tile
    numbers = (tile.depth + tile.columns) * attend.values.buffer.dtype.bytes // 2
    registers = _FEW_REGISTERS if numbers <= _FEW_NUMBERS else _MOST_REGISTERS
    return max(1, target.registers // (threads_of(attend) * registers))


def padded_depth(extent: int) -> int:
    """The length of a line of shared memory whose chunks can be permuted, for so many elements."""
    power = 16
    while power < min(extent, 64):
        power *= 2
    return power if extent <= power else -(-extent // 64) * 64


@dataclass(frozen=True)
class _Fetched:
    """Copies that have begun. Those of hardware complete by themselves; for others, this has what
    was loaded, and where it goes in shared memory."""

    copies: list[tuple[TileCopy, list[Value | None], Word]]

    def deposit(self) -> None:
        """Stores what has been loaded to shared memory."""
        for copy, loaded, place in self.copies:
            copy.deposit(loaded, place)


def emit(state: DeviceState, attend: Attend) -> int:
    """Writes the statement for the current block. Returns the bytes of shared memory that it
    takes."""
    narrow = attend.queries.buffer.dtype.bytes < f32.bytes
    block = AttentionBlock(state, attend) if narrow else SplitAttentionBlock(state, attend)
    block.write()
    return block.shared_bytes


@dataclass(frozen=True)
class AttentionBlock(Emitter):
    """The code for one block of rows."""

    state: DeviceState
    attend: Attend

    @cached_property
    def threads(self) -> Threads:
        words, thread = self.words, self.state.register("tid.x")
        warp = words.div(thread, 32)
        return Threads(thread, words.rem(thread, 32), words.mul(warp, 16), 0)

    @cached_property
    def depth(self) -> int:
        """The padded depth of the first product: elements of a query."""
        extent = self.attend.queries.depth_extent
        assert isinstance(extent, int)
        return padded_depth(extent)

    @property
    def keys(self) -> int:
        """The number of keys in a tile."""
        return self.attend.tile.depth

    @cached_property
    def scores(self) -> MmaProducts:
        """The first product: queries . keys."""
        contract, _ = self.attend.products
        return self._products(replace(contract, tile=replace(contract.tile, depth=self.depth)))

    @cached_property
    def results(self) -> MmaProducts:
        """The second product: weights . values."""
        return self._products(self.attend.products[1])

    def _products(self, contract: Contract) -> MmaProducts:
        return MmaProducts(
            self.state,
            contract,
            self.threads,
            direction_of(contract.left),
            direction_of(contract.right),
        )

    @cached_property
    def rows(self) -> AttentionRows:
        """The part of the rows that a lane has."""
        return AttentionRows(self.state, self.attend, self.threads, self.scores, self.results)

    # Shared memory: queries, then stages of keys and values; at the end slabs

    @cached_property
    def layouts(self) -> tuple[Layout, Layout, Layout]:
        """The layouts of the tiles of queries, keys and values."""
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
        """The offsets of a stage's keys and values in shared memory."""
        keys = self.words.add(self.words.mul(stage, self.stage_bytes), self.layouts[0].size)
        return keys, self.words.add(keys, self.layouts[1].size)

    def _copies(self) -> tuple[TileCopy, TileCopy, TileCopy]:
        """The copies of queries, keys and values. A tile of keys is copied like that of an operand
        whose depth is the queries', a tile of values like that of one whose depth is the keys."""
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
            elements=chunk_elements(operand, (begin, 0)),
            thread=self.threads.thread,
            threads=threads_of(self.attend),
            begin=words.resized(self.size(begin)),
            extent=words.resized(self.size(extent)),
            batch=tuple(self.size(index) for index in self.attend.batch),
            depth_end=words.resized(self.size(depth_end)),
            is_asynchronous=True,
        )

    # The block's way over the keys

    def write(self) -> None:
        """Writes the whole block."""
        words, long = self.words, wide(self.writer)
        queries, keys, values = self._copies()
        queries.deposit(queries.fetch(0, 0), 0)
        self._fetch(keys, values, 0, 0).deposit()
        self._call("cp.async.commit.group()")
        self.rows.clear()
        count = words.resized(self.size(self.attend.key.extent or 0))
        tiles = words.div(words.add(count, self.keys - 1), self.keys)

        def step(at: Word) -> None:
            self._call("cp.async.wait.group(i32 0)")
            shared_memory.block_barrier(self.writer)
            later = words.add(at, 1)
            fetched = self._fetch(keys, values, words.mul(later, self.keys), later)
            self._call("cp.async.commit.group()")
            keys_at, values_at = self._stage(words.rem(at, STAGES))
            self._tile(keys_at, values_at, long.resized(words.mul(at, self.keys)))
            fetched.deposit()

        names = list(self.rows.names())
        if self.attend.key_end is None:
            over = Range(number(0), long.value(long.resized(tiles)))
            counted_loop(
                self.state, over, names, frozenset(), lambda index: step(words.resized(index))
            )
        else:
            self._until(self.attend.key_end, tiles, names, step)
        self._call("cp.async.wait.group(i32 0)")
        shared_memory.block_barrier(self.writer)
        self._store()

    def _until(
        self, key_end: Size, tiles: Word, names: list[str], step: Callable[[Word], None]
    ) -> None:
        """Runs `step` for the tiles up to `key_end`, and for all others if some row has seen no
        score that outweighs hidden keys."""
        words, state, w = self.words, self.state, self.writer
        state.locals[_TILE] = literal(0, i32)
        seen = words.resized(self.size(dims.ceildiv(key_end, self.keys)))
        state.locals[_END] = words.value(seen)

        def more() -> Value:
            return compare(w, "ult", state.locals[_TILE], state.locals[_END])

        def look() -> None:
            name = "llvm.nvvm.barrier.cta.red.or.aligned.all"
            w.declarations.add(f"declare i1 @{name}(i32, i1)")
            unsure = self.rows.is_unsure()
            any_row = w.here(f"call i1 @{name}(i32 0, {unsure.typed})", boolean)
            end = words.choose(any_row, tiles, state.locals[_END])
            state.locals[_END] = words.value(end)

        def body() -> None:
            step(state.locals[_TILE])
            state.locals[_TILE] = words.value(words.add(state.locals[_TILE], 1))
            at_end = compare(w, "eq", state.locals[_TILE], state.locals[_END])
            early = compare(w, "ult", state.locals[_END], words.value(tiles))
            both = words.both(at_end, early)
            assert isinstance(both, Value)
            branch(state, both, (_END,), ((look, frozenset()),))

        while_loop(state, [*names, _TILE, _END], frozenset(), more, body)

    def _fetch(self, keys: TileCopy, values: TileCopy, begin: Word, stage: Word) -> _Fetched:
        """Begins to copy a tile of keys, from key `begin` on, and their values to a stage."""
        places = self._stage(self.words.rem(stage, STAGES))
        pairs = zip((keys, values), places, strict=True)
        return _Fetched([(copy, copy.fetch(begin, place), place) for copy, place in pairs])

    def _call(self, text: str) -> None:
        name = text.split("(")[0]
        kind = "i32" if "i32" in text else ""
        self.writer.declarations.add(f"declare void @llvm.nvvm.{name}({kind})")
        self.writer.line(f"call void @llvm.nvvm.{text}")

    def _tile(self, keys_at: Word, values_at: Word, first: Word) -> None:
        """Writes the work on one tile of keys, which begins at key `first`."""
        self.scores.clear()
        self.scores.multiply(0, keys_at)
        weights = self.rows.weights(first)
        for step in range(self.keys // 16):
            pairs = [weights[half][2 * step + block] for block in range(2) for half in HALVES]
            self._accumulate(pairs, values_at, step)

    def _accumulate(self, pairs: list[list[Value]], values_at: Word, step: int) -> None:
        """Adds the products of 16 keys' weights and values."""
        layout = self.layouts[2]
        a = [self._packed(pair) for pair in pairs]
        for j in range(0, self.results.counts[1], 2):
            four = self.results.right_part(layout, values_at, j, step)
            self.results.accumulate(0, j, a, four[:2])
            self.results.accumulate(0, j + 1, a, four[2:])

    def _packed(self, pair: list[Value]) -> Value:
        """Two weights in one register, converted to the values' type."""
        w, narrow = self.writer, self.attend.values.buffer.dtype
        name = "bfloat" if narrow is bf16 else "half"
        both = vector_of(w, pair)
        cut = w.compute(f"fptrunc {both.typed} to <2 x {name}>", boolean, 1, both.level)
        return w.compute(f"bitcast <2 x {name}> {cut.text} to i32", i32, 1, both.level)

    def _store(self) -> None:
        """Divides the results by the sums of the weights, and stores them."""
        words, long = self.words, wide(self.writer)
        self.rows.divide()
        slab = self.results.slab()
        slab_at = words.mul(words.div(self.threads.thread, 32), slab.size)
        epilogue = Epilogue(
            self.state, self.results.contract, slab, slab_at, self.threads.lane, emit_store
        )
        self.results.put(0, slab_at)
        row = long.add(self.size(self.attend.row_begin), long.resized(self.threads.warp_row))
        epilogue.run(row, 1, 0)


@dataclass(frozen=True)
class SplitAttentionBlock(AttentionBlock):
    """The code for float32 numbers, each split into three bf16 numbers where it is multiplied."""

    def _products(self, contract: Contract) -> MmaProducts:
        kind = SplitMmaProducts if contract.sums == self.attend.scores else PairedProducts
        return kind(
            self.state,
            contract,
            self.threads,
            direction_of(contract.left),
            direction_of(contract.right),
        )

    def _accumulate(self, pairs: list[list[Value]], values_at: Word, step: int) -> None:
        w, results = self.writer, self.results
        assert isinstance(results, PairedProducts)
        a = [list(part) for part in zip(*(split_pair(w, *pair) for pair in pairs), strict=True)]
        for j in range(results.counts[1]):
            b = results.paired_part(self.layouts[2], values_at, j, step)
            results.add_products(0, j, a, b)
