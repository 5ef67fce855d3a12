"""Reads text: the tokens of both languages, and sizes such as `2*n+(m//4)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size, floordiv, maximum, minimum, mod, symbol

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>\d+\.\d+(?:e[+-]?\d+)?|\d+(?:e[+-]?\d+)?)
    | (?P<name>[^\W\d][\w]*|`(?:[^`\\]|\\.)*`)
    | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<value>%\d+)
    | (?P<macro>\$\d+)
    | (?P<mark>\.\.|//|<<|>>|==|!=|<=|>=|\+=|\*=|.)
    )""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|[^'"`#])*""")


@dataclass(frozen=True)
class Token:
    """A piece of text; `kind` is number, name, string, value, macro, mark or end."""

    kind: str
    text: str


_END = Token("end", "the end of the line")


class Tokens:
    """One line of text as tokens, read from left to right; `comment` is what follows a #."""

    def __init__(self, text: str, line: int = 0) -> None:
        found = _COMMENT.match(text)
        cut = found.end() if found else len(text)
        self.comment = text[cut:].removeprefix("#").strip()
        self._text = text[:cut].strip()
        self._line = line
        self._tokens = _split(self._text)
        self._at = 0

    def peek(self) -> Token:
        """The next token, not yet taken."""
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def take(self, kind: str = "") -> str:
        """The text of the next token, which has to be of that kind."""
        token = self.peek()
        if token.kind == "end" or kind not in ("", token.kind):
            raise self.error(f"a {kind or 'token'}")
        self._at += 1
        if token.kind == "name" and token.text.startswith("`"):
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        return token.text

    def accept(self, text: str) -> bool:
        """Takes the next token if it is this one."""
        token = self.peek()
        if token.text != text or token.kind in ("string", "end"):
            return False
        self._at += 1
        return True

    def expect(self, text: str) -> None:
        """Takes the next token, which has to be this one."""
        if not self.accept(text):
            raise self.error(f"'{text}'")

    def mark(self) -> int:
        """Where reading is, for `back`."""
        return self._at

    def back(self, mark: int) -> None:
        """Goes back to where `mark` was called."""
        self._at = mark

    def string(self) -> str:
        """A quoted string's contents."""
        return str(ast.literal_eval(self.take("string")))

    def integer(self) -> int:
        """A number without a point, maybe negative."""
        sign = -1 if self.accept("-") else 1
        text = self.take("number")
        if not text.isdigit():
            raise self.error("an integer")
        return sign * int(text)

    def end(self) -> None:
        """Checks that nothing is left."""
        if self.peek().kind != "end":
            raise self.error("the end of the line")

    def error(self, expected: str) -> CompileError:
        """What to raise where something else was expected."""
        where = f"line {self._line}: " if self._line else ""
        return CompileError(f"{where}expected {expected}, not {self.peek().text}, in: {self._text}")


def _split(text: str) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None and found.lastgroup is not None  # a mark may be any character
        kind, piece = found.lastgroup, found[found.lastgroup]
        touches = at > 0 and found.start(found.lastgroup) == at
        after_operand = touches and (tokens[-1].kind in ("number", "name") or text[at - 1] == ")")
        if kind == "value" and after_operand:
            kind, piece = "mark", "%"  # n%4 is a remainder, %4 is a value
        at = found.start(found.lastgroup) + len(piece)
        tokens.append(Token(kind, piece))
    return tokens


NameRule = Callable[[str], Size]
LeafRule = Callable[[Tokens], Size]


def parse_size(text: str) -> Size:
    """The size that `format_size` wrote; names are dimension symbols."""
    tokens = Tokens(text)
    size = read_size(tokens)
    tokens.end()
    return size


def read_size(tokens: Tokens, name: NameRule = symbol, leaf: LeafRule | None = None) -> Size:
    """A size from the next tokens. `name` says what a name is; `leaf` reads what is in braces."""
    return _Sizes(tokens, name, leaf).sum()


@dataclass(frozen=True)
class _Sizes:
    tokens: Tokens
    name: NameRule
    leaf: LeafRule | None

    def sum(self) -> Size:
        result = -1 * self.product() if self.tokens.accept("-") else self.product()
        while True:
            if self.tokens.accept("+"):
                result = result + self.product()
            elif self.tokens.accept("-"):
                result = result - self.product()
            else:
                return result

    def product(self) -> Size:
        result = self.factor()
        while True:
            if self.tokens.accept("*"):
                result = result * self.factor()
            elif self.tokens.accept("//"):
                result = floordiv(result, self.factor())
            elif self.tokens.accept("%"):
                result = mod(result, self.factor())
            else:
                return result

    def factor(self) -> Size:
        tokens = self.tokens
        if tokens.accept("-"):
            return -1 * self.factor()
        if tokens.accept("("):
            inner = self.sum()
            tokens.expect(")")
            return inner
        if self.leaf is not None and tokens.accept("{"):
            inner = self.leaf(tokens)
            tokens.expect("}")
            return inner
        token = tokens.peek()
        if token.kind == "number":
            return tokens.integer()
        if token.kind != "name":
            raise tokens.error("a size")
        name = tokens.take()
        if token.text in ("min", "max"):
            return self.extreme(minimum if name == "min" else maximum)
        return self.name(name)

    def extreme(self, function: Callable[[Size, Size], Size]) -> Size:
        self.tokens.expect("(")
        left = self.sum()
        self.tokens.expect(",")
        right = self.sum()
        self.tokens.expect(")")
        return function(left, right)
