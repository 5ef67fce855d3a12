"""The shared memories of the blocks that run side by side."""

from __future__ import annotations

from emulator.language.layout import SharedLayout
from emulator.state.memory import ALLOCATED, Memory


class SharedMemory(Memory):
    """The shared memories of all blocks in a row, `stride` bytes apart."""

    def __init__(self, blocks: int, layout: SharedLayout) -> None:
        super().__init__(blocks * layout.stride, "shared address")
        self.stride = layout.stride
        # What was never written must not look like a good zero.
        self.data[:] = 0xFF
        rows = self.state[: blocks * layout.stride].reshape(blocks, layout.stride)
        rows[:, layout.start : layout.end] = ALLOCATED

    def place(self, offset: int) -> str:
        return f"{offset % self.stride:#x} (block {offset // self.stride} of those that run)"

    def neighbour(self, offset: int) -> str:
        return "which is outside of the block's shared memory"
