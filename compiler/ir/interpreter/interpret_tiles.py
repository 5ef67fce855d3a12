"""A matrix unit's tiles in the interpreter: eight blocks of up to 16 rows x 64 bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import Array, DType, bf16

ROW_BYTES = 64
MOST_ROWS = 16

TileStatement = TileSetup | TileZero | TileLoad | TileStore | TileMac


class Tiles:
    """The state of the tiles, and what the statements do to it."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._bytes = np.zeros((8, MOST_ROWS, ROW_BYTES), np.uint8)

    def run(
        self,
        statement: TileStatement,
        value: Callable[[Size], int],
        memory: Mapping[str, Array],
    ) -> None:
        """Runs a statement; `value` evaluates sizes, `memory` holds the buffers' flat elements."""
        match statement:
            case TileSetup(rows):
                self._rows = [value(row) for row in rows]
                self._bytes[:] = 0
                if not all(1 <= row <= MOST_ROWS for row in self._rows):
                    raise InternalError(f"tiles of {self._rows} rows")
            case TileZero(tile):
                self._bytes[tile] = 0
            case TileLoad(tile, buffer, offset, stride):
                self._bytes[tile] = 0
                for row in range(self._rows[tile]):
                    start = value(offset) + row * value(stride)
                    self._bytes[tile, row] = _row(memory[buffer.name], start).view(np.uint8)
            case TileStore(tile, buffer, offset, stride):
                for row in range(self._rows[tile]):
                    start = value(offset) + row * value(stride)
                    place = _row(memory[buffer.name], start)
                    place[:] = self._bytes[tile, row].view(place.dtype)
            case TileMac():
                self._multiply(statement)

    def _multiply(self, mac: TileMac) -> None:
        rows = self._rows[mac.sum]
        if rows != self._rows[mac.a] or self._rows[mac.b] != MOST_ROWS:
            raise InternalError(f"a product of tiles with {self._rows} rows: {mac}")
        group = 4 // mac.left.bytes
        left = _numbers(self._bytes[mac.a], mac.left)
        right = _numbers(self._bytes[mac.b], mac.right).reshape(MOST_ROWS, MOST_ROWS, group)
        # [k // group, column, k % group] becomes [k, column].
        product = left[:rows] @ right.transpose(0, 2, 1).reshape(-1, MOST_ROWS)
        total = self._bytes[mac.sum].view(mac.dtype.numpy)
        total[:rows] = (total[:rows] + product).astype(mac.dtype.numpy)


def _row(elements: Array, start: int) -> Array:
    """A tile's row where it lies in a buffer."""
    count = ROW_BYTES // elements.itemsize
    if start < 0 or start + count > len(elements):
        raise InternalError(f"a tile's row from element {start} on, of {len(elements)}")
    return elements[start : start + count]


def _numbers(tile: Array, dtype: DType) -> Array:
    """A tile's elements, wide enough to be added up."""
    if dtype is bf16:
        bits = tile.view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return tile.view(dtype.numpy).astype(np.int64)
