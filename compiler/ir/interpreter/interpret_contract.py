"""What `Contract` and `Attend` statements compute: the definition, for the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Attend, Contract
from bessemer.compiler.ir.operands import Operand, unravel
from bessemer.compiler.ir.types import Array

_TF32_MANTISSA = 10


def contract_sums(
    contract: Contract,
    size: Callable[[Size], int],
    memory: Callable[[str], Array],
) -> tuple[Array, range, range]:
    """The sums of a tile, and the rows and columns that they belong to.

    `size` evaluates index arithmetic, `memory` gives a buffer's flat elements.
    """
    rows = _inside(size(contract.row_begin), contract.tile.rows, size(contract.row.extent or 0))
    columns = _inside(
        size(contract.column_begin), contract.tile.columns, size(contract.column.extent or 0)
    )
    whole = size(contract.left.depth_extent)
    if whole != size(contract.right.depth_extent):
        raise InternalError(f"operands of {contract.sums} are not equally deep")
    depth = range(size(contract.depth_begin), min(size(contract.depth_end), whole))
    batch = [size(index) for index in contract.batch]
    left, right = (
        _matrix(operand, outer, depth, batch, contract, size, memory)
        for operand, outer in ((contract.left, rows), (contract.right, columns))
    )
    sums = left @ right.T
    if not contract.dtype.is_float:
        sums = sums.astype(np.int64)
    return sums.astype(contract.dtype.numpy), rows, columns


def attended(
    attend: Attend,
    scores: Array,
    size: Callable[[Size], int],
    memory: Callable[[str], Array],
) -> tuple[Array, range]:
    """The results of rows with these scores, and the columns that they belong to."""
    _, results = attend.products
    columns = range(min(attend.tile.columns, size(attend.column.extent or 0)))
    keys = range(scores.shape[1])
    batch = [size(index) for index in attend.batch]
    values = _matrix(attend.values, columns, keys, batch, results, size, memory)
    wide = scores.astype(np.longdouble)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    return ((weights / weights.sum(axis=1, keepdims=True)) @ values.T).astype(np.float32), columns


def _inside(begin: int, count: int, extent: int) -> range:
    return range(begin, min(begin + count, extent))


def _matrix(
    operand: Operand,
    outer: range,
    depth: range,
    batch: Sequence[int],
    contract: Contract,
    size: Callable[[Size], int],
    memory: Callable[[str], Array],
) -> Array:
    """[outer, depth] elements, wide enough that products and sums of them are (nearly) exact."""
    elements = memory(operand.buffer.name)
    wide = np.longdouble if contract.dtype.is_float else np.int64
    found = np.zeros((len(outer), len(depth)), wide)
    start = size(operand.base)
    start += sum(i * size(axis.stride) for i, axis in zip(batch, operand.batch, strict=True))
    extents = [[size(a.extent) for a in axes] for axes in (operand.outer, operand.depth)]
    strides = [size(axis.stride) for axis in (*operand.outer, *operand.depth)]
    for i, row in enumerate(outer):
        at = unravel(row, extents[0])
        for j, k in enumerate(depth):
            below = unravel(k, extents[1])
            if _in_windows(operand, at, below, size):
                offset = start + sum(n * s for n, s in zip((*at, *below), strides, strict=True))
                if not 0 <= offset < len(elements):
                    raise InternalError(f"element {offset} of {operand.buffer.name}")
                found[i, j] = _multiplied(elements[offset], contract)
                for part in range(1, 3 if operand.parts != 0 else 1):
                    found[i, j] += float(elements[offset + part * size(operand.parts)])
    return found


def _in_windows(
    operand: Operand, outer: Sequence[int], depth: Sequence[int], size: Callable[[Size], int]
) -> bool:
    positions = (
        (outer[w.outer] * w.step + depth[w.depth] * w.dilation - w.low, size(w.extent))
        for w in operand.windows
    )
    return all(0 <= position < extent for position, extent in positions)


def _multiplied(element: Any, contract: Contract) -> Any:
    """An element as it enters the products."""
    if not contract.dtype.is_float:
        return int(element)
    number = np.longdouble(float(element))
    if contract.products == "tf32" and np.isfinite(number) and number != 0:
        mantissa, exponent = np.frexp(number)
        scale = np.longdouble(2.0) ** (_TF32_MANTISSA + 1)
        return np.ldexp(np.rint(mantissa * scale) / scale, exponent)
    return number
