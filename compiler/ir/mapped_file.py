"""Maps files into memory for reading, and releases that memory.

The pages of a mapped file count as the process's memory from their first reading on. Those of
weights are not wanted any more once the weights have been copied to where code reads them.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Self

import numpy as np

from bessemer.compiler.ir.types import Array


class MappedFile(mmap.mmap):
    """A file's bytes, read-only. The file must not become shorter meanwhile."""

    def __new__(cls, descriptor: int, size: int) -> Self:
        return super().__new__(cls, descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def forget(array: Array) -> None:
    """Gives the memory back of an array that lies in a MappedFile, whole tensors at a time: the
    file is read again when the array is. Other arrays stay as they are."""
    root, memory = array, array.base
    while isinstance(memory, np.ndarray):
        root, memory = memory, memory.base
    if isinstance(memory, memoryview):
        memory = memory.obj
    if not isinstance(memory, MappedFile) or not root.nbytes:
        return
    start: int = root.ctypes.data - np.frombuffer(memory, np.uint8).ctypes.data
    page = start - start % mmap.PAGESIZE
    with suppress(OSError):  # a process that locks its memory keeps it
        memory.madvise(mmap.MADV_DONTNEED, page, start + root.nbytes - page)
