"""Reads expressions, as text_expr.py writes them.

Between operands, comparisons bind least, then | ^ &, shifts, + and -, and * / % most.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size, Symbol, as_atom, atom
from bessemer.compiler.ir.expr import Buffer, Expression, as_index
from bessemer.compiler.ir.functions import BINARY, UNARY
from bessemer.compiler.ir.text.parse_graph import read_type
from bessemer.compiler.ir.text.parse_sizes import Tokens, read_size
from bessemer.compiler.ir.text.text_expr import INFIX
from bessemer.compiler.ir.types import ELEMENT_TYPES, DType, boolean, i64

_LEVELS: tuple[tuple[str, ...], ...] = (
    ("==", "!=", "<", "<=", ">", ">="),
    ("|",),
    ("^",),
    ("&",),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
_FUNCTION_OF = {mark: name for name, mark in INFIX.items()}

Operand = Expression | int | float
"""A number has no type until it meets something that has."""


@dataclass
class Names:
    """What the names in a kernel's text stand for at the place being read."""

    buffers: dict[str, Buffer] = field(default_factory=dict)
    locals: dict[str, DType] = field(default_factory=dict)
    fragments: dict[str, DType] = field(default_factory=dict)
    indices: dict[str, Symbol] = field(default_factory=dict)
    shared: dict[str, Expression] = field(default_factory=dict)

    def inner(self) -> Names:
        """A copy for a block, which keeps its own names to itself."""
        return Names(
            dict(self.buffers),
            dict(self.locals),
            dict(self.fragments),
            dict(self.indices),
            dict(self.shared),
        )


@dataclass
class ExpressionReader:
    """Reads expressions and index arithmetic from one line."""

    tokens: Tokens
    names: Names

    def expression(self, expected: DType | None = None) -> Expression:
        """An expression; a number alone has the `expected` type."""
        found = self._level(0)
        if isinstance(found, Expression):
            return found
        if expected is None:
            raise self.tokens.error(f"a type for the number {found}")
        return expr.constant(found, expected)

    def size(self) -> Size:
        """Index arithmetic."""
        return read_size(self.tokens, self._place, lambda _: as_index(self.expression()))

    def sizes(self, closing: str) -> tuple[Size, ...]:
        """Index arithmetic, separated by commas, up to the closing mark."""
        found: list[Size] = []
        while not self.tokens.accept(closing):
            if found:
                self.tokens.expect(",")
            found.append(self.size())
        return tuple(found)

    def buffer(self) -> Buffer:
        """A buffer's name, and its shape if it is seen in another."""
        name = self.tokens.take("name")
        if name not in self.names.buffers:
            raise self.tokens.error(f"a buffer's name instead of {name}")
        if not self.tokens.accept("{"):
            return self.names.buffers[name]
        buffer = self.buffer_type(name)
        self.tokens.expect("}")
        return buffer

    def buffer_type(self, name: str) -> Buffer:
        """The type and strides of a buffer."""
        type = read_type(self.tokens, self._place)
        strides = None
        if self.tokens.accept("strides"):
            self.tokens.expect("[")
            strides = self.sizes("]")
        return Buffer(name, type.dtype, type.shape, strides)

    def element(self) -> tuple[Buffer, tuple[Size, ...], Expression | None]:
        """buffer[indices], maybe under a guard."""
        buffer = self.buffer()
        self.tokens.expect("[")
        indices: list[Size] = []
        guard = None
        while not self.tokens.accept("]"):
            if self.tokens.accept("if"):
                guard = self.expression()
                continue
            if indices:
                self.tokens.expect(",")
            indices.append(self.size())
        return buffer, tuple(indices), guard

    def _place(self, name: str) -> Size:
        if name in self.names.indices:
            return atom(self.names.indices[name])
        if self.names.locals.get(name) == i64:
            return as_index(expr.read(name, i64))
        raise self.tokens.error(f"an index, symbol or i64 local instead of {name}")

    def _level(self, level: int) -> Operand:
        if level == len(_LEVELS):
            return self._operand()
        left = self._level(level + 1)
        while self.tokens.peek().text in _LEVELS[level]:
            name = _FUNCTION_OF[self.tokens.take()]
            left = self._binary(name, left, self._level(level + 1))
        return left

    def _binary(self, name: str, left: Operand, right: Operand) -> Expression:
        if not isinstance(left, Expression) and not isinstance(right, Expression):
            raise self.tokens.error(f"a typed number, like f32({left})")
        return expr.binary(name, left, right)

    def _operand(self) -> Operand:
        tokens = self.tokens
        token = tokens.peek()
        if tokens.accept("("):
            inner = self._level(0)
            tokens.expect(")")
            return inner
        if token.kind == "macro":
            if token.text not in self.names.shared:
                raise tokens.error("an expression that has been named")
            return self.names.shared[tokens.take()]
        if tokens.accept("-"):
            negative = self._operand()
            return expr.unary("neg", negative) if isinstance(negative, Expression) else -negative
        if token.kind == "number":
            text = tokens.take()
            return int(text) if text.isdigit() else float(text)
        if token.text in ("inf", "nan"):
            return float(tokens.take())
        if token.text in ("true", "false"):
            return expr.constant(tokens.take() == "true", boolean)
        if token.kind == "name":
            return self._named()
        raise tokens.error("a value")

    def _named(self) -> Operand:
        tokens = self.tokens
        start = tokens.mark()
        name = tokens.take()
        if tokens.accept("("):
            found = self._call(name)
            tokens.expect(")")
            return found
        if tokens.accept("@"):
            if name not in self.names.fragments:
                raise tokens.error(f"a fragment instead of {name}")
            return expr.fragment_element(name, tokens.integer(), self.names.fragments[name])
        if name in self.names.locals:
            return expr.read(name, self.names.locals[name])
        if name in self.names.indices:
            return expr.index_value(atom(self.names.indices[name]))
        tokens.back(start)
        return expr.load(*self.element())

    def _call(self, name: str) -> Operand:
        if name in ELEMENT_TYPES:
            inner = self._level(0)
            if isinstance(inner, Expression):
                return expr.convert(inner, ELEMENT_TYPES[name])
            return expr.constant(inner, ELEMENT_TYPES[name])
        if name == "index":
            return expr.index_value(self.size())
        if name == "given":
            return self._given()
        if name == "checked":
            return self._checked()
        if name == "bits":
            return self._bits()
        if name in UNARY:
            return expr.unary(name, self.expression())
        first = self.expression() if name == "select" else self._level(0)
        self.tokens.expect(",")
        second = self._level(0)
        if name in BINARY:
            return self._binary(name, first, second)
        if name != "select" or not isinstance(first, Expression):
            raise self.tokens.error(f"a function instead of {name}")
        self.tokens.expect(",")
        third = self._level(0)
        if not isinstance(second, Expression) and not isinstance(third, Expression):
            raise self.tokens.error(f"a typed number, like f32({second})")
        return expr.select(first, second, third)

    def _bits(self) -> Expression:
        dtype = ELEMENT_TYPES.get(self.tokens.take("name"))
        if dtype is None:
            raise self.tokens.error("an element type")
        self.tokens.expect(",")
        return expr.bits(self.expression(), dtype)

    def _given(self) -> Expression:
        name = self.tokens.take("name")
        if name not in self.names.indices:
            raise self.tokens.error(f"a symbol instead of {name}")
        return expr.given(name)

    def _checked(self) -> Expression:
        operand = self.expression()
        self.tokens.expect(",")
        found = as_atom(expr.checked(operand, self.size()))
        assert isinstance(found, Expression)
        return found
