"""Writes a block's loop over the depth of a contraction. The tiles of both operands are copied to
shared memory some stages ahead, and multiplied when they have arrived.

    copy the tiles of the first stages - 1 steps
    for every step
      wait until its tiles have come, and all threads have multiplied those of the step before
      copy the tiles of `stages - 1` steps later, into the place of the step before
      multiply
    store the sums
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.codegen.kernels.control_flow import Range, counted_loop
from bessemer.compiler.codegen.kernels.state import number
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.emitter import Emitter, size_word
from bessemer.compiler.codegen.ptx.shared_memory import Layout
from bessemer.compiler.codegen.ptx.tiles.gemm_mma import MmaProducts
from bessemer.compiler.codegen.ptx.tiles.gemm_mma_split import SplitMmaProducts
from bessemer.compiler.codegen.ptx.tiles.gemm_simt import SimtProducts
from bessemer.compiler.codegen.ptx.tiles.tile_copies import TileCopy, chunk_elements, direction_of
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import EmitStore, Epilogue, slabs_bytes
from bessemer.compiler.codegen.ptx.tiles.tile_products import Products, Threads
from bessemer.compiler.codegen.ptx.words import Word, Words, wide
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.operands import Operand

_ALIGNMENT = 128


def threads_of(contract: Contract) -> int:
    """The number of threads of a block."""
    return contract.tile.warps[0] * contract.tile.warps[1] * 32


def emit(state: DeviceState, contract: Contract, emit_store: EmitStore) -> int:
    """Writes the statement for the current block. Returns the bytes of shared memory that it
    takes."""
    threads = _threads(state, contract)
    kind = _products_of(contract)
    products = kind(
        state, contract, threads, direction_of(contract.left), direction_of(contract.right)
    )
    block = _Block(state, contract, threads, products, *_extents(state, contract))
    block.sums()
    block.store(emit_store)
    slabs = slabs_bytes(contract.tile, products.slab())
    return max(block.stage_bytes * contract.tile.stages, slabs)


def _products_of(contract: Contract) -> type[MmaProducts | SimtProducts]:
    if contract.tile.level == "simt":
        return SimtProducts
    return SplitMmaProducts if contract.products == "bf16x3" else MmaProducts


def _threads(state: DeviceState, contract: Contract) -> Threads:
    tile, words = contract.tile, Words(state.writer)
    thread = state.register("tid.x")
    warp = words.div(thread, 32)
    along = tile.warps[1]
    return Threads(
        thread,
        words.rem(thread, 32),
        words.mul(words.div(warp, along), tile.rows // tile.warps[0]),
        words.mul(words.rem(warp, along), tile.columns // tile.warps[1]),
    )


def _extents(state: DeviceState, contract: Contract) -> tuple[Word, Word]:
    """The begin and the end of the depth, in 32 bits."""
    whole = contract.left.depth_extent
    begin, end = contract.depth_begin, contract.depth_end
    if end != whole:
        end = dims.minimum(end, whole)
    words = Words(state.writer)
    return words.resized(size_word(state, begin)), words.resized(size_word(state, end))


@dataclass(frozen=True)
class _Block(Emitter):
    """The code for one block's tile, from depth `begin` to `end`."""

    state: DeviceState
    contract: Contract
    threads: Threads
    products: Products
    begin: Word
    end: Word

    @property
    def sizes(self) -> tuple[int, int]:
        """The bytes of the left and the right tile of a stage."""
        left, right = self.products.layouts()
        return _aligned(left.size), _aligned(right.size)

    @property
    def stage_bytes(self) -> int:
        return sum(self.sizes)

    def sums(self) -> None:
        """Writes the loop that adds up all products."""
        tile, words = self.contract.tile, self.words
        copies = self._copies()
        steps = words.div(words.add(words.sub(self.end, self.begin), tile.depth - 1), tile.depth)
        ahead = max(1, tile.stages - 1)
        is_async = self.state.device.has_async_copy
        for step in range(ahead):
            self._deposit(copies, self._fetch(copies, step, step), step)
            if is_async:
                self._commit()
        self.products.clear()

        def body(index: Value) -> None:
            step = words.resized(index)
            if is_async:
                self._wait(ahead - 1)
            shared_memory.block_barrier(self.writer)
            later = words.add(step, ahead)
            place = words.rem(later, tile.stages)
            fetched = self._fetch(copies, later, place)
            if is_async:
                self._commit()
            stage = words.mul(words.rem(step, tile.stages), self.stage_bytes)
            self.products.multiply(stage, words.add(stage, self.sizes[0]))
            if tile.stages == 1:
                shared_memory.block_barrier(self.writer)
            self._deposit(copies, fetched, place)

        last = wide(self.writer).value(wide(self.writer).resized(steps))
        names = self.products.names()
        counted_loop(self.state, Range(number(0), last), names, frozenset(), body)
        if is_async:
            self._wait(0)
        shared_memory.block_barrier(self.writer)

    def _copies(self) -> tuple[TileCopy, ...]:
        contract, tile = self.contract, self.contract.tile
        begins = (
            (contract.row_begin, contract.depth_begin),
            (
                contract.column_begin,
                contract.depth_begin,
            ),
        )
        extents = contract.row.extent or 0, contract.column.extent or 0
        left, right = self.products.layouts()
        return (
            self._copy(contract.left, left, tile.rows, begins[0], extents[0]),
            self._copy(contract.right, right, tile.columns, begins[1], extents[1]),
        )

    def _copy(
        self,
        operand: Operand,
        layout: Layout,
        outer: int,
        begins: tuple[Size, Size],
        extent: Size,
    ) -> TileCopy:
        state, words = self.state, self.words
        return TileCopy(
            state,
            operand,
            layout,
            outer,
            self.contract.tile.depth,
            chunk_elements(operand, begins),
            self.threads.thread,
            threads_of(self.contract),
            words.resized(self.size(begins[0])),
            words.resized(self.size(extent)),
            tuple(self.size(index) for index in self.contract.batch),
            self.end,
            state.device.has_async_copy,
        )

    def _places(self, stage: Word) -> tuple[Word, Word]:
        start = self.words.mul(stage, self.stage_bytes)
        return start, self.words.add(start, self.sizes[0])

    def _fetch(
        self, copies: Sequence[TileCopy], step: Word, stage: Word
    ) -> list[list[Value | None]]:
        depth = self.words.add(self.begin, self.words.mul(step, self.contract.tile.depth))
        return [
            copy.fetch(depth, place)
            for copy, place in zip(copies, self._places(stage), strict=True)
        ]

    def _deposit(
        self, copies: Sequence[TileCopy], fetched: list[list[Value | None]], stage: Word
    ) -> None:
        for copy, values, place in zip(copies, fetched, self._places(stage), strict=True):
            copy.deposit(values, place)

    def _commit(self) -> None:
        self.writer.declarations.add("declare void @llvm.nvvm.cp.async.commit.group()")
        self.writer.line("call void @llvm.nvvm.cp.async.commit.group()")

    def _wait(self, groups: int) -> None:
        self.writer.declarations.add("declare void @llvm.nvvm.cp.async.wait.group(i32)")
        self.writer.line(f"call void @llvm.nvvm.cp.async.wait.group(i32 {groups})")

    def store(self, emit_store: EmitStore) -> None:
        """Writes the contraction's stores."""
        words, long = self.words, wide(self.writer)
        slab = self.products.slab()
        warp = words.div(self.threads.thread, 32)
        slab_at = words.mul(warp, slab.size)
        epilogue = Epilogue(self.state, self.contract, slab, slab_at, self.threads.lane, emit_store)
        row, column = (
            long.add(self.size(begin), long.resized(part))
            for begin, part in (
                (self.contract.row_begin, self.threads.warp_row),
                (self.contract.column_begin, self.threads.warp_column),
            )
        )
        for position, one in enumerate(self.products.passes()):
            self.products.put(position, slab_at)
            epilogue.run(long.add(row, one.row), one.row_step, column)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
