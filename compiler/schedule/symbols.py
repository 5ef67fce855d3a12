"""Finds the dimension symbols that a kernel needs as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Checked, Expression, IndexValue, Load, Reduce
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.walk_expr import all_nodes


def kernel_symbols(body: Block, buffers: Sequence[Buffer], operations: Size) -> tuple[str, ...]:
    """The names of the dimension symbols that occur in a kernel, sorted."""
    names: set[str] = set()
    leaves = set(dims.atoms(operations))
    values: list[Expression] = []
    for statement in walk_loops.walk(body):
        if isinstance(statement, loops.SetDim):
            names.add(statement.symbol)
        leaves |= _leaves(walk_loops.sizes(statement))
        values += walk_loops.expressions(statement)
    for buffer in buffers:
        leaves |= _leaves((*buffer.shape, *buffer.element_strides()))
    values += [leaf for leaf in leaves if isinstance(leaf, Expression)]
    for node in all_nodes(*values):
        leaves |= _leaves(_sizes(node))
    symbols = (leaf for leaf in leaves if isinstance(leaf, Symbol))
    return tuple(sorted(names.union(symbol.name for symbol in symbols if symbol.extent is None)))


def _leaves(sizes: Iterable[Size]) -> set[Atom]:
    return set[Atom]().union(*map(dims.atoms, sizes))


def _sizes(node: Expression) -> tuple[Size, ...]:
    """The index arithmetic of one node."""
    match node:
        case Load(_, buffer, indices, _):
            return (*indices, *buffer.element_strides())
        case IndexValue(_, size):
            return (size,)
        case Checked(_, _, extent):
            return (extent,)
        case Reduce(_, _, over, _):
            return tuple(symbol.extent or 0 for symbol in over)
        case _:
            return ()
