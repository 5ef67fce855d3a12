"""Spectra: DFT and STFT, and the mel filter bank."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_fourier import (
    LARGEST_FACTOR,
    can_be_transformed,
    fourier_transform,
    real_signal,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.registry import rule


def _length_at(context: NodeContext, position: int) -> Size:
    sizes = context.known_sizes(position)
    return sizes[0] if sizes else context.integers_at(position, "a length")[0]


def _resized(context: NodeContext, x: Value, axis: int, length: Size) -> Value:
    """An axis cut, or filled up with zeros, to a length."""
    size = x.type.shape[axis]
    if size == length:
        return x
    high: list[Size] = [0] * x.type.rank
    high[axis] = length - size
    low = (0,) * x.type.rank
    return context.apply("pad", x, low=low, high=tuple(high), mode="constant", value=0)


def _check_length(context: NodeContext, length: int) -> None:
    if not can_be_transformed(length):
        most = f"no product of two numbers from 1 to {LARGEST_FACTOR}"
        context.unsupported(f"a transform of length {length}, {most}")


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
    inverse = bool(context.integer("inverse"))
    onesided = bool(context.integer("onesided"))
    size = x.type.shape[axis]
    length = 2 * (size - 1) if inverse and onesided else size
    if context.optional(1) is not None:
        length = _length_at(context, 1)
    if isinstance(length, int):
        _check_length(context, length)
    order = (*(at for at in range(rank - 1) if at != axis), axis, rank - 1)
    bins = dims.floordiv(length, 2) + 1 if inverse and onesided else length
    moved = context.transpose(_resized(context, x, axis, bins), order)
    if inverse and onesided:
        result = real_signal(context.builder, moved, length)
    else:
        result = fourier_transform(context.builder, moved, inverse=inverse, onesided=onesided)
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
    _check_length(context, length)
    frames = dims.floordiv(signal.type.shape[1] - length, step) + 1
    starts = b.apply("iota", shape=(frames, length), axis=0, dtype=i64)
    inside = b.apply("iota", shape=(frames, length), axis=1, dtype=i64)
    places = b.apply("add", binary(b, "mul", starts, step), inside)
    framed = b.apply("gather", signal, places, axis=1)  # [batch, frames, length, parts]
    if window is not None:
        framed = context.elementwise("mul", framed, context.reshape(window, (length, 1)))
    onesided = bool(context.integer("onesided"))
    return fourier_transform(b, framed, inverse=False, onesided=onesided)


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
    dtype = context.dtype("output_datatype")
    return context.builder.constant(matrix.astype(dtype.numpy))
