"""Recognizes constants of a file that were never trained, by their values.

Exporters fold what they can, so masks, positions and rotations stand among the weights, under names
that say nothing. Nothing that was trained or drawn at random looks like such a table.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.types import Array

_MASKED = -1e4
"""What is added to scores that are not to count is at most this."""


def is_fixed(array: Array) -> bool:
    """Whether this is a mask, an identity, positions, frequencies of them, or rotations."""
    x = np.asarray(array, np.float64)
    if x.size < 2 or (x == x.flat[0]).all():
        return False  # ones and zeros are what norms and biases begin with
    return _masks(x) or _counts(x) or is_of_positions(x)


def is_of_positions(array: Array) -> bool:
    """Whether these are frequencies of positions, or rotations: weights never are."""
    x = np.asarray(array, np.float64)
    return x.size > 1 and (_fades(x) or _turns(x))


def _masks(x: Array) -> bool:
    """Some scores stay as they are, the others go."""
    return bool((x == 0).any() and (x <= _MASKED).any())


def _counts(x: Array) -> bool:
    """Whole numbers from 0 on: masks of 0 and 1, identities, positions, distances."""
    return bool((x == 0).any() and (x == np.rint(x)).all())


def _fades(x: Array) -> bool:
    """Frequencies: from 1 on, each by the same factor less, as of positions in a transformer."""
    line = x.reshape(-1)
    if line.size < 3 or line[0] != 1 or not 0 < line[1] < 1:
        return False
    return bool(np.allclose(line[1:], line[:-1] * line[1], rtol=1e-3, atol=0))


def _turns(x: Array) -> bool:
    """Cosines, sines or both, of angles that are 0 at the first position and 1 or less at the
    second."""
    if np.abs(x).max() > 1:
        return False
    for axis in (axis for axis, size in enumerate(x.shape) if 1 < size < x.size):
        first, second = np.take(x, 0, axis), np.take(x, 1, axis)
        cosines, sines = second[first == 1], second[first == 0]
        if cosines.size + sines.size < first.size or (cosines.size and not (cosines < 1).any()):
            continue
        if not sines.size or np.isclose(sines.max(), np.sin(1.0), rtol=1e-3):
            return True
    return False
