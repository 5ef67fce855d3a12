"""Sums by instructions that multiply several neighbours and add them up at once.

    sums[row, gate, column] = sum over k of numbers[row, k] * weights[panel, k, gate, column]

in registers, with `group` steps of k at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.expr import Buffer, constant, fragment_element
from bessemer.compiler.ir.types import DType

Row = tuple[Size, ...]
"""All but the last index of a row of the numbers."""


def dot_sums(
    builder: KernelBuilder,
    numbers: Buffer,
    rows: Sequence[Row],
    packed: Buffer,
    panel: Size,
    dtype: DType,
) -> Buffer:
    """The sums [rows, gates * width] of a panel: `packed` are [panels, K / group, gates, width,
    group].

    The gates lie beside each other: they are the columns of one product.
    """
    _, groups, gates, width, group = packed.shape
    assert isinstance(gates, int) and isinstance(width, int) and isinstance(group, int)
    every, columns = tuple(range(len(rows))), gates * width
    sums = builder.allocate(dtype, (len(rows), columns))
    name = builder.fresh("dots")
    builder.append(loops.Fragment(name, len(rows), columns, dtype))
    column = builder.index(columns)
    builder.append(loops.FragmentFill(name, column, constant(0, dtype), columns))
    with builder.loop(groups) as k:
        places = tuple(numbers.offset((*row, k * group)) for row in rows)
        weights = packed.offset((panel, k, 0, 0, 0))
        builder.append(loops.FragmentMac(name, every, numbers, places, packed, weights, group))
    column = builder.index(columns)
    stores = tuple(
        (loops.Store(sums, (row, atom(column)), fragment_element(name, row, dtype)),)
        for row in every
    )
    builder.append(loops.FragmentStore(name, column, columns, stores))
    return sums
