"""The strides of dense arrays, in elements."""

from __future__ import annotations

from functools import lru_cache

from bessemer.compiler.ir.dims import Size


@lru_cache(maxsize=4096)
def dense_strides(shape: tuple[Size, ...]) -> tuple[Size, ...]:
    """The distance between neighbours along each axis, in elements; the last axis's is 1."""
    result: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        result.append(step)
        step = step * size
    return tuple(reversed(result))
