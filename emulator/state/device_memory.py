"""The device's memory: allocations with unused room between them, at addresses like a device's."""

from __future__ import annotations

import bisect

import numpy as np

from emulator.errors import OutOfBounds
from emulator.language.space import GLOBAL_BASE
from emulator.state.memory import ALLOCATED, WRITTEN, Memory

ALIGNMENT = 512
GAP = 512
"""Bytes between two allocations, so that an index that runs a little over is seen."""


class DeviceMemory(Memory):
    """First fit. `allocations` are (offset, bytes) in the order of their offsets."""

    def __init__(self, size: int) -> None:
        super().__init__(size, "global address")
        self.size = size
        self.allocations: list[tuple[int, int]] = []

    def allocate(self, size: int) -> int | None:
        """The address of `size` new bytes, or None when they do not fit."""
        start = ALIGNMENT
        for offset, taken in self.allocations:
            if start + size + GAP <= offset:
                break
            start = -(-(offset + taken + GAP) // ALIGNMENT) * ALIGNMENT
        if start + size > self.size:
            return None
        bisect.insort(self.allocations, (start, size))
        self.state[start : start + size] = ALLOCATED
        # What was never written must not look like a good zero.
        self.data[start : start + size] = 0xFF
        return GLOBAL_BASE + start

    def free(self, address: int) -> None:
        offset = address - GLOBAL_BASE
        for place, (start, size) in enumerate(self.allocations):
            if start == offset:
                self.state[start : start + size] = 0
                del self.allocations[place]
                return
        raise OutOfBounds(f"freeing {address:#x}, which is the start of no allocation")

    def used(self) -> int:
        return sum(size for _, size in self.allocations)

    def write(self, address: int, values: bytes | memoryview) -> None:
        offset = self._host_range(address, len(values))
        self.data[offset : offset + len(values)] = np.frombuffer(values, np.uint8)
        self.state[offset : offset + len(values)] = WRITTEN

    def read(self, address: int, size: int) -> bytes:
        """Bytes for the host; reading what nothing wrote is the host's affair."""
        offset = self._host_range(address, size)
        return self.data[offset : offset + size].tobytes()

    def copy(self, destination: int, source: int, size: int) -> None:
        to, origin = self._host_range(destination, size), self._host_range(source, size)
        self.data[to : to + size] = self.data[origin : origin + size].copy()
        self.state[to : to + size] = self.state[origin : origin + size].copy()

    def fill(self, address: int, value: int, size: int) -> None:
        offset = self._host_range(address, size)
        self.data[offset : offset + size] = value
        self.state[offset : offset + size] = WRITTEN

    def _host_range(self, address: int, size: int) -> int:
        offset = address - GLOBAL_BASE
        inside = offset >= 0 and offset + size <= len(self.data)
        if not inside or not (self.state[offset : offset + size] & ALLOCATED).all():
            raise OutOfBounds(f"{size} bytes at {address:#x}, {self.neighbour(offset)}")
        return offset

    def place(self, offset: int) -> str:
        return f"{GLOBAL_BASE + offset:#x}"

    def neighbour(self, offset: int) -> str:
        before = [one for one in self.allocations if one[0] <= offset]
        if not before:
            return "which is before all allocations"
        start, size = before[-1]
        return (
            f"{offset - start - size} bytes behind the end of the allocation "
            f"{self.place(start)} ({size} bytes)"
            if offset >= start + size
            else f"across the end of the allocation {self.place(start)} ({size} bytes)"
        )
