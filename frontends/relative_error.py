"""How far two arrays are apart, relative to the reference."""

from __future__ import annotations

import math

import numpy as np

from bessemer.compiler.ir.types import Array


def relative_error(reference: Array, found: Array) -> float:
    """The 2-norm of the difference by the 2-norm of the reference.

    Where one has NaN or infinity so must the other, or the error is infinite, as for other shapes.
    Against a reference of zeros the difference counts as it is. Of strings it is the share that
    differs.
    """
    if reference.shape != found.shape:
        return math.inf
    if reference.dtype.kind in "OU":
        return float((reference != found).mean()) if found.size else 0.0
    expected, actual = reference.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        return math.inf
    if not np.isfinite(actual[finite]).all():
        return math.inf
    norm = float(np.linalg.norm(expected[finite]))
    return float(np.linalg.norm(actual[finite] - expected[finite])) / (norm or 1.0)
