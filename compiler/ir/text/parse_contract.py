"""Reads `Contract` and `Attend` statements, as text_contract.py writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.loops import Attend, Contract, Store
from bessemer.compiler.ir.operands import LEVELS, PRODUCTS, Axis, Operand, Tile, Window
from bessemer.compiler.ir.text.parse_expr import ExpressionReader, Names
from bessemer.compiler.ir.text.parse_graph import read_dtype
from bessemer.compiler.ir.text.parse_sizes import Tokens
from bessemer.compiler.ir.types import f32

_Word = TypeVar("_Word", bound=str)


def read_contract(
    reader: ExpressionReader,
    names: Names,
    stores: Callable[[Names], tuple[Store, ...]],
) -> Contract:
    """The statement, behind its first word; `stores` reads the lines below it."""
    tokens = reader.tokens
    sums = tokens.take("name")
    tokens.expect(":")
    dtype = read_dtype(tokens)
    row, row_begin = _index(reader, "row")
    column, column_begin = _index(reader, "column")
    tokens.expect("depth")
    depth_begin = reader.size()
    tokens.expect("..")
    depth_end = reader.size()
    tokens.expect("batch")
    tokens.expect("[")
    batch = reader.sizes("]")
    tile = _tile(tokens)
    tokens.expect("products")
    products = _word(tokens, PRODUCTS)
    tokens.expect("left")
    left = _operand(reader)
    tokens.expect("right")
    right = _operand(reader)
    inner = names.inner()
    inner.fragments[sums] = dtype
    inner.indices |= {row.name: row, column.name: column}
    return Contract(
        sums=sums,
        dtype=dtype,
        left=left,
        right=right,
        batch=batch,
        row=row,
        row_begin=row_begin,
        column=column,
        column_begin=column_begin,
        depth_begin=depth_begin,
        depth_end=depth_end,
        stores=stores(inner),
        tile=tile,
        products=products,
    )


def read_attend(
    reader: ExpressionReader,
    names: Names,
    stores: Callable[[Names], tuple[Store, ...]],
) -> Attend:
    """An attention, behind its first word; `stores` reads the lines below it."""
    tokens = reader.tokens
    results = tokens.take("name")
    tokens.expect("by")
    scores = tokens.take("name")
    row, row_begin = _index(reader, "row")
    key = _symbol(reader, "key")
    key_end = reader.size() if tokens.accept("until") else None
    column = _symbol(reader, "column")
    tokens.expect("batch")
    tokens.expect("[")
    batch = reader.sizes("]")
    tile = _tile(tokens)
    operands: list[Operand] = []
    for word in ("queries", "keys", "values"):
        tokens.expect(word)
        operands.append(_operand(reader))
    inner = names.inner()
    inner.indices |= {symbol.name: symbol for symbol in (row, key)}
    inner.fragments[scores] = f32
    tokens.expect("score")
    score = ExpressionReader(tokens, inner).expression(f32)
    inner.indices[column.name] = column
    inner.fragments[results] = f32
    queries, keys, values = operands
    rows = (batch, row, row_begin, key, column)
    operands_and_rows = (queries, keys, values, *rows)
    return Attend(scores, results, *operands_and_rows, score, stores(inner), tile, key_end)


def _symbol(reader: ExpressionReader, word: str) -> Symbol:
    reader.tokens.expect(word)
    name = reader.tokens.take("name")
    reader.tokens.expect("below")
    return Symbol(name, None if reader.tokens.accept("none") else reader.size())


def _index(reader: ExpressionReader, word: str) -> tuple[Symbol, Size]:
    symbol = _symbol(reader, word)
    reader.tokens.expect("from")
    return symbol, reader.size()


def _word(tokens: Tokens, known: Sequence[_Word]) -> _Word:
    found = tokens.take("name")
    for word in known:
        if word == found:
            return word
    raise tokens.error(f"one of {', '.join(known)} instead of {found}")


def _tile(tokens: Tokens) -> Tile:
    tokens.expect("tile")
    level = _word(tokens, LEVELS)
    rows = tokens.integer()
    tokens.expect("x")
    columns = tokens.integer()
    tokens.expect("x")
    depth = tokens.integer()
    tokens.expect("stages")
    stages = tokens.integer()
    tokens.expect("warps")
    along_rows = tokens.integer()
    tokens.expect("x")
    return Tile(level, rows, columns, depth, stages, (along_rows, tokens.integer()))


def _operand(reader: ExpressionReader) -> Operand:
    tokens = reader.tokens
    buffer = reader.buffer()
    tokens.expect("at")
    base = reader.size()
    outer, depth, batch = (_axes(reader, word) for word in ("outer", "depth", "batch"))
    windows: list[Window] = []
    while tokens.accept("window"):
        windows.append(_window(reader))
    parts = reader.size() if tokens.accept("parts") else 0
    return Operand(buffer, base, outer, depth, batch, tuple(windows), parts)


def _axes(reader: ExpressionReader, word: str) -> tuple[Axis, ...]:
    tokens = reader.tokens
    tokens.expect(word)
    tokens.expect("[")
    found: list[Axis] = []
    while not tokens.accept("]"):
        if found:
            tokens.expect(",")
        extent = reader.size()
        tokens.expect("by")
        found.append(Axis(extent, reader.size()))
    return tuple(found)


def _window(reader: ExpressionReader) -> Window:
    tokens = reader.tokens
    outer = tokens.integer()
    tokens.expect(",")
    numbers = [tokens.integer()]
    for word in ("step", "dilation", "low"):
        tokens.expect(word)
        sign = -1 if tokens.accept("-") else 1
        numbers.append(sign * tokens.integer())
    tokens.expect("below")
    depth, step, dilation, low = numbers
    return Window(outer, depth, step, dilation, low, reader.size())
