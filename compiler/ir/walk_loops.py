"""Traverses the statements of kernels, and lists what each of them evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from typing import get_args

from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Expression, Load
from bessemer.compiler.ir.loops import (
    Accumulate,
    Assign,
    Attend,
    Barrier,
    Block,
    Contract,
    Define,
    Fail,
    For,
    FragmentFill,
    FragmentMac,
    FragmentStore,
    If,
    Prefetch,
    SetDim,
    Statement,
    Store,
    While,
)
from bessemer.compiler.ir.tile_statements import TileLoad, TileSetup, TileStore
from bessemer.compiler.ir.walk_expr import index_expressions, loads_of

_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in get_args(Statement)}


def blocks(statement: Statement) -> tuple[Block, ...]:
    """The blocks inside a statement."""
    match statement:
        case For() | While():
            return (statement.body,)
        case If():
            return (statement.then, statement.otherwise)
        case _:
            return ()


def with_blocks(statement: Statement, change: Callable[[Block], Block]) -> Statement:
    """The statement with other blocks inside."""
    match statement:
        case For() | While():
            return replace(statement, body=change(statement.body))
        case If():
            then, otherwise = change(statement.then), change(statement.otherwise)
            return replace(statement, then=then, otherwise=otherwise)
        case _:
            return statement


def structure(value: object) -> object:
    """A block as nested tuples, which are equal where the blocks say the same.

    Expressions are interned: equal ones are one object.
    """
    if isinstance(value, tuple):
        return tuple(map(structure, value))
    names = _FIELDS.get(type(value))
    return value if names is None else (type(value), *(structure(getattr(value, n)) for n in names))


def walk(block: Block) -> Iterator[Statement]:
    """Every statement of a block, outer before inner."""
    for statement in block:
        yield statement
        for inner in blocks(statement):
            yield from walk(inner)


def expressions(statement: Statement) -> tuple[Expression, ...]:
    """The expressions that a statement evaluates itself (not those of its blocks)."""
    match statement:
        case If(condition) | While(condition) | Fail(condition):
            return (condition,)
        case Define(_, value) | Assign(_, value) | SetDim(_, value):
            return (value,)
        case Accumulate(_, _, value):
            return (value,)
        case Store(_, _, value, guard):
            return (value,) if guard is None else (value, guard)
        case FragmentFill():
            return (statement.value,)
        case FragmentStore():
            return tuple(e for row in statement.stores for s in row for e in expressions(s))
        case Contract():
            return tuple(e for store in statement.stores for e in expressions(store))
        case Attend():
            return (statement.score, *(e for s in statement.stores for e in expressions(s)))
        case _:
            return ()


def loads_by(statement: Statement) -> list[Load]:
    """The loads of a statement itself (not those of its blocks), also inside index arithmetic."""
    inside = (e for size in sizes(statement) for e in index_expressions(size))
    return loads_of(*expressions(statement), *inside)


def map_expressions(block: Block, change: Callable[[Expression], Expression]) -> Block:
    """The block with other expressions; those of index arithmetic and of tiles stay as they are."""
    return tuple(_mapped(statement, change) for statement in block)


def _mapped(statement: Statement, change: Callable[[Expression], Expression]) -> Statement:
    return with_blocks(_with_own(statement, change), partial(map_expressions, change=change))


def _with_own(statement: Statement, change: Callable[[Expression], Expression]) -> Statement:
    """The statement with other expressions, but the same blocks."""
    match statement:
        case If() | While() | Fail():
            return replace(statement, condition=change(statement.condition))
        case Define() | Assign() | Accumulate() | FragmentFill() | SetDim():
            return replace(statement, value=change(statement.value))
        case Store():
            return _mapped_store(statement, change)
        case FragmentStore():
            rows = tuple(tuple(_mapped_store(s, change) for s in row) for row in statement.stores)
            return replace(statement, stores=rows)
        case _:
            return statement


def _mapped_store(store: Store, change: Callable[[Expression], Expression]) -> Store:
    guard = None if store.guard is None else change(store.guard)
    return replace(store, value=change(store.value), guard=guard)


def sizes(statement: Statement) -> tuple[Size, ...]:
    """The index arithmetic that a statement evaluates itself (not that inside its expressions)."""
    match statement:
        case For(extent=size) | FragmentFill(limit=size) | Prefetch(offset=size) | Barrier(size):
            return (size,)
        case Store():
            return (*statement.indices, *statement.buffer.element_strides())
        case FragmentMac():
            return (*statement.a_offsets, statement.b_offset)
        case FragmentStore():
            return (
                statement.limit,
                *(z for row in statement.stores for s in row for z in sizes(s)),
            )
        case Contract() | Attend():
            return (*own_sizes(statement), *(z for s in statement.stores for z in sizes(s)))
        case TileSetup():
            return statement.rows
        case TileLoad() | TileStore():
            return (statement.offset, statement.stride)
        case _:
            return ()


def own_sizes(tile: Contract | Attend) -> tuple[Size, ...]:
    """The index arithmetic of a tile without that of its stores."""
    operands = [size for operand in tile.operands for size in operand.sizes]
    match tile:
        case Contract():
            begins = (tile.row_begin, tile.column_begin, tile.depth_begin, tile.depth_end)
            return (*_extents(tile.row, tile.column), *begins, *tile.batch, *operands)
        case Attend(key_end=end):
            places = (tile.row_begin, *(() if end is None else (end,)), *tile.batch)
            return (*places, *_extents(tile.row, tile.key, tile.column), *operands)


def _extents(*indices: Symbol) -> tuple[Size, ...]:
    return tuple(index.extent or 0 for index in indices)
