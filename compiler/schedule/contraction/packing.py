"""The layout of the packed right operand of a contraction: panels of columns, each with the whole
depth.

    packed[matrix, panel, k, c] = b[matrix, k, panel * width + c]        0 beyond the last column

A register tile thus reads the operand front to back, one aligned vector after the other. Where the
machine multiplies groups of neighbours along the depth, the members of a group are neighbours in
memory, too:

    packed[matrix, panel, k, c, j] = b[matrix, k * group + j, panel * width + c]

A group does not reach from one run of the depth (see `Contraction.run`) into the next. The last
group of a run is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, less
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_expr import substitute


class PanelPacking(Protocol):
    """Packs panels of a right operand inside of the kernel that multiplies by them, one depth block
    at a time."""

    def allocate(self, builder: KernelBuilder) -> Buffer:
        """Adds an array for the longest depth block of a panel to a kernel."""

    def write(
        self,
        builder: KernelBuilder,
        memory: Buffer,
        matrix: Size,
        panel: Size,
        first: Size,
        steps: Size,
    ) -> None:
        """Adds the packing of `steps` steps, from step `first` on, of a panel of a matrix to a
        kernel. They are stored to `memory`, one after the other."""


def packed_shape(
    matrices: Size, steps: Size, columns: Size, width: int, group: int = 1
) -> tuple[Size, ...]:
    """The shape of the packed form of `matrices` matrices with `columns` columns; `steps` is the
    number of groups along the depth, and `width` that of a panel's columns."""
    shape = (matrices, dims.ceildiv(columns, width), steps, width)
    return shape if group == 1 else (*shape, group)


def pack(b: Array, width: int, group: int = 1, run: int | None = None) -> Array:
    """Packs an array [..., depth, columns], whose leading axes are the matrices, in order. `run` is
    the length of a run of the depth (None: the whole depth). The result may be a view, which the
    caller copies once to where it is wanted."""
    depth, columns = b.shape[-2:]
    matrices = b.reshape(-1, depth, columns)
    panels, run = -(-columns // width), run or depth
    steps = -(-run // group)
    runs = depth // run
    padded = matrices.reshape(-1, runs, run, columns)
    if run % group or columns % width:
        padded = np.zeros((len(matrices), runs, steps * group, panels * width), b.dtype)
        padded[:, :, :run, :columns] = matrices.reshape(-1, runs, run, columns)
    packed = padded.reshape(-1, runs * steps, group, panels, width).transpose(0, 3, 1, 4, 2)
    return packed if group > 1 else packed[..., 0]


def packed_element(
    element: Callable[[Size, Size, Size], Expression],
    index: Sequence[Size],
    columns: Size,
    group: int,
    run: Size,
) -> Expression:
    """An element of the packed form as an expression, for packing when the model runs.

    `element(matrix, k, column)` gives the elements of `b`. `index` is (matrix, panel, k, c), or
    with groups (matrix, panel, k, c, j); c is a symbol whose extent is the panel's width. `run` is
    the length of a run of the depth.
    """
    matrix, panel, k, c, *rest = index
    width = _width(c)
    column = panel * width + c
    inside = less(column, columns)
    if group > 1:
        steps = dims.ceildiv(run, group)
        within = dims.mod(k, steps) * group + rest[0]
        k = dims.floordiv(k, steps) * run + within
        if dims.mod(run, group) != 0:
            inside = inside & less(within, run)
    if isinstance(columns, int) and isinstance(width, int) and columns % width:
        # With a symbol of this extent, the index arithmetic inside knows that no column lies
        # beyond the last one, and becomes simpler.
        known = dims.Symbol("column", columns)
        value = substitute(element(matrix, k, dims.atom(known)), {known: column})
    else:
        value = element(matrix, k, column)
    return guarded(inside, value, 0)


def _width(c: Size) -> Size:
    """The extent of the symbol `c`."""
    leaf = dims.as_atom(c)
    assert isinstance(leaf, dims.Symbol) and leaf.extent is not None
    return leaf.extent
