"""The memory of a training's state: one block, in which each array begins at a cache line.

An update goes over all of it. A single large block gets huge pages, and vectors of arrays that
begin at a cache line never cross one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bessemer.compiler.ir.types import Array
from bessemer.runtime.arrays import aligned_bytes, aligned_in


def side_by_side(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of these arrays."""
    memory = np.empty(sum(aligned_bytes(a.shape, a.dtype) for a in arrays.values()), np.uint8)
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        found[name] = aligned_in(memory, array.shape, array.dtype)
        found[name][...] = array
        memory = memory[aligned_bytes(array.shape, array.dtype) :]
    return found
