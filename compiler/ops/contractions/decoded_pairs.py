"""Products with weights of few bits that are decoded to pairs of bfloat16.

    for a stretch of the depth
      kept[k, column] = weights 2 k and 2 k + 1 of the stretch, rounded; for all rows
      for a tile of rows
        near[row] = the stretch of x, rounded
        sums[row, column] += near[row, 2 k] * kept[k, column, 0] + near[row, 2 k + 1] * ...

An instruction multiplies a pair and adds both products to a sum, so that a tile takes half the time
of one in float32. Sums of a stretch are added up in the output.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.expr import Buffer, constant, convert, fragment_element
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.ops.contractions.nibbles import HALF, PANEL, Weights, column_store
from bessemer.compiler.ops.contractions.row_tiles import row_tiles

_PAIR = 2
_STRETCH = 256
"""Of the depth, decoded at once: 16 KiB for a panel."""


@dataclass(frozen=True, eq=False)
class PairTiles:
    """Writes the tiles of a product, `together` panels of columns at a time."""

    builder: KernelBuilder
    x: Buffer
    weights: Weights
    out: Buffer
    together: int

    def write(self, panel: Size, most: int) -> None:
        """The columns of some panels, in tiles of at most so many rows."""
        kept = self.builder.allocate(bf16, (self.together, _STRETCH // _PAIR, PANEL, _PAIR))
        whole, rest = divmod(self.weights.depth, _STRETCH)
        if whole:
            self._write_stretch(kept, panel, 0, _STRETCH, most, is_first=True)
        if whole > 1:
            with self.builder.loop(whole - 1) as number:
                self._write_stretch(kept, panel, (number + 1) * _STRETCH, _STRETCH, most)
        if rest:
            self._write_stretch(kept, panel, whole * _STRETCH, rest, most, is_first=not whole)

    def _write_stretch(
        self, kept: Buffer, panel: Size, first: Size, depth: int, most: int, is_first: bool = False
    ) -> None:
        """Adds a stretch's sums to the output, or stores them."""
        builder, (pairs, rest) = self.builder, divmod(depth, _PAIR)
        with builder.loop(self.together) as place:
            with builder.loop(pairs) as k:
                self._decode(kept, panel, place, first, k, _PAIR)
            if rest:
                self._decode(kept, panel, place, first, pairs, rest)
        near = builder.allocate(bf16, (most, _STRETCH))
        for row, height in row_tiles(builder, self.x.shape[0], most):
            with builder.loop(height) as r, builder.loop(depth, "vector", lanes=0) as k:
                builder.store(near, (r, k), self.x[row + r, first + k])
            with builder.loop(self.together) as place:
                self._write_tile(kept, near, place, depth, row, height, panel + place, is_first)

    def _decode(
        self, kept: Buffer, panel: Size, place: Size, first: Size, pair: Size, count: int
    ) -> None:
        """A pair of each of a panel's columns; where only one is left, beside a zero."""
        builder = self.builder
        with builder.loop(HALF, "vector", lanes=0) as j:
            decoded = [
                self.weights.decoded(panel + place, first + pair * _PAIR + number, j)
                for number in range(count)
            ]
            decoded += [(constant(0.0, f32),) * 2] * (_PAIR - count)
            for half in range(2):
                for number, weights in enumerate(decoded):
                    at = (place, pair, half * HALF + j, number)
                    builder.store(kept, at, convert(weights[half], bf16))

    def _write_tile(
        self, kept: Buffer, near: Buffer, place: Size, depth: int, row: Size, height: int,
        panel: Size, is_first: bool,
    ) -> None:  # fmt: skip
        builder, every = self.builder, tuple(range(height))
        name = builder.fresh("sums")
        builder.append(loops.Fragment(name, height, PANEL, f32))
        builder.append(loops.FragmentFill(name, builder.index(PANEL), constant(0.0, f32), PANEL))

        def multiply(pair: Size, terms: int | None = None) -> None:
            a_offsets = tuple(near.offset((r, pair * _PAIR)) for r in every)
            at = kept.offset((place, pair, 0, 0))
            mac = loops.FragmentMac(name, every, near, a_offsets, kept, at, _PAIR, terms)
            builder.append(mac)

        pairs, rest = divmod(depth, _PAIR)
        with builder.loop(pairs) as k:
            multiply(k)
        if rest:
            multiply(pairs, rest)
        j = builder.index(PANEL)
        column = panel * PANEL + atom(j)
        stores = tuple(
            (
                column_store(
                    self.out, (row + r, column), fragment_element(name, r, f32), add=not is_first
                ),
            )
            for r in every
        )
        builder.append(loops.FragmentStore(name, j, PANEL, stores))
