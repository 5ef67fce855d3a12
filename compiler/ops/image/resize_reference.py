"""The definition of resize: a matrix of weights for each axis, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bessemer.compiler.ir.types import Array


def reference(
    x: Array,
    *,
    shape: tuple[int, ...],
    scales: tuple[float, ...] = (),
    mode: str = "nearest",
    coordinate: str = "half_pixel",
    nearest: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
    roi: tuple[float, ...] = (),
    extrapolation: float = 0.0,
) -> Array:
    """See ops/image/resize.py for what the attributes say."""
    if not math.prod(shape):
        return np.zeros(shape, x.dtype)
    result = x if mode == "nearest" else x.astype(np.float64)
    outside = np.zeros(shape, np.bool_)
    for axis, (size, resized) in enumerate(zip(x.shape, shape)):
        scale = scales[axis] if scales else 0.0
        # Sizes are what counts where a float32 scale is only their rounded ratio.
        if scale == 0 or np.float32(scale) == np.float32(resized / size):
            scale = 0.0
        start, end = (roi[axis], roi[axis + x.ndim]) if roi else (0.0, 1.0)
        if size == resized and scale == 0 and (start, end) == (0, 1):
            continue
        # A neighbour is chosen by a position in float32, unless that is a ratio of integers.
        is_rough = mode == "nearest" and (scale != 0 or coordinate == "tf_crop_and_resize")
        working = np.float32 if is_rough else np.float64
        at = positions(size, resized, scale, coordinate, start, end, working)
        if mode == "nearest":
            chosen = np.clip(_round(at, nearest), 0, size - 1).astype(np.int64)
            result = np.take(result, chosen, axis=axis)
        else:
            shrink = min(1.0, scale or resized / size) if antialias else 1.0
            weights = _weights(at, size, mode, cubic_a, shrink, exclude_outside)
            result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
        if coordinate == "tf_crop_and_resize":
            column = [1] * x.ndim
            column[axis] = resized
            outside |= ((at < 0) | (at > size - 1)).reshape(column)
    if x.dtype.kind in "iu":
        result = np.rint(result)
    return np.where(outside, np.array(extrapolation, x.dtype), result.astype(x.dtype))


def positions(
    size: int,
    resized: int,
    scale: float,
    coordinate: str,
    start: float,
    end: float,
    working: type[np.floating[Any]] = np.float64,
) -> Array:
    """Where in the input each element of the output lies; scale 0 is the ratio of the sizes."""
    at = np.arange(resized, dtype=working)
    length = size * scale if scale else float(resized)
    half = (at + 0.5) / scale - 0.5 if scale else ((2 * at + 1) * size - resized) / (2 * resized)
    match coordinate:
        case "asymmetric":
            return np.asarray(at / scale if scale else at * size / resized)
        case "tf_half_pixel_for_nn":
            return np.asarray(half + 0.5)
        case "align_corners":
            return at * 0 if length == 1 else np.asarray(at * (size - 1) / (length - 1))
        case "half_pixel_symmetric":
            return np.asarray(size / 2 * (1 - resized / length) + half)
        case "pytorch_half_pixel":
            return half if resized > 1 else at * 0
        case "tf_crop_and_resize":
            inside = (
                at * (end - start) * (size - 1) / (length - 1)
                if length != 1
                else np.full(resized, (end - start) * (size - 1) / 2)
            )
            return np.asarray(inside + start * (size - 1))
        case _:
            return np.asarray(half)


def _round(at: Array, nearest: str) -> Array:
    match nearest:
        case "floor":
            return np.floor(at)
        case "ceil":
            return np.ceil(at)
        case "round_prefer_floor":
            return np.asarray(np.ceil(at - 0.5))
        case _:
            return np.asarray(np.floor(at + 0.5))


def _weights(
    at: Array, size: int, mode: str, cubic_a: float, shrink: float, exclude_outside: bool
) -> Array:
    """[output, input]: the filter around each position, summed up where the edge is repeated."""
    reach = int(np.ceil((2 if mode == "cubic" else 1) / shrink))
    weights = np.zeros((len(at), size))
    for row, position in enumerate(at):
        first = int(np.floor(position)) + 1 - reach
        for tap in range(first, first + 2 * reach):
            weight = _filter(abs(tap - position) * shrink, mode, cubic_a)
            if 0 <= tap < size or not exclude_outside:
                weights[row, min(max(tap, 0), size - 1)] += weight
    if exclude_outside or shrink < 1:
        with np.errstate(invalid="ignore"):  # all outside: to be extrapolated
            weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _filter(distance: float, mode: str, a: float) -> float:
    if mode == "linear":
        return max(0.0, 1 - distance)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0
