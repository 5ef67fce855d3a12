"""Reuses the memory of outputs that the caller no longer holds for the outputs of the next run.

Otherwise the C library would return a large block to the system as soon as it is free, and the
system would hand out new pages one by one at the first write to each. For a model with several
large outputs that takes longer than its computation. An array that is still in use, also by a view
of it, is never reused.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.runtime.arrays import Array, aligned_bytes, aligned_in


def _references_of_one() -> int:
    """How many references a loop over a list counts for a block that has no other holder."""
    for block in [np.empty(0, np.uint8)]:
        return sys.getrefcount(block)
    return 0


_UNUSED = _references_of_one()


class OutputPool:
    """Blocks of memory for so many outputs; safe to use from several threads at once.

    `blocks` stays the same list: Python's entry takes blocks from it and adds to it by the rules of
    this class, which are written again in compiler/codegen/support/entry_blocks.py.
    """

    def __init__(self, outputs: int) -> None:
        self.blocks: list[Array] = []
        # Enough for two runs' outputs, those that are held and those that are written.
        self._most = 2 * outputs + 1
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """An uninitialized array that begins at a cache line."""
        return aligned_in(self._taken(aligned_bytes(shape, dtype)), shape, dtype)

    def clear(self) -> None:
        """Gives all blocks up."""
        with self._lock:
            self.blocks.clear()

    def _taken(self, size: int) -> Array:
        """An unused block of this size or somewhat larger; it stays in the pool."""
        with self._lock:
            for block in self.blocks:
                if size <= block.nbytes <= 2 * size and sys.getrefcount(block) == _UNUSED:
                    return block
            block = np.empty(_rounded(size), np.uint8)
            self.blocks.append(block)
            if len(self.blocks) > self._most:
                del self.blocks[0]
            return block


def _rounded(size: int) -> int:
    """At most an eighth more: sizes that grow from run to run, as caches of tokens do, find the
    blocks of the runs before."""
    step = 1 << max(12, size.bit_length() - 4)
    return -(-size // step) * step
