"""Writes integer arithmetic of one thread. What is known at compile time is computed then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bessemer.compiler.codegen.arithmetic import compare
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import DType, boolean, i32, i64

Word: TypeAlias = Value | int
"""A number in a register, or one that is known at compile time."""
Truth: TypeAlias = Value | bool


@dataclass(frozen=True)
class Words:
    """Writes arithmetic on integers of one type. No operation may overflow."""

    writer: Writer
    kind: DType = i32

    def value(self, number: Word) -> Value:
        """The number as an operand of an instruction."""
        return literal(number, self.kind) if isinstance(number, int) else number

    def add(self, a: Word, b: Word) -> Word:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self._operate("add", a, b)

    def sub(self, a: Word, b: Word) -> Word:
        return self.add(a, -b) if isinstance(b, int) else self._operate("sub", a, b)

    def mul(self, a: Word, b: Word) -> Word:
        if isinstance(a, int):
            a, b = b, a
        if not isinstance(b, int):
            return self._operate("mul", a, b)
        if isinstance(a, int):
            return a * b
        if b in (0, 1):
            return a if b else 0
        if b > 0 and b & (b - 1) == 0:
            return self._operate("shl", a, b.bit_length() - 1)
        return self._operate("mul", a, b)

    def div(self, a: Word, b: Word) -> Word:
        """The quotient of two numbers that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        if isinstance(b, int) and b & (b - 1) == 0:
            return a if b == 1 else self._operate("lshr", a, b.bit_length() - 1)
        return self._operate("udiv", a, b)

    def rem(self, a: Word, b: Word) -> Word:
        """The remainder of two numbers that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        if isinstance(b, int) and b & (b - 1) == 0:
            return 0 if b == 1 else self._operate("and", a, b - 1)
        return self.sub(a, self.mul(self.div(a, b), b))

    def xor(self, a: Word, b: Word) -> Word:
        if isinstance(a, int) and isinstance(b, int):
            return a ^ b
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self._operate("xor", a, b)

    def below(self, a: Word, b: Word) -> Truth:
        """Whether a < b as unsigned numbers: never, if a is negative and b is not."""
        if isinstance(a, int) and isinstance(b, int):
            return 0 <= a < b
        return compare(self.writer, "ult", self.value(a), self.value(b))

    def both(self, a: Truth, b: Truth) -> Truth:
        if isinstance(a, bool):
            return b if a else False
        if isinstance(b, bool):
            return a if b else False
        return self.writer.operate("and", boolean, a, b)

    def choose(self, condition: Truth, a: Word, b: Word) -> Word:
        """a if the condition holds, else b."""
        if isinstance(condition, bool):
            return a if condition else b
        x, y = self.value(a), self.value(b)
        level = max(condition.level, x.level, y.level)
        operation = f"select {condition.typed}, {x.typed}, {y.typed}"
        return self.writer.compute(operation, self.kind, 1, level)

    def resized(self, number: Word) -> Word:
        """A number of another type, converted to this one."""
        if isinstance(number, int) or number.kind == self.kind:
            return number
        if number.number is not None:
            return int(number.number)
        word = "trunc" if number.kind.bits > self.kind.bits else "sext"
        operation = f"{word} {number.typed} to {literal(0, self.kind).type}"
        return self.writer.compute(operation, self.kind, 1, number.level)

    def _operate(self, name: str, a: Word, b: Word) -> Value:
        return self.writer.operate(name, self.kind, self.value(a), self.value(b))


def vector_of(w: Writer, values: Sequence[Value]) -> Value:
    """A vector of scalars of one type."""
    if len(values) == 1:
        return values[0]
    kind, count = values[0].kind, len(values)
    level = max(value.level for value in values)
    result = Value("poison", kind, count)
    for lane, value in enumerate(values):
        text = f"insertelement {result.typed}, {value.typed}, i32 {lane}"
        result = w.compute(text, kind, count, level)
    return result


def wide(w: Writer) -> Words:
    """Arithmetic in 64 bits."""
    return Words(w, i64)
