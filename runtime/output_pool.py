"""Memory of outputs that nobody holds any more, for the outputs of the next run.

The C library gives large blocks back to the system as soon as they are free, and the system hands
out pages one by one, when they are first written to: several large outputs would cost a model more
than their computation. An array that is still in use, by a view of it too, is left alone.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.runtime.arrays import Array, aligned_bytes, aligned_in


def _rotated(blocks: deque[Array]) -> tuple[Array, int]:
    """The first block, which becomes the last one, and how many references there are to it."""
    block = blocks.popleft()
    blocks.append(block)
    return block, sys.getrefcount(block)


# The references to a block that nobody but the pool holds.
_, _UNUSED = _rotated(deque([np.empty(0, np.uint8)]))


class OutputPool:
    """At most `most` blocks of memory; safe to use from several threads at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._blocks: deque[Array] = deque()
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """An uninitialized array that begins at a cache line."""
        return aligned_in(self._taken(aligned_bytes(shape, dtype)), shape, dtype)

    def clear(self) -> None:
        """Gives all blocks up."""
        with self._lock:
            self._blocks.clear()

    def _taken(self, size: int) -> Array:
        """A block that nobody uses, of this size or somewhat larger; it stays in the pool."""
        with self._lock:
            for _ in range(len(self._blocks)):
                block, references = _rotated(self._blocks)
                if size <= block.nbytes <= 2 * size and references == _UNUSED:
                    return block
                del block  # it would count for the next turn where there is one block only
            block = np.empty(_rounded(size), np.uint8)
            self._blocks.append(block)
            if len(self._blocks) > self._most:
                self._blocks.popleft()
            return block


def _rounded(size: int) -> int:
    """At most an eighth more: sizes that grow from run to run, as caches of tokens do, find the
    blocks of the runs before."""
    step = 1 << max(12, size.bit_length() - 4)
    return -(-size // step) * step
