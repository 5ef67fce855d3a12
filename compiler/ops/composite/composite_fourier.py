"""Discrete Fourier transforms as products with matrices of cosines and sines.

A long one is done in two steps of its factors (J. W. Cooley and J. W. Tukey, "An algorithm for the
machine calculation of complex Fourier series", 1965): with N = N1 N2, n = N2 n1 + n2 and
k = k1 + N1 k2, and w = e^(-2 pi i / N),

    X[k] = sum over n2 of  w^(n2 k1)  w^(N1 n2 k2)  sum over n1 of  x[n] w^(N2 n1 k1).

Where a run tells the length, nothing is known of its factors: that run computes the one matrix.
"""

from __future__ import annotations

import math

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, f32, f64, i64
from bessemer.compiler.ops.composite.composite import (
    along_axis,
    binary,
    cast,
    reshape,
    size_as,
    transpose,
)
from bessemer.compiler.ops.composite.composite_shape import slice_axis

_MOVES = 192
"""Moves of an element between two steps take as long as so many multiplications by a matrix."""

LARGEST_FACTOR = 8192
"""The matrices grow with the square of a factor."""


def can_be_transformed(length: int) -> bool:
    """Whether a length is the product of two numbers from 1 to LARGEST_FACTOR."""
    return 1 <= length <= LARGEST_FACTOR**2 and _factors(length)[1] <= LARGEST_FACTOR


def fourier_transform(b: GraphBuilder, x: Value, *, inverse: bool, onesided: bool) -> Value:
    """[..., length, 1 or 2] (real, or real and imaginary parts) as [..., bins, 2].

    `onesided` gives the first length // 2 + 1 bins; `inverse` turns the other way round and divides
    by the length, which `can_be_transformed` if it is known.
    """
    length = x.type.shape[-2]
    bins = dims.floordiv(length, 2) + 1 if onesided else length
    if not isinstance(length, int) or not isinstance(bins, int):
        return _product_of_any_length(b, x, bins, inverse)
    parts = x.type.shape[-1]
    assert isinstance(parts, int)
    if _pay_two_steps(length, parts, bins):
        return _in_two_steps(b, x, *_factors(length), bins, inverse)
    return _product(b, x, bins, inverse)


def real_signal(b: GraphBuilder, half: Value, length: Size) -> Value:
    """[..., length, 1] from the first length // 2 + 1 bins [..., bins, 2] of its spectrum."""
    bins = half.type.rank - 2
    mirrored = length - dims.floordiv(length, 2) - 1
    whole = half
    if mirrored != 0:
        above = slice_axis(b, half, bins, mirrored, mirrored, step=-1)
        conjugate = binary(b, "mul", above, b.constant(np.array([1, -1], half.type.dtype.numpy)))
        whole = b.apply("concat", half, conjugate, axis=bins)
    return slice_axis(b, fourier_transform(b, whole, inverse=True, onesided=False), bins + 1, 0, 1)


def _factors(length: int) -> tuple[int, int]:
    """The two that multiply to the length and are the nearest to its square root, rising."""
    first = next(n for n in range(math.isqrt(length), 0, -1) if length % n == 0)
    return first, length // first


def _pay_two_steps(length: int, parts: int, bins: int) -> bool:
    """Whether two steps need so many fewer multiplications that they pay for the moves."""
    first, second = _factors(length)
    inner, outer = 2 * length * parts * first, 4 * second * _outer_bins(bins, first) * first
    return first > 1 and 2 * length * parts * bins - inner - outer >= _MOVES * length


