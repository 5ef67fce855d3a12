"""How a contraction's right side lies in memory: panels of columns, each a run over the depth.

    packed[matrix, panel, k, c] = b[matrix, k, panel * width + c]        0 beyond the last column

so that a tile reads it front to back, one aligned vector after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, guarded, less
from bessemer.compiler.ir.types import Array


def packed_shape(matrices: Size, depth: Size, columns: Size, width: int) -> tuple[Size, ...]:
    """The shape of the packed form of `matrices` matrices of depth x columns."""
    return (matrices, dims.ceildiv(columns, width), depth, width)


def pack(b: Array, width: int) -> Array:
    """Packs [..., depth, columns]; leading axes are the matrices, in order."""
    depth, columns = b.shape[-2:]
    matrices = b.reshape(-1, depth, columns)
    panels = -(-columns // width)
    padded = np.zeros((len(matrices), depth, panels * width), b.dtype)
    padded[:, :, :columns] = matrices
    return np.ascontiguousarray(
        padded.reshape(len(matrices), depth, panels, width).transpose(0, 2, 1, 3)
    )


def packed_element(
    element: Callable[[Size, Size, Size], Expression], index: Sequence[Size], columns: Size
) -> Expression:
    """An element of the packed form, for packing at run time.

    `element(matrix, k, column)` is b's; `index` is (matrix, panel, k, c), and c runs over a panel
    (so its symbol's extent is the panel's width).
    """
    matrix, panel, k, c = index
    column = panel * _width(c) + c
    return guarded(less(column, columns), element(matrix, k, column), 0)


def _width(c: Size) -> Size:
    leaf = dims.as_atom(c)
    assert isinstance(leaf, dims.Symbol) and leaf.extent is not None
    return leaf.extent
