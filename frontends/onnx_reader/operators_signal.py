"""Spectra: DFT and STFT as products with matrices of cosines and sines, and the mel filter bank."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, DType, f32, i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_shape import slice_axis
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule

_LONGEST = 8192
"""The matrices grow with the square of the length."""


def _waves(length: int, inverse: bool, onesided: bool, dtype: DType) -> tuple[Array, Array]:
    """cos and sin of 2 pi n k / length, [length, bins]; the sine's sign makes the direction."""
    bins = length // 2 + 1 if onesided else length
    turns = np.outer(np.arange(length), np.arange(bins)) % length
    angles = 2 * np.pi * turns / length
    sign = 1.0 if inverse else -1.0
    scale = 1 / length if inverse else 1.0
    cosines, sines = np.cos(angles) * scale, sign * np.sin(angles) * scale
    return cosines.astype(dtype.numpy), sines.astype(dtype.numpy)


def _transformed(
    context: NodeContext, x: Value, length: int, *, inverse: bool, onesided: bool
) -> Value:
    """[..., length, 1 or 2] (real, or real and imaginary parts) as [..., bins, 2]."""
    b = context.builder
    if length < 1 or length > _LONGEST:
        context.unsupported(f"a transform of length {length}; 1 to {_LONGEST}")
    cosines, sines = (b.constant(wave) for wave in _waves(length, inverse, onesided, x.type.dtype))
    last = x.type.rank - 1

    def part(number: int) -> Value:
        return context.reshape(slice_axis(b, x, last, number, 1), x.type.shape[:-1])

    def product(values: Value, wave: Value) -> Value:
        if values.type.rank > 1:
            return b.apply("matmul", values, wave)
        row = b.apply("matmul", context.reshape(values, (1, length)), wave)
        return context.reshape(row, row.type.shape[1:])

    real, imaginary = product(part(0), cosines), product(part(0), sines)
    if x.type.shape[last] == 2:
        real = b.apply("sub", real, product(part(1), sines))
        imaginary = b.apply("add", imaginary, product(part(1), cosines))
    pair = [context.reshape(value, (*value.type.shape, 1)) for value in (real, imaginary)]
    return b.apply("concat", *pair, axis=last)


def _resized(context: NodeContext, x: Value, axis: int, length: int) -> Value:
    """An axis cut, or filled up with zeros, to a length."""
    size = x.type.shape[axis]
    if size == length:
        return x
    high: list[Size] = [0] * x.type.rank
    high[axis] = length - size
    low = (0,) * x.type.rank
    return context.apply("pad", x, low=low, high=tuple(high), mode="constant", value=0)


@rule("DFT")
def read_dft(context: NodeContext) -> Value:
    x = context.input(0)
    rank = x.type.rank
    if context.opset >= 20:
        axis = context.integers_at(2, "an axis")[0] if context.optional(2) is not None else -2
    else:
        axis = context.integer("axis", 1)
    axis = context.axis(rank, axis)
    if axis == rank - 1 or x.type.shape[-1] not in (1, 2):
        context.wrong(f"axis {axis} of {x.type}; the last axis holds 1 or 2 parts of a number")
    inverse = bool(context.integer("inverse", 0))
    onesided = bool(context.integer("onesided", 0))
    size = x.type.shape[axis]
    length = 2 * (size - 1) if inverse and onesided else size
    if context.optional(1) is not None:
        length = context.integers_at(1, "a length")[0]
    if not isinstance(length, int):
        context.unsupported(f"a transform along axis {axis} of {x.type}, of unknown length")
    order = (*(at for at in range(rank - 1) if at != axis), axis, rank - 1)
    if inverse and onesided:
        return _real_from_half(context, x, axis, length)
    moved = context.transpose(_resized(context, x, axis, length), order)
    result = _transformed(context, moved, length, inverse=inverse, onesided=onesided)
    return context.transpose(result, tuple(int(at) for at in np.argsort(order)))


