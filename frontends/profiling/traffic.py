"""Counts the bytes that a kernel has to move: what it reads and writes of its arrays, each byte
once.

A kernel that reads a part of an array, such as some rows of a table, counts that part. One that
reads an element many times counts it once, because the caches serve the other reads. How often a
search or the walk down a tree goes round is not known: the first round counts, not the whole table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from bessemer.compiler.ir import loops, walk_expr, walk_loops
from bessemer.compiler.ir.dims import Size, Symbol, atoms, substitute, symbol_names
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Launch


@dataclass(frozen=True)
class Traffic:
    """Bytes. `weights` are those of `read` that are the model's constants."""

    read: int = 0
    written: int = 0
    weights: int = 0

    @property
    def moved(self) -> int:
        """Both ways together."""
        return self.read + self.written


def known(size: Size, sizes: Mapping[str, int]) -> int | None:
    """A size as a number, where all its symbols have values."""
    if any(not isinstance(leaf, Symbol) for leaf in atoms(size)):
        return None
    return evaluate_named(size, sizes) if symbol_names(size) <= set(sizes) else None


def traffic_of(
    launch: Launch, sizes: Mapping[str, int], constants: Mapping[Value, object]
) -> Traffic:
    """What a launch moves, where the program's symbols have these sizes."""
    kernel = launch.kernel
    inside = {
        name: number
        for name, size in zip(kernel.symbols, launch.sizes, strict=True)
        if (number := known(size, sizes)) is not None
    }
    accesses = _Accesses(inside)
    accesses.block(kernel.body, 1)
    read = written = weights = 0
    for buffer, value in zip(kernel.buffers, launch.values, strict=True):
        if value in launch.scratch:
            continue
        whole = known(value.type.nbytes, sizes)
        if whole is None:
            continue
        own = min(whole, accesses.reads[buffer.name] * buffer.dtype.bytes)
        read += int(own)
        weights += int(own) if value in constants else 0
        written += int(min(whole, accesses.writes[buffer.name] * buffer.dtype.bytes))
    return Traffic(read, written, weights)


class _Accesses:
    """Counts loads and stores by buffer, with how often their loops run them."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.reads: defaultdict[str, float] = defaultdict(float)
        self.writes: defaultdict[str, float] = defaultdict(float)

    def block(self, block: Block, times: float) -> None:
        for statement in block:
            self._statement(statement, times)
            inner = times
            if isinstance(statement, loops.For):
                inner = times * self._count(statement.extent)
            for part in walk_loops.blocks(statement):
                self.block(part, inner)

    def _count(self, size: Size) -> float:
        """A trip count; one that is not known ahead is as much as it likes, and one that depends
        on outer loops is that of their first iterations."""
        outer = [
            leaf for leaf in atoms(size) if isinstance(leaf, Symbol) and leaf.extent is not None
        ]
        number = known(substitute(size, dict.fromkeys(outer, 0)), self.sizes)
        return math.inf if number is None else max(0, number)

    def _statement(self, statement: loops.Statement, times: float) -> None:
        match statement:
            case loops.FragmentMac():
                self.reads[statement.a.name] += times * len(statement.rows)
                self.reads[statement.b.name] = math.inf
            case loops.FragmentFill():
                self._expression(statement.value, times * self._count(statement.limit))
            case loops.FragmentStore():
                each = times * self._count(statement.limit)
                for row in statement.stores:
                    for store in row:
                        self._statement(store, each)
            case _:
                for expression in walk_loops.expressions(statement):
                    self._expression(expression, times)
                if isinstance(statement, loops.Store):
                    self.writes[statement.buffer.name] += times

    def _expression(self, expression: Expression, times: float) -> None:
        for load in walk_expr.loads_of(expression):
            self.reads[load.buffer.name] += times
