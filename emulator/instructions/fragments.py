"""How the elements of a matrix are spread over the registers of a warp's lanes, for mma and wgmma.

A register of 32 bits holds `each` neighbours: along a row of A, a column of B. Lane l has group l
// 4 and place l % 4.
"""

from __future__ import annotations

import numpy as np

from emulator.state.arrays import Array

_LANES = np.arange(32)
_GROUP, _PLACE = _LANES // 4, _LANES % 4


def left_places(registers: int, each: int, rows: int) -> tuple[Array, Array]:
    """Rows and columns of A's elements, shaped (registers, lanes, each)."""
    number = np.arange(registers)[:, None, None]
    element = np.arange(each)[None, None, :]
    tall = 2 if rows == 16 else 1
    row = _GROUP[None, :, None] + 8 * (number % tall) + 0 * element
    column = _PLACE[None, :, None] * each + element + 4 * each * (number // tall)
    return row, column


def right_places(registers: int, each: int) -> tuple[Array, Array]:
    """Rows and columns of B's elements."""
    number = np.arange(registers)[:, None, None]
    element = np.arange(each)[None, None, :]
    row = _PLACE[None, :, None] * each + element + 4 * each * number
    column = _GROUP[None, :, None] + 0 * (element + number)
    return row, column


def sum_places(registers: int, each: int) -> tuple[Array, Array]:
    """Rows and columns of C's and D's elements: 2 neighbours, then 8 rows down, then 8
    columns on.
    """
    number = np.arange(registers)[:, None, None] * each + np.arange(each)[None, None, :]
    row = _GROUP[None, :, None] + 8 * (number // 2 % 2)
    column = 2 * _PLACE[None, :, None] + number % 2 + 8 * (number // 4)
    return row, column


def unpack(words: Array, each: int) -> Array:
    """The elements of unsigned words: one more axis of `each`, the lowest bits first."""
    width = words.dtype.itemsize // each
    result: Array = np.ascontiguousarray(words)[..., None].view(f"u{width}")
    return result


def pack(elements: Array, word: np.dtype[np.generic]) -> Array:
    """Undoes `unpack`."""
    result: Array = np.ascontiguousarray(elements).view(word)[..., 0]
    return result
