"""Which dimension symbols a kernel needs as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Checked, Expression, IndexValue, Load, Reduce
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.schedule.dependence import all_nodes


def kernel_symbols(body: Block, buffers: Sequence[Buffer], operations: Size) -> tuple[str, ...]:
    """The names of the dimension symbols that occur in a kernel, sorted."""
    names: set[str] = set()
    for statement in walk_loops.walk(body):
        if isinstance(statement, loops.SetDim):
            names.add(statement.symbol)
        names |= _names(walk_loops.sizes(statement))
        for expression in walk_loops.expressions(statement):
            names |= _expression_names(expression)
    for buffer in buffers:
        names |= _names((*buffer.shape, *buffer.element_strides()))
    return tuple(sorted(names | _names((operations,))))


def _expression_names(expression: Expression) -> set[str]:
    names: set[str] = set()
    for node in all_nodes(expression):
        match node:
            case Load(_, buffer, indices, _):
                names |= _names((*indices, *buffer.element_strides()))
            case IndexValue(_, size):
                names |= _names((size,))
            case Checked(_, _, extent):
                names |= _names((extent,))
            case Reduce(_, _, over, _):
                names |= _names(tuple(s.extent or 0 for s in over))
            case _:
                pass
    return names


def _names(sizes: Iterable[Size]) -> set[str]:
    names: set[str] = set()
    for size in sizes:
        for leaf in dims.atoms(size):
            if isinstance(leaf, Symbol) and leaf.extent is None:
                names.add(leaf.name)
            elif isinstance(leaf, Expression):
                names |= _expression_names(leaf)
    return names
