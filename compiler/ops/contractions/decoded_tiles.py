"""Products of many rows with weights of few bits, which are decoded once for all of them.

    for a block of the depth
      kept = its weights as floats
      for a tile of rows
        near = the block of x, next to each other
        sums[row, column] += near[row, k] * kept[k, column], for some columns at a time

As bfloat16, weights lie in pairs of neighbours along the depth: an instruction multiplies a pair of
x with one and adds both products to a sum, which takes half the time of float32. Sums of a block
are added up in the output.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.expr import Buffer, constant, convert, fragment_element
from bessemer.compiler.ir.types import DType, bf16, f32
from bessemer.compiler.ops.contractions.nibbles import HALF, PANEL, Weights, column_store
from bessemer.compiler.ops.contractions.row_tiles import row_tiles

_BLOCK_BYTES = 1 << 14
"""Of a panel's weights, decoded at once."""


@dataclass(frozen=True, eq=False)
class DecodedTiles:
    """Writes a product's tiles of up to `rows` by `columns`, a part of a panel; weights become
    numbers of `dtype`, f32 or bf16. Tiles of `together` panels share what is copied of x."""

    builder: KernelBuilder
    x: Buffer
    weights: Weights
    out: Buffer
    dtype: DType
    rows: int
    columns: int
    together: int

    @property
    def group(self) -> int:
        """Neighbours along the depth that are multiplied at once."""
        return 2 if self.dtype is bf16 else 1

    @property
    def depth_block(self) -> int:
        """The depth that is decoded at once."""
        return _BLOCK_BYTES // (PANEL * self.dtype.bytes)

    def write(self, panel: Size) -> None:
        """The columns of some panels."""
        builder, depth_block, group = self.builder, self.depth_block, self.group
        kept = builder.allocate(self.dtype, (self.together, depth_block // group, PANEL, group))
        whole, rest = divmod(self.weights.depth, depth_block)
        if whole:
            self._write_depth_block(kept, panel, 0, depth_block, is_first=True)
        if whole > 1:
            with builder.loop(whole - 1) as number:
                self._write_depth_block(kept, panel, (number + 1) * depth_block, depth_block)
        if rest:
            self._write_depth_block(kept, panel, whole * depth_block, rest, is_first=not whole)

    def _write_depth_block(
        self, kept: Buffer, panel: Size, first: Size, depth: int, is_first: bool = False
    ) -> None:
        """Adds a block's sums to the output, or stores them."""
        builder, (groups, rest) = self.builder, divmod(depth, self.group)
        with builder.loop(self.together) as place:
            with builder.loop(groups) as k:
                self._decode(kept, panel, place, first, k, self.group)
            if rest:
                self._decode(kept, panel, place, first, groups, rest)
        near = builder.allocate(self.dtype, (self.rows, self.depth_block))
        for row, height in row_tiles(builder, self.x.shape[0], self.rows):
            # Lines of so many rows, some power of two apart, push each other out of the cache.
            with builder.loop(height) as r, builder.loop(depth, "vector", lanes=0) as k:
                builder.store(near, (r, k), self.x[row + r, first + k])
            with builder.loop(self.together) as place, builder.loop(PANEL // self.columns) as part:
                sums = self._sums(kept, near, place, part * self.columns, depth, height)
                column = (panel + place) * PANEL + part * self.columns
                self._store(sums, row, height, column, is_first)

    def _decode(
        self, kept: Buffer, panel: Size, place: Size, first: Size, k: Size, count: int
    ) -> None:
        """A group of each of a panel's columns; where fewer are left, zeros beside them."""
        builder, group = self.builder, self.group
        with builder.loop(HALF, "vector", lanes=0) as j:
            decoded = [
                self.weights.decoded(panel + place, first + k * group + number, j)
                for number in range(count)
            ]
            decoded += [(constant(0.0, f32),) * 2] * (group - count)
            for half in range(2):
                for number, weights in enumerate(decoded):
                    at = (place, k, half * HALF + j, number)
                    builder.store(kept, at, convert(weights[half], self.dtype))

    def _sums(
        self, kept: Buffer, near: Buffer, place: Size, column: Size, depth: int, height: int
    ) -> str:
        """A tile's sums over a block: the name of their fragment."""
        builder, every, group = self.builder, tuple(range(height)), self.group
        name = builder.fresh("sums")
        builder.append(loops.Fragment(name, height, self.columns, f32))
        j, zero = builder.index(self.columns), constant(0.0, f32)
        builder.append(loops.FragmentFill(name, j, zero, self.columns))

        def multiply(k: Size, terms: int | None = None) -> None:
            places = tuple(near.offset((r, k * group)) for r in every)
            at = kept.offset((place, k, column, 0))
            builder.append(loops.FragmentMac(name, every, near, places, kept, at, group, terms))

        groups, rest = divmod(depth, group)
        with builder.loop(groups) as k:
            multiply(k)
        if rest:
            multiply(groups, rest)
        return name

    def _store(self, sums: str, row: Size, height: int, column: Size, is_first: bool) -> None:
        j = self.builder.index(self.columns)

        def store(r: int) -> loops.Store:
            at, value = (row + r, column + atom(j)), fragment_element(sums, r, f32)
            return column_store(self.out, at, value, add=not is_first)

        stores = tuple((store(r),) for r in range(height))
        self.builder.append(loops.FragmentStore(sums, j, self.columns, stores))