def _outer_bins(bins: int, first: int) -> int:
    """How many of the outer bins hold all bins that are asked for."""
    return -(-bins // first)


def _waves(length: int, rows: int, bins: int, inverse: bool) -> Array:
    """e^(-+ 2 pi i n k / length), [rows, bins], complex."""
    turns = np.outer(np.arange(rows), np.arange(bins)) % length
    waves: Array = np.exp((2j if inverse else -2j) * np.pi * turns / length)
    return waves


def _matrix(waves: Array, parts: int) -> Array:
    """[rows, parts, bins, 2]: what a part of a number at a row adds to both parts of a bin."""
    both = np.stack([waves, 1j * waves], axis=1)[:, :parts]
    return np.stack([both.real, both.imag], axis=-1)


def _product(b: GraphBuilder, x: Value, bins: int, inverse: bool) -> Value:
    *leading, length, parts = x.type.shape
    assert isinstance(length, int) and isinstance(parts, int)
    matrix = _matrix(_waves(length, length, bins, inverse), parts) / (length if inverse else 1)
    rows = reshape(b, x, (dims.product(leading), length * parts))
    result = _times(b, rows, matrix.reshape(length * parts, 2 * bins))
    return reshape(b, result, (*leading, bins, 2))


def _product_of_any_length(b: GraphBuilder, x: Value, bins: Size, inverse: bool) -> Value:
    """The matrix holds cosines of turns in [-1/2, 1/2], which are exact to the last bits in f64; a
    sine is the cosine a quarter of a turn before."""
    *leading, length, parts = x.type.shape
    assert isinstance(parts, int)
    rows, columns = (
        along_axis(b, cast(b, b.apply("iota", shape=(size,), axis=0, dtype=i64), f64), axis, 4)
        for size, axis in ((length, 0), (bins, 2))
    )
    count = size_as(b, length, f64, (1, 1, 1, 1))
    turns = binary(b, "div", binary(b, "mul", rows, columns), count)
    quarters = np.subtract.outer(np.arange(parts), np.arange(2))[:, None] / 4
    turns = binary(b, "add", turns if inverse else b.apply("neg", turns), b.constant(quarters))
    turns = binary(b, "sub", turns, b.apply("round", turns))
    # Half precision is enough for cosines, but not for angles.
    angles = cast(b, binary(b, "mul", turns, 2 * math.pi), f64 if x.type.dtype is f64 else f32)
    cosines = cast(b, b.apply("cos", angles), x.type.dtype)
    matrix = reshape(b, cosines, (length * parts, 2 * bins))
    result = b.apply("matmul", reshape(b, x, (dims.product(leading), length * parts)), matrix)
    if inverse:
        result = binary(b, "div", result, size_as(b, length, x.type.dtype, (1, 1)))
    return reshape(b, result, (*leading, bins, 2))


def _times(b: GraphBuilder, x: Value, matrix: Array) -> Value:
    return b.apply("matmul", x, b.constant(matrix.astype(x.type.dtype.numpy)))


def _in_two_steps(
    b: GraphBuilder, x: Value, first: int, second: int, bins: int, inverse: bool
) -> Value:
    *leading, length, parts = x.type.shape
    assert isinstance(length, int) and isinstance(parts, int)
    count = dims.product(leading)
    lines = reshape(b, x, (count, first, second, parts))
    lines = reshape(b, transpose(b, lines, (0, 2, 1, 3)), (count * second, first * parts))
    inner = _matrix(_waves(first, first, first, inverse), parts).swapaxes(-1, -2)
    spectra = _times(b, lines, inner.reshape(first * parts, 2 * first))
    twiddled = _times_twiddles(
        b, reshape(b, spectra, (count, second, 2, first)), _waves(length, second, first, inverse)
    )
    enough = _outer_bins(bins, first)
    outer = _matrix(_waves(second, second, enough, inverse), 2) / (length if inverse else 1)
    outer = outer.reshape(2 * second, 2 * enough).T.astype(x.type.dtype.numpy)
    whole = b.apply(
        "matmul",
        b.apply("broadcast_to", b.constant(outer), shape=(count, *outer.shape)),
        reshape(b, twiddled, (count, 2 * second, first)),
    )
    pairs = transpose(b, reshape(b, whole, (count, enough, 2, first)), (0, 1, 3, 2))
    found = slice_axis(b, reshape(b, pairs, (count, enough * first, 2)), 1, 0, bins)
    return reshape(b, found, (*leading, bins, 2))


def _times_twiddles(b: GraphBuilder, x: Value, waves: Array) -> Value:
    """[count, second, 2, first], parts before bins, times waves of [second, first]."""
    real, imaginary = slice_axis(b, x, 2, 0, 1), slice_axis(b, x, 2, 1, 1)
    dtype = x.type.dtype.numpy
    cosines, sines = (b.constant(part[:, None].astype(dtype)) for part in (waves.real, waves.imag))
    return b.apply(
        "concat",
        binary(b, "sub", binary(b, "mul", real, cosines), binary(b, "mul", imaginary, sines)),
        binary(b, "add", binary(b, "mul", real, sines), binary(b, "mul", imaginary, cosines)),
        axis=2,
    )
