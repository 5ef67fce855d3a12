"""Reads the times that a profiled model has written to its memory (codegen/support/clock.py)."""

from __future__ import annotations

import ctypes

import numpy as np

from bessemer.compiler.codegen.support.clock import EVENTS
from bessemer.compiler.ir.types import Array

_HEAD = 32
"""Bytes before the sums in the record that the code fills."""


class Record:
    """The times of the last run, read where the code has left them."""

    def __init__(self, address: int, steps: int, symbols: int) -> None:
        size = _HEAD + 16 * steps + 8 * symbols + 32 * EVENTS
        memory = (ctypes.c_int64 * (size // 8)).from_address(address)
        self._words: Array = np.ctypeslib.as_array(memory)
        self._steps = steps
        self._symbols = symbols

    def clear(self) -> None:
        """Forgets the last run."""
        self._words[:] = 0

    def run(self) -> Array:
        """When it began and ended, and the thread that called."""
        return np.array(self._words[:3])

    def sums(self) -> Array:
        """How often and how long every step ran, [steps, 2]."""
        start = _HEAD // 8
        return np.array(self._words[start : start + 2 * self._steps]).reshape(-1, 2)

    def symbols(self) -> list[int]:
        """The values of the program's symbols at the run's end."""
        start = _HEAD // 8 + 2 * self._steps
        return [int(word) for word in self._words[start : start + self._symbols]]

    def events(self) -> Array:
        """Step, thread, begin and end of what was kept, [events, 4]."""
        start = _HEAD // 8 + 2 * self._steps + self._symbols
        count = min(int(self._words[3]), EVENTS)
        return np.array(self._words[start : start + 4 * count]).reshape(-1, 4)
