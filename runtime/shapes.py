"""Shape expressions: the sizes of an artifact's arrays as text over named symbols.

    "batch"    "2*batch+1"    "(height+1)//2"    "min(length, 512)"

Integers, names, + - * // %, min and max; everything else is refused. The text becomes a tree of
closures once; nothing is ever handed to Python's eval. A quotient by zero is what one by one is, as
in the compiled code (compiler/codegen/support/sizes.py), which says what is wrong then.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

Expression: TypeAlias = Callable[[Mapping[str, int]], int]


def _quotient(a: int, b: int) -> int:
    return a // (b or 1)


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: _quotient,
    ast.Mod: lambda a, b: a - _quotient(a, b) * b,
}
_FUNCTIONS: dict[str, Callable[[Sequence[int]], int]] = {"min": min, "max": max}


@cache
def parse_expression(text: str) -> Expression:
    """The expression as a function of the symbols' values; raises ValueError where it is none.

    The function raises KeyError for a missing symbol.
    """
    try:
        return _build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is not a shape expression") from None


@cache
def names_in(text: str) -> frozenset[str]:
    """The symbols that an expression reads; raises ValueError where it is not an expression."""
    parse_expression(text)
    names = {node.id for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Name)}
    return frozenset(names - _FUNCTIONS.keys())


def evaluate(size: int | str, symbols: Mapping[str, int]) -> int:
    """The value of one entry of a shape, a number or an expression."""
    return size if isinstance(size, int) else parse_expression(size)(symbols)


def evaluate_shape(shape: Sequence[int | str], symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The values of all entries of a shape."""
    return tuple([evaluate(size, symbols) for size in shape])


def format_shape(shape: Sequence[int | str]) -> str:
    """A shape as people write it: [batch, 3, 224, 224]."""
    return f"[{', '.join(str(size) for size in shape)}]"


def _build(node: ast.expr) -> Expression:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return lambda _: number
        case ast.Name(id=name) if name not in _FUNCTIONS:
            return operator.itemgetter(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _build(operand)
            return lambda symbols: -inner(symbols)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _binary(_OPERATORS[type(op)], _build(left), _build(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if (
            name in _FUNCTIONS and args
        ):
            function, parts = _FUNCTIONS[name], [_build(part) for part in args]
            return lambda symbols: function([part(symbols) for part in parts])
        case _:
            raise ValueError(f"{ast.unparse(node)!r} may not stand in a shape expression")


def _binary(function: Callable[[int, int], int], left: Expression, right: Expression) -> Expression:
    return lambda symbols: function(left(symbols), right(symbols))
