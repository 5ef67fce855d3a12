"""Writes contractions by wgmma: warpgroups multiply 64 x N matrices in shared memory, to which one
thread of another warpgroup copies them by tensor maps (TMA).

    warpgroup 0      for every tile of this block, for every step: wait until the stage is empty,
                     announce its bytes, start the copies of both operands' boxes
    the others       for every tile, for every step: wait until the stage is full, multiply, hand
                     back the stage of the step before, whose products are complete by then;
                     then store the sums

Blocks are persistent: each computes every n-th tile, where n is the number of blocks. While the
sums of a tile are stored, the first boxes of the next one are copied. Rows of 128 bytes lie in
shared memory in the permuted order that both the copies and the products use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from bessemer.compiler.codegen.arithmetic import compare
from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop
from bessemer.compiler.codegen.kernels.cpu import emit_store
from bessemer.compiler.codegen.kernels.state import number
from bessemer.compiler.codegen.ptx import mbarriers, shared_memory
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.kernel import begin, finish
from bessemer.compiler.codegen.ptx.kernel_code import DeviceCode
from bessemer.compiler.codegen.ptx.tiles.bfloat16_parts import PARTS
from bessemer.compiler.codegen.ptx.tiles.tensor_maps import BoxCopy, box_copies
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import Epilogue, Slab, slab_of
from bessemer.compiler.codegen.ptx.tiles.warpgroup_products import ROWS, WarpgroupProducts
from bessemer.compiler.codegen.ptx.tiles.warpgroup_split import SplitWarpgroupProducts
from bessemer.compiler.codegen.ptx.words import Word, wide
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Contract, For, Kernel
from bessemer.compiler.ir.tensor_boxes import BOX_BYTES, depth_steps
from bessemer.compiler.ir.types import i32
from bessemer.compiler.targets.nvptx import DeviceTarget

WARPGROUP = 128
_REGISTERS = {2: (40, 232)}
"""By the number of multiplying warpgroups: registers of a thread that copies, and of one that
multiplies. The launch gives 168 to every thread, so the second take what the first give back."""
_DONE = "steps.done"
_SLAB_COLUMNS = (64, 32, 16, 8)


def threads_of(contract: Contract) -> int:
    """The number of threads of a block."""
    return WARPGROUP * (contract.tile.warps[0] + 1)


def emit(
    kernel: Kernel, loop: For, contract: Contract, target: DeviceTarget, mapping: ThreadMapping
) -> DeviceCode:
    """The code of a kernel that is this contraction."""
    threads = threads_of(contract)
    if mapping.threads != threads or mapping.group != threads:
        raise InternalError(f"{kernel.name} is for groups of {threads} threads: {mapping}")
    state = begin(kernel, target, mapping)
    written = _Kernel(state, loop, contract)
    written.write()
    maps = [copy.plan() for copy in written.copies]
    return finish(
        state,
        attributes='"nvvm.minctasm"="1"',
        shared_bytes=written.shared_bytes,
        tensor_maps=maps,
    )


@dataclass(frozen=True)
class _Tile:
    """The current tile: where it begins, and its steps."""

    row: Word
    column: Word
    batch: tuple[Word, ...]
    first: Word
    steps: Word


@dataclass(frozen=True)
class _Kernel(Emitter):
    state: DeviceState
    loop: For
    contract: Contract

    @property
    def stages(self) -> int:
        return self.contract.tile.stages

    @cached_property
    def copies(self) -> tuple[BoxCopy, BoxCopy]:
        return box_copies(self.state, self.contract)

    @property
    def groups(self) -> int:
        """The number of warpgroups that multiply."""
        return self.contract.tile.warps[0]

    # Shared memory: stages of both tiles, slabs, barriers

    @property
    def parts(self) -> int:
        """The number of parts of each element, which lie one behind the other in a stage."""
        return PARTS if self.contract.left.parts != 0 else 1

    @property
    def left_bytes(self) -> int:
        return self.contract.tile.rows * BOX_BYTES * self.parts

    @property
    def stage_bytes(self) -> int:
        return self.left_bytes + self.contract.tile.columns * BOX_BYTES * self.parts

    @cached_property
    def slab(self) -> Slab:
        """The widest slab for which there is room."""
        room = self.state.device.shared_bytes - self.stages * (
            self.stage_bytes + 2 * mbarriers.BYTES
        )
        for columns in _SLAB_COLUMNS:
            slab = slab_of(self.contract, 16, columns)
            if self.contract.tile.columns % columns == 0 and 4 * self.groups * slab.size <= room:
                return slab
        raise InternalError(f"no room for a tile of {self.contract.tile}")

    @property
    def barriers_at(self) -> int:
        return self.stages * self.stage_bytes + 4 * self.groups * self.slab.size

    @property
    def shared_bytes(self) -> int:
        return self.barriers_at + 2 * self.stages * mbarriers.BYTES

    def full(self, stage: Word) -> Word:
        """The barrier on which consumers wait until a stage has been copied."""
        return self.words.add(self.words.mul(stage, mbarriers.BYTES), self.barriers_at)

    def empty(self, stage: Word) -> Word:
        """The barrier on which the producer waits until a stage has been multiplied."""
        return self.words.add(self.full(stage), self.stages * mbarriers.BYTES)

    # The kernel

    def write(self) -> None:
        """Writes the whole kernel."""
        w, state = self.writer, self.state
        thread = state.register("tid.x")
        leader = compare(w, "eq", thread, literal(0, i32))
        branch(state, leader, (), ((self._initialize, frozenset()),))
        shared_memory.block_barrier(w)
        copies = compare(w, "ult", thread, literal(WARPGROUP, i32))
        writes = frozenset(state.written)
        no_writes: frozenset[str] = frozenset()
        feed = ((lambda: self._feed(leader)), no_writes)
        branch(state, copies, (), (feed, (self._multiply, writes)))

    def _initialize(self) -> None:
        for stage in range(self.stages):
            mbarriers.initialize(self.writer, self.full(stage), 1)
            mbarriers.initialize(self.writer, self.empty(stage), 4 * self.groups)
        mbarriers.publish(self.writer)

    def _registers(self, word: str, position: int) -> None:
        if self.groups in _REGISTERS:
            name = f"llvm.nvvm.setmaxnreg.{word}.sync.aligned.u32"
            self.writer.declarations.add(f"declare void @{name}(i32)")
            count = _REGISTERS[self.groups][position]
            self.writer.line(f"call void @{name}(i32 {count})")

    def _tiles(self, body: Callable[[_Tile], None], writes: frozenset[str]) -> None:
        """Runs the body for every tile of this block."""
        state, long = self.state, wide(self.writer)
        block, blocks = (long.resized(state.register(name)) for name in ("ctaid.x", "nctaid.x"))
        left = long.sub(self.size(self.loop.extent), block)
        count = long.div(long.add(left, long.sub(blocks, 1)), blocks)

        def tile(position: Value) -> None:
            index = long.add(block, long.mul(position, blocks))
            state.indices[self.loop.index] = long.value(index)
            body(self._tile())
            del state.indices[self.loop.index]

        state.locals[_DONE] = literal(0, i32)
        over = Range(number(0), long.value(count))
        counted_loop(state, over, (_DONE,), writes, tile)

    def _tile(self) -> _Tile:
        contract, words = self.contract, self.words
        whole = depth_steps(contract)
        if whole is None:
            raise InternalError(f"{self.state.kernel.name}'s depth is not cut into boxes")
        begin, end = contract.depth_begin, contract.depth_end
        first: Size = 0
        steps = whole
        if begin != 0 or end != contract.left.depth_extent:
            end = dims.minimum(end, contract.left.depth_extent)
            first = begin // contract.tile.depth
            steps = dims.ceildiv(end, contract.tile.depth) - first
        return _Tile(
            self.size(contract.row_begin),
            self.size(contract.column_begin),
            tuple(self.size(index) for index in contract.batch),
            words.resized(self.size(first)),
            words.resized(self.size(steps)),
        )

    def _stage(self, done: Word, step: Word) -> tuple[Word, Word, Word]:
        """The stage of a step, the step's number among all steps of the block, and the parity of
        how often the stage has been used."""
        words = self.words
        at = words.add(done, step)
        return words.rem(at, self.stages), at, words.rem(words.div(at, self.stages), 2)

    def _steps(self, tile: _Tile, carried: tuple[str, ...], body: Callable[[Word], None]) -> None:
        last = wide(self.writer).value(wide(self.writer).resized(tile.steps))
        words = self.words
        counted_loop(
            self.state,
            Range(number(0), last),
            carried,
            frozenset(),
            lambda index: body(words.resized(index)),
        )

    def _advance(self, tile: _Tile) -> None:
        done = self.words.add(self.state.locals[_DONE], tile.steps)
        self.state.locals[_DONE] = self.words.value(done)

    # The copying warpgroup

    def _feed(self, leader: Value) -> None:
        self._registers("dec", 0)
        branch(
            self.state,
            leader,
            (),
            (((lambda: self._tiles(self._feed_tile, frozenset())), frozenset()),),
        )

    def _feed_tile(self, tile: _Tile) -> None:
        begins = (tile.row, tile.column)
        places = [copy.place(at, tile.batch) for copy, at in zip(self.copies, begins, strict=True)]
        done = self.state.locals[_DONE]

        def step(index: Word) -> None:
            w, words = self.writer, self.words
            stage, _, parity = self._stage(done, index)
            # A stage's first use waits for nothing: the phase before the first one has parity 1.
            mbarriers.wait(self.state, self.empty(stage), words.xor(parity, 1))
            full = self.full(stage)
            mbarriers.expect(w, full, self.stage_bytes)
            start = words.mul(stage, self.stage_bytes)
            targets = (start, words.add(start, self.left_bytes))
            at = words.add(tile.first, index)
            for copy, place, target in zip(self.copies, places, targets, strict=True):
                for part in range(self.parts):
                    further = words.add(target, part * copy.rows * BOX_BYTES)
                    there, barrier = (shared_memory.place(w, one) for one in (further, full))
                    copy.copy(place, at, there, barrier, part)

        self._steps(tile, (), step)
        self._advance(tile)

    # The multiplying warpgroups

    def _multiply(self) -> None:
        self._registers("inc", 1)
        words = self.words
        thread = words.sub(self.state.register("tid.x"), WARPGROUP)
        group = words.div(thread, WARPGROUP)
        kind = SplitWarpgroupProducts if self.parts > 1 else WarpgroupProducts
        products = kind(self.state, self.contract, group)
        self._tiles(lambda tile: self._multiply_tile(tile, products, thread), self.state.written)

    def _multiply_tile(self, tile: _Tile, products: WarpgroupProducts, thread: Word) -> None:
        words, done = self.words, self.state.locals[_DONE]
        lane = words.rem(thread, 32)
        first_lane = compare(self.writer, "eq", words.value(lane), literal(0, i32))

        def release(stage: Word, also: Value | None) -> None:
            wanted = words.both(first_lane, also if also is not None else True)
            assert isinstance(wanted, Value)
            free = (
                (lambda: mbarriers.arrive(self.writer, self.empty(stage))),
                frozenset[str](),
            )
            branch(self.state, wanted, (), (free,))

        def step(index: Word) -> None:
            stage, at, parity = self._stage(done, index)
            mbarriers.wait(self.state, self.full(stage), parity)
            start = words.mul(stage, self.stage_bytes)
            products.multiply(start, words.add(start, self.left_bytes))
            if products.is_complete:
                release(stage, None)
                return
            # The products of the step before are complete then.
            products.finish_before()
            if not isinstance(index, int):
                later = compare(self.writer, "ne", index, literal(0, i32))
                # In the first step nothing is handed back: the number before is of no use there.
                release(words.rem(words.add(at, self.stages - 1), self.stages), later)
            elif index > 0:
                raise InternalError("steps are counted by a loop")

        products.clear()
        self._steps(tile, products.names(), step)
        products.finish()
        self._advance(tile)
        if not products.is_complete:
            last = words.add(self.state.locals[_DONE], self.stages - 1)
            release(words.rem(last, self.stages), None)
        self._store(tile, products, thread)

    def _store(self, tile: _Tile, products: WarpgroupProducts, thread: Word) -> None:
        words, long, slab = self.words, wide(self.writer), self.slab
        warp, lane = words.div(thread, 32), words.rem(thread, 32)
        slab_at = words.add(words.mul(warp, slab.size), self.stages * self.stage_bytes)
        epilogue = Epilogue(self.state, self.contract, slab, slab_at, lane, emit_store)
        own = words.add(
            words.mul(products.group, products.count * ROWS), words.mul(words.rem(warp, 4), 16)
        )
        row = long.add(tile.row, long.resized(own))
        for m in range(products.count):
            for column in range(0, self.contract.tile.columns, slab.columns):
                products.put(m, column, slab, slab_at, lane)
                epilogue.run(long.add(row, m * ROWS), 1, long.add(tile.column, column))
