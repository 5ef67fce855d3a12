"""A memory of bytes with a shadow that knows which are there to be used and which were written."""

from __future__ import annotations

import numpy as np

from emulator.errors import Misaligned, OutOfBounds, Uninitialised
from emulator.state.arrays import UNSIGNED, Array

ALLOCATED = 1
WRITTEN = 3
_ALL = {(1, state): UNSIGNED[8].type(state) for state in (ALLOCATED, WRITTEN)} | {
    (size, state): UNSIGNED[8 * size].type(int.from_bytes(bytes([state]) * size, "little"))
    for size in (2, 4, 8)
    for state in (ALLOCATED, WRITTEN)
}


class Memory:
    """`data` and `state`, one byte each a byte; offsets are int64 arrays that count from the
    memory's start.

    `state` is 0 outside of allocations, ALLOCATED for bytes that nothing wrote, WRITTEN for others.
    `checks_reads` off: reading what nothing wrote is allowed.
    """

    def __init__(self, size: int, name: str, checks_reads: bool = True) -> None:
        whole = -(-size // 8) * 8
        self.data = np.zeros(whole, np.uint8)
        self.state = np.zeros(whole, np.uint8)
        self.name = name
        self.checks_reads = checks_reads
        self._views = {n: self.data.view(UNSIGNED[8 * n]) for n in (1, 2, 4, 8)}
        self._states = {n: self.state.view(UNSIGNED[8 * n]) for n in (1, 2, 4, 8)}

    def load(self, offsets: Array, size: int, count: int) -> list[Array]:
        """`count` neighbours of `size` bytes each from every offset, as unsigned numbers."""
        places = self._places(offsets, size, count, "read")
        state = self._states[size]
        wanted = _ALL[size, WRITTEN if self.checks_reads else ALLOCATED]
        for step in range(count):
            found = state[places + step]
            if not ((found & wanted) == wanted).all():
                self._refuse(offsets, size * count, "read", written=self.checks_reads)
        view = self._views[size]
        return [view[places + step] for step in range(count)]

    def store(self, offsets: Array, values: list[Array], size: int) -> None:
        """Writes the neighbours `values`, `size` bytes each, at every offset; of equal
        offsets the last wins.
        """
        places = self._places(offsets, size, len(values), "write")
        self.check_allocated(offsets, size, len(values), "write")
        for step, value in enumerate(values):
            self._views[size][places + step] = value
            self._states[size][places + step] = _ALL[size, WRITTEN]

    def check_allocated(self, offsets: Array, size: int, count: int, what: str) -> None:
        places = self._places(offsets, size, count, what)
        wanted = _ALL[size, ALLOCATED]
        for step in range(count):
            if not ((self._states[size][places + step] & wanted) == wanted).all():
                self._refuse(offsets, size * count, what, written=False)

    def _places(self, offsets: Array, size: int, count: int, what: str) -> Array:
        if len(offsets) == 0:
            return offsets
        whole = size * count
        if (offsets & (whole - 1)).any():
            wrong = offsets[(offsets & (whole - 1)) != 0]
            raise Misaligned(
                f"{what} of {whole} bytes at {self.name} {self.place(int(wrong[0]))}, "
                f"which is not a multiple of {whole} ({len(wrong)} threads)"
            )
        if int(offsets.min()) < 0 or int(offsets.max()) + whole > len(self.data):
            self._refuse(offsets, whole, what, written=False)
        return offsets // size

    def _refuse(self, offsets: Array, size: int, what: str, written: bool) -> None:
        """Raises for the first offset whose bytes are not there or, if `written`, were
        never written.
        """
        inside = (offsets >= 0) & (offsets + size <= len(self.data))
        bytes_of = np.where(inside, offsets, 0)[:, None] + np.arange(size)
        there = inside & (self.state[bytes_of] & ALLOCATED).astype(bool).all(1)
        if not there.all():
            wrong = offsets[~there]
            raise OutOfBounds(
                f"{what} of {size} bytes at {self.name} {self.place(int(wrong[0]))}, "
                f"{self.neighbour(int(wrong[0]))} ({len(wrong)} threads)"
            )
        if written:
            blank = offsets[~(self.state[bytes_of] == WRITTEN).all(1)]
            raise Uninitialised(
                f"{what} of {size} bytes at {self.name} {self.place(int(blank[0]))}, which "
                f"nothing wrote "
                f"({len(blank)} threads)"
            )

    def place(self, offset: int) -> str:
        """How an offset is shown in a message."""
        return f"{offset:#x}"

    def neighbour(self, offset: int) -> str:
        """What lies near an offset that is out of bounds."""
        return f"which is outside of its {len(self.data)} bytes"

    def load_bytes(self, offsets: Array, what: str, needs_written: bool = True) -> Array:
        """The bytes at `offsets` (any shape)."""
        flat = offsets.reshape(-1)
        outside = len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= len(self.data))
        wanted = WRITTEN if needs_written and self.checks_reads else ALLOCATED
        if outside or not ((self.state[flat] & wanted) == wanted).all():
            self._refuse(flat, 1, what, written=wanted == WRITTEN)
        return self.data[flat].reshape(offsets.shape)

    def store_bytes(self, offsets: Array, values: Array, what: str) -> None:
        flat = offsets.reshape(-1)
        outside = len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= len(self.data))
        if outside or not (self.state[flat] & ALLOCATED).all():
            self._refuse(flat, 1, what, written=False)
        self.data[flat] = values.reshape(-1)
        self.state[flat] = WRITTEN
