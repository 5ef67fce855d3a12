"""Multiplies float32 numbers by mma.sync of bf16: every number is split into three.

Tiles are float32 in shared memory; a warp splits what it has loaded. A lane takes every fourth
element of the depth instead of pairs of neighbours, for both operands: that only changes the order
of the products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.shared_memory import Layout
from bessemer.compiler.codegen.ptx.tiles.bfloat16_parts import PRODUCTS, split_pair
from bessemer.compiler.codegen.ptx.tiles.gemm_mma import COLUMNS, MmaProducts
from bessemer.compiler.codegen.ptx.tiles.tile_copies import Direction
from bessemer.compiler.codegen.ptx.words import Word
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir.operands import Operand
from bessemer.compiler.ir.types import boolean, f32

DEPTH = 16
"""The depth of one instruction in elements."""

_SUMS = "{float, float, float, float}"
_NAME = "llvm.nvvm.mma.m16n8k16.row.col.bf16"


@dataclass(frozen=True)
class SplitMmaProducts(MmaProducts):
    """The sums of one warp."""

    def multiply(self, left: Word, right: Word) -> None:
        rows, columns = self.counts
        layouts = self.layouts()
        # Two steps of float32 numbers are as deep as one instruction.
        for step in range(0, self.contract.tile.depth // self.step, 2):
            a = []
            for i in range(rows):
                two = [self._left(layouts[0], left, i, step + further) for further in range(2)]
                a.append(self._left_parts(two))
            for j in range(0, columns, 2):
                two = [
                    self.right_part(layouts[1], right, j, step + further) for further in range(2)
                ]
                for further in range(2):
                    b = self._right_parts([part[2 * further : 2 * further + 2] for part in two])
                    for i in range(rows):
                        self.add_products(i, j + further, a[i], b)

    def _left_parts(self, two: list[list[Value]]) -> list[list[Value]]:
        """For each part: the four registers with 16 rows x 16 steps."""
        pairs = [self._split(step[row], step[2 + row]) for step in two for row in range(2)]
        return [list(part) for part in zip(*pairs, strict=True)]

    def _right_parts(self, two: list[list[Value]]) -> list[list[Value]]:
        """For each part: the two registers with 8 columns x 16 steps."""
        pairs = [self._split(step[0], step[1]) for step in two]
        return [list(part) for part in zip(*pairs, strict=True)]

    def _split(self, low: Value, high: Value) -> list[Value]:
        w = self.state.writer
        numbers = (
            w.compute(f"bitcast {bits.typed} to float", f32, 1, bits.level) for bits in (low, high)
        )
        return split_pair(w, *numbers)

    def add_products(self, i: int, j: int, a: list[list[Value]], b: list[list[Value]]) -> None:
        w, locals_ = self.state.writer, self.state.locals
        w.declarations.add(f"declare {_SUMS} @{_NAME}({', '.join(['i32'] * 6 + ['float'] * 4)})")
        sums = [literal(0.0, f32)] * 4
        for left, right in PRODUCTS:
            texts = [x.typed for x in (*a[left], *b[right], *sums)]
            result = w.here(f"call {_SUMS} @{_NAME}({', '.join(texts)})", boolean)
            sums = [w.here(f"extractvalue {_SUMS} {result.text}, {n}", f32) for n in range(4)]
        for part, value in enumerate(sums):
            name = self.name(i, j, part)
            locals_[name] = w.operate("fadd", f32, locals_[name], value)


@dataclass(frozen=True)
class PairedProducts(SplitMmaProducts):
    """Products whose left operand are sums in registers, which lie in pairs of neighbours along the
    depth. So the right operand is loaded in such pairs."""

    def _layout(self, operand: Operand, direction: Direction, outer: int) -> Layout:
        found = super()._layout(operand, direction, outer)
        return found if direction == "depth" else replace(found, by_words=False, by_pairs=True)

    def paired_part(self, at: Layout, tile: Word, j: int, step: int) -> list[list[Value]]:
        """For each part: the two registers with 8 columns x 16 steps of the depth."""
        words, lane, w = self.words, self.threads.lane, self.state.writer
        own = words.add(self.threads.warp_column, words.div(lane, 4))
        column = words.add(own, j * COLUMNS)
        first = words.add(words.mul(words.rem(lane, 4), 2), step * DEPTH)
        pairs: list[list[Value]] = []
        for further in (0, DEPTH // 2):
            pair = []
            for number in range(2):
                depth = words.add(first, further + number)
                line, element = (column, depth) if self.right == "depth" else (depth, column)
                offset = at.element(words, line, element)
                pair.append(shared_memory.load(w, words.add(tile, offset), f32))
            pairs.append(split_pair(w, *pair))
        return [list(part) for part in zip(*pairs, strict=True)]
