"""Computes single sums of products again, in float32, from the operands in memory.

The parts of bfloat16_parts.py give NaN for infinities and for sums near them. Therefore a sum that
is not finite is computed again according to IEEE 754. That is slow, but rare.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.arithmetic import compare, intrinsic
from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop
from bessemer.compiler.codegen.kernels.conversions import from_memory, memory_kind
from bessemer.compiler.codegen.lanes import extract
from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.tiles.bfloat16_parts import PARTS
from bessemer.compiler.codegen.ptx.words import Truth, Word, Words, vector_of, wide
from bessemer.compiler.codegen.values import Value, literal, type_text
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.operands import Operand
from bessemer.compiler.ir.types import boolean, f32

_TOTAL = "exact.{}"


@dataclass(frozen=True)
class ExactSums(Emitter):
    """The sums of a contraction of float32 numbers. Indices are 64-bit numbers."""

    contract: Contract

    @property
    def words(self) -> Words:
        return wide(self.state.writer)

    def instead_of(self, sums: Value, row: Word, column: Word) -> Value:
        """The sums of neighbouring columns, computed again if one of them is not finite."""
        w, state = self.state.writer, self.state
        check = w.operate("fsub", f32, sums, sums)
        lanes = [extract(w, check, lane) for lane in range(sums.lanes)]
        total = lanes[0]
        for one in lanes[1:]:
            total = w.operate("fadd", f32, total, one)
        names = [_TOTAL.format(lane) for lane in range(sums.lanes)]
        for lane, name in enumerate(names):
            state.locals[name] = extract(w, sums, lane)
        again = (lambda: self._again(names, row, column)), frozenset[str]()
        branch(state, compare(w, "uno", total, total), names, (again,))
        return vector_of(w, [state.locals.pop(name) for name in names])

    def _again(self, names: list[str], row: Word, column: Word) -> None:
        state, words, contract = self.state, self.words, self.contract
        for name in names:
            state.locals[name] = literal(0.0, f32)
        end = dims.minimum(contract.depth_end, contract.left.depth_extent)
        over = Range(words.value(self.size(contract.depth_begin)), words.value(self.size(end)))

        def step(k: Value) -> None:
            a = self._element(contract.left, row, k)
            for lane, name in enumerate(names):
                b = self._element(contract.right, words.add(column, lane), k)
                state.locals[name] = intrinsic(state.writer, "fma", a, b, state.locals[name])

        counted_loop(state, over, names, frozenset(), step)

    def _element(self, operand: Operand, outer: Word, depth: Word) -> Value:
        """An element of an operand; 0 outside of its windows."""
        w, words = self.state.writer, self.words
        at, below = self.unravel(outer, operand.outer), self.unravel(depth, operand.depth)
        batch = [self.size(index) for index in self.contract.batch]
        offset = self.size(operand.base)
        pairs = zip(
            (*at, *below, *batch), (*operand.outer, *operand.depth, *operand.batch), strict=True
        )
        for index, axis in pairs:
            offset = words.add(offset, words.mul(index, self.size(axis.stride)))
        inside: Truth = True
        for one in operand.windows:
            position = words.add(
                words.add(words.mul(at[one.outer], one.step), -one.low),
                words.mul(below[one.depth], one.dilation),
            )
            inside = words.both(inside, words.below(position, self.size(one.extent)))
        offset = words.choose(inside, offset, 0)
        # Smallest parts first: so nothing is rounded, and the largest numbers do not overflow.
        last = PARTS - 1 if operand.parts != 0 else 0
        step = self.size(operand.parts)
        total = self._load(operand, words.add(offset, words.mul(step, last)))
        for part in reversed(range(last)):
            further = words.add(offset, words.mul(step, part))
            total = w.operate("fadd", f32, total, self._load(operand, further))
        if inside is True:
            return total
        condition = inside.typed if isinstance(inside, Value) else "i1 false"
        return w.here(f"select {condition}, {total.typed}, float 0.0", f32)

    def _load(self, operand: Operand, offset: Word) -> Value:
        w, words, dtype = self.state.writer, self.words, operand.buffer.dtype
        base = self.state.base(operand.buffer)
        distance = words.value(words.mul(offset, dtype.bytes))
        text = f"getelementptr i8, ptr {w.at(base)}, {distance.typed}"
        place = w.compute(text, boolean, 1, max(base.level, distance.level))
        kind = memory_kind(dtype)
        bits = w.here(f"load {type_text(kind, 1)}, ptr {place.text}, align {dtype.bytes}", kind)
        return from_memory(self.state, bits, dtype)
