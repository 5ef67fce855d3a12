"""Writes expressions as text, and the index arithmetic in them.

    select(x[i, 2*j] > 0, exp(x[i, 2*j]), f32(v1) * 0.5)

Numbers take the type of what they meet; alone they are written as f32(0.5). Index arithmetic used
as a value is index(2*j+1); a value used in index arithmetic is in braces: x[{checked(k[i], n)}+1].
A subexpression that is used several times is written once, as $0, $1, ..., on lines before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Atom, FloorDiv, Max, Min, Mod, Size, as_atom
from bessemer.compiler.ir.expr import (
    Binary,
    Bits,
    Buffer,
    Cast,
    Checked,
    Constant,
    Expression,
    FragmentElement,
    Given,
    IndexValue,
    Load,
    Read,
    Reduce,
    Select,
    Unary,
)
from bessemer.compiler.ir.polynomials import Monomial
from bessemer.compiler.ir.types import DType, TensorType, boolean
from bessemer.compiler.ir.walk_expr import children, index_expressions

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "mod": "%",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
"""The functions of two operands that are written between them."""


class ExpressionText:
    """Writes the expressions of one kernel; `buffers` are those that a name alone stands for."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.buffers = buffers
        self._shared: dict[Expression, str] = {}
        self._count = 0

    def share(
        self, roots: Iterable[Expression], sizes: Iterable[Size]
    ) -> list[tuple[str, Expression]]:
        """Names for what the expressions of one statement use several times, inner ones first."""
        uses: Counter[Expression] = Counter()
        order: list[Expression] = []
        for root in (*roots, *(leaf for size in sizes for leaf in index_expressions(size))):
            _count_uses(root, uses, order)
        self._shared = {}
        for node in order:
            if uses[node] > 1 and isinstance(node, (Unary, Binary, Select, Checked)):
                self._shared[node] = f"${self._count}"
                self._count += 1
        return [(name, node) for node, name in self._shared.items()]

    def write(self, node: Expression, expected: DType | None = None) -> str:
        """The text of an expression; `expected` is the type that a number would have there."""
        return self._shared.get(node) or self.spell(node, expected)

    def spell(self, node: Expression, expected: DType | None = None) -> str:
        """The text of an expression without its name, if it has one."""
        match node:
            case Constant(dtype, value):
                number = format_number(value)
                return number if dtype in (boolean, expected) else f"{dtype}({number})"
            case Given(_, symbol):
                return f"given({symbol})"
            case IndexValue(_, size):
                return f"index({self.size(size)})"
            case Load(_, buffer, indices, guard):
                places = ", ".join(self.size(index) for index in indices)
                condition = "" if guard is None else f" if {self.write(guard)}"
                return f"{self.buffer(buffer)}[{places}{condition}]"
            case Unary(_, name, operand):
                return f"{name}({self.write(operand)})"
            case Binary(_, name, left, right):
                return self._binary(name, left, right)
            case Select(_, condition, then, otherwise):
                first, second = self._pair(then, otherwise)
                return f"select({self.write(condition)}, {first}, {second})"
            case Cast(dtype, operand):
                return f"{dtype}({self.write(operand)})"
            case Bits(dtype, operand):
                return f"bits({dtype}, {self.write(operand)})"
            case Checked(_, operand, extent):
                return f"checked({self.write(operand)}, {self.size(extent)})"
            case Reduce(_, name, over, body):
                ranges = ", ".join(f"{s} in 0..{self.size(s.extent or 0)}" for s in over)
                return f"reduce {name}({ranges}: {self.write(body)})"
            case Read(_, local):
                return local
            case FragmentElement(_, fragment, row):
                return f"{fragment}@{row}"
            case _:
                raise InternalError(f"no text for {type(node).__name__}")

    def buffer(self, buffer: Buffer) -> str:
        """A buffer's name, with its shape where the same memory is seen in another."""
        if self.buffers.get(buffer.name) == buffer:
            return buffer.name
        return f"{buffer.name}{{{self.buffer_type(buffer)}}}"

    def buffer_type(self, buffer: Buffer) -> str:
        """f32[2,3], and the strides where it is not dense."""
        text = str(TensorType(buffer.dtype, buffer.shape))
        if buffer.strides is None:
            return text
        return f"{text} strides [{', '.join(self.size(stride) for stride in buffer.strides)}]"

    def size(self, size: Size) -> str:
        """Index arithmetic, with the expressions in it in braces (locals by name)."""
        if isinstance(size, int):
            return str(size)
        leaf = as_atom(size)
        return self._atom(leaf) if leaf is not None else self._sum(size.terms)

    def _sum(self, terms: Mapping[Monomial, int]) -> str:
        parts: list[tuple[int, str, str]] = []
        for monomial, coefficient in terms.items():
            factors = [self._atom(factor) for factor, power in monomial for _ in range(power)]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            degree = sum(power for _, power in monomial)
            parts.append((-degree, "*".join(factors), "-" if coefficient < 0 else "+"))
        return "".join(f"{sign}{text}" for _, text, sign in sorted(parts)).removeprefix("+")

    def _atom(self, factor: Atom) -> str:
        match factor:
            case FloorDiv(a, b):
                return f"({self._factor(a)}//{self._factor(b)})"
            case Mod(a, b):
                return f"({self._factor(a)}%{self._factor(b)})"
            case Min(a, b):
                return f"min({self.size(a)}, {self.size(b)})"
            case Max(a, b):
                return f"max({self.size(a)}, {self.size(b)})"
            case Read(_, local):
                return local
            case Expression():
                return f"{{{self.write(factor)}}}"
            case _:
                return str(factor)

    def _factor(self, size: Size) -> str:
        text = self.size(size)
        is_one = size >= 0 if isinstance(size, int) else as_atom(size) is not None
        return text if is_one else f"({text})"

    def _binary(self, name: str, left: Expression, right: Expression) -> str:
        first, second = self._pair(left, right)
        if name not in INFIX:
            return f"{name}({first}, {second})"
        a, b = self._operand(left, first), self._operand(right, second)
        return f"{a} {INFIX[name]} {b}"

    def _pair(self, left: Expression, right: Expression) -> tuple[str, str]:
        """Two operands of one type: a number is plain if the other one shows the type."""
        first = self.write(left, None if isinstance(right, Constant) else left.dtype)
        return first, self.write(right, right.dtype)

    def _operand(self, node: Expression, text: str) -> str:
        infix = isinstance(node, Binary) and node.name in INFIX and node not in self._shared
        return f"({text})" if infix else text


def format_number(value: int | float | bool) -> str:
    """A number as the text forms write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _count_uses(node: Expression, uses: Counter[Expression], order: list[Expression]) -> None:
    """Counts the uses of all nodes below, each node's children once; `order` has children first."""
    uses[node] += 1
    if uses[node] > 1:
        return
    for child in children(node):
        _count_uses(child, uses, order)
    order.append(node)
