"""The sums of one warpgroup for float32 numbers in three bf16 parts (bfloat16_parts.py).

The products of a stage are added up separately, those of small parts first, and then added to the
sums by ordinary additions. The other warpgroup multiplies meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.ptx.tiles.bfloat16_parts import PRODUCTS
from bessemer.compiler.codegen.ptx.tiles.warpgroup_products import (
    ROWS,
    STEP_BYTES,
    WarpgroupProducts,
)
from bessemer.compiler.codegen.ptx.words import Word
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.ir.tensor_boxes import BOX_BYTES
from bessemer.compiler.ir.types import f32

_TOTAL = "total"


@dataclass(frozen=True)
class SplitWarpgroupProducts(WarpgroupProducts):
    """The instructions add to the locals of a stage; the sums are in `total.*`."""

    def names(self) -> tuple[str, ...]:
        stage = super().names()
        return (*stage, *(f"{_TOTAL}.{name}" for name in stage))

    def multiply(self, left: Word, right: Word) -> None:
        tile, words = self.contract.tile, self.words
        own = words.mul(self.group, self.count * ROWS * BOX_BYTES)
        self._call("fence.sync.aligned()")
        for m in range(self.count):
            first = True
            for small in (True, False):
                # The large products come last: what is cut off of them counts most.
                pairs = PRODUCTS[:-1] if small else PRODUCTS[-1:]
                for a_part, b_part in pairs:
                    start = words.add(left, (a_part * tile.rows + m * ROWS) * BOX_BYTES)
                    a = self._descriptor(words.add(start, own))
                    b = self._descriptor(words.add(right, b_part * tile.columns * BOX_BYTES))
                    for step in range(BOX_BYTES // STEP_BYTES):
                        self._product(m, self._further(a, step), self._further(b, step), not first)
                        first = False
        self._call("commit_group.sync.aligned()")
        self._declare()
        self.wait(0)
        self.pin()
        for name in super().names():
            total = f"{_TOTAL}.{name}"
            self.state.locals[total] = self.state.writer.operate(
                "fadd", f32, self.state.locals[total], self.state.locals[name]
            )

    @property
    def is_complete(self) -> bool:
        return True

    def finish(self) -> None:
        """Does nothing: every `multiply` has waited for its products."""

    def sum_of(self, name: str) -> Value:
        return self.state.locals[f"{_TOTAL}.{name}"]
