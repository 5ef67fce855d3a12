"""References compute floats in float64 and round once, so that they judge every float type.

f16 and bf16 are not types to compute in, and f32 results are compared with what a machine computes
in another order: the reference should be the better of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from bessemer.compiler.ir.types import Array, dtype_of


def is_float(array: Array) -> bool:
    """Whether the elements are floats; an object array (of Sizes) has none."""
    return array.dtype != object and dtype_of(array).is_float


def widened(array: Array) -> Array:
    """Floats as float64, anything else as it is."""
    return array.astype(np.float64) if is_float(array) else array


def rounded_once(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function on widened arrays, its float result in the first array's type.

    NaN, infinity and overflow are results, not warnings.
    """

    @wraps(function)
    def reference(*arrays: Array, **attributes: object) -> Array:
        with np.errstate(all="ignore"):
            result = np.asarray(function(*map(widened, arrays), **attributes))
            return result.astype(arrays[0].dtype) if result.dtype.kind == "f" else result

    return reference