def _real_from_half(context: NodeContext, x: Value, axis: int, length: int) -> Value:
    """The real signal of which x is the lower half of the spectrum, [..., length, 1]."""
    b = context.builder
    rank = x.type.rank
    order = (*(at for at in range(rank - 1) if at != axis), axis, rank - 1)
    bins = length // 2 + 1
    moved = context.transpose(_resized(context, x, axis, bins), order)
    # Each bin but the first (and the middle one) stands for its mirror image, too.
    weights = np.full((bins, 1), 2.0)
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    angles = 2 * np.pi * (np.outer(np.arange(bins), np.arange(length)) % length) / length
    dtype = x.type.dtype.numpy
    cosines = (weights * np.cos(angles) / length).astype(dtype)
    sines = (weights * np.sin(angles) / length).astype(dtype)

    def product(number: int, wave: Array) -> Value:
        part = slice_axis(b, moved, rank - 1, number, 1)
        values = context.reshape(part, moved.type.shape[:-1])
        rows = context.reshape(values, (dims.product(values.type.shape[:-1]), bins))
        result = b.apply("matmul", rows, b.constant(wave))
        return context.reshape(result, (*values.type.shape[:-1], length, 1))

    result = b.apply("sub", product(0, cosines), product(1, sines))
    return context.transpose(result, tuple(int(at) for at in np.argsort(order)))


@rule("STFT")
def read_stft(context: NodeContext) -> Value:
    """Overlapping frames of a signal [batch, length, 1 or 2], each transformed. PyTorch leaves the
    last axis of real signals out."""
    b = context.builder
    signal, window = context.input(0), context.optional(2)
    if signal.type.rank == 2:
        signal = context.reshape(signal, (*signal.type.shape, 1))
    (step,) = context.integers_at(1, "a step")
    if context.optional(3) is not None:
        (length,) = context.integers_at(3, "a frame length")
    elif window is not None and isinstance(window.type.numel, int):
        length = window.type.numel
    else:
        context.unsupported("neither a window nor a frame length is given")
    if step < 1 or length < 1:
        context.wrong(f"frames of {length} elements, {step} apart")
    frames = dims.floordiv(signal.type.shape[1] - length, step) + 1
    starts = b.apply("iota", shape=(frames, length), axis=0, dtype=i64)
    inside = b.apply("iota", shape=(frames, length), axis=1, dtype=i64)
    places = b.apply("add", binary(b, "mul", starts, step), inside)
    framed = b.apply("gather", signal, places, axis=1)  # [batch, frames, length, parts]
    if window is not None:
        framed = context.elementwise("mul", framed, context.reshape(window, (length, 1)))
    onesided = bool(context.integer("onesided", 1))
    return _transformed(context, framed, length, inverse=False, onesided=onesided)


@rule("MelWeightMatrix")
def read_mel_weight_matrix(context: NodeContext) -> Value:
    """Triangles over the bins of a spectrum, evenly spread on the mel scale."""
    names = ("bands", "a length", "a sample rate", "a lower edge", "an upper edge")
    given = [context.constant_array(at, name).reshape(-1)[0] for at, name in enumerate(names)]
    bands, length, rate = (int(number) for number in given[:3])
    if bands < 1 or length < 1 or rate < 1:
        context.wrong(f"{bands} bands of a spectrum of {length} at {rate} samples a second")
    edges = 2595 * np.log10(1 + np.array([float(number) for number in given[3:]]) / 700)
    mels = np.arange(bands + 2) * ((edges[1] - edges[0]) / (bands + 2)) + edges[0]
    frequencies = 700 * (10 ** (mels / 2595) - 1)
    bins = ((length + 1) * frequencies // rate).astype(int)
    matrix = np.zeros((length // 2 + 1, bands))
    for band in range(bands):
        low, middle, high = bins[band : band + 3]
        if low == middle:
            matrix[middle, band] = 1
        else:
            rising = np.arange(low, middle + 1)
            matrix[rising, band] = (rising - low) / (middle - low)
        if high > middle:
            falling = np.arange(middle, high)
            matrix[falling, band] = (high - falling) / (high - middle)
    dtype = context.dtype("output_datatype", f32)
    return context.builder.constant(matrix.astype(dtype.numpy))
