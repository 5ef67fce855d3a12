"""Matrix products at every level of tensor cores, and ResNet-50's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gemm import RESNET50
from benchmarks.gpu.cases import SAMPLES, Case, Sample, graph_of, numbers, picked, wide
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of
from bessemer.compiler.options import Precision

BF16 = bf16.numpy
TOLERANCES = {"float32": 3e-6, "tf32": 2e-3, "bfloat16": 4e-3}

SMALL = ((1, 9, 8, 16, 3, 2, 1), (1, 6, 16, 8, 1, 1, 0))

Layer = tuple[int, int, int, int, int, int, int]


def gemm_cases(small: bool) -> list[Case]:
    """f32 in three bf16 parts, and without tensor cores; bf16 by mma and, where the device has it,
    by wgmma; tf32."""
    sizes = ((70, 48, 40),) if small else ((1024,) * 3, (4096,) * 3, (8192,) * 3)
    odd = (
        () if small else ((128, 3072, 768), (4096, 768, 3072), (1000, 1001, 1003), (1, 4096, 4096))
    )
    found = [_gemm(size, "float32") for size in (*sizes, *odd)]
    found += [_gemm(size, "float32", precision="strict") for size in sizes[:2]]
    found += [_gemm(size, "float32", "nvptx:sm_80") for size in sizes[:2]]
    found += [_gemm(size, "bfloat16") for size in (*sizes, *odd)]
    found += [_gemm(size, "bfloat16", "nvptx:sm_80") for size in sizes]
    return [*found, *(_gemm(size, "tf32") for size in sizes)]


def _gemm(
    size: tuple[int, ...], arithmetic: str, level: str = "", precision: Precision = "float32"
) -> Case:
    """x [m, k] @ w [k, n]; w is a weight, as in networks."""
    m, n, k = size
    dtype = BF16 if arithmetic == "bfloat16" else np.dtype(np.float32)

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        rows = picked(m)
        return [Sample(0, rows, wide(arrays[0][rows]) @ wide(arrays[1]))]

    kind = TensorType(dtype_of(np.empty(0, dtype)), (m, k))
    precision = "tf32" if arithmetic == "tf32" else precision
    how = " mma" if level else " strict" if precision == "strict" else ""
    return Case(
        f"{arithmetic}{how} {m}x{n}x{k}",
        lambda w: graph_of(lambda b, x, held: b.apply("matmul", x, held), [kind], [w]),
        lambda: [numbers((m, k), dtype), numbers((k, n), dtype, 1)],
        reference,
        TOLERANCES[arithmetic],
        2.0 * m * n * k,
        arithmetic=arithmetic,
        precision=precision,
        level=level,
        held=1,
        peer=None if how else lambda torch: torch.matmul,
        is_compiled=False,
    )


def convolution_cases(small: bool) -> list[Case]:
    """All layers of ResNet-50 at batch 1 and 64; channels last."""
    batches = (2,) if small else (1, 64)
    layers = SMALL if small else RESNET50
    return [
        _convolution(layer, batch, arithmetic)
        for batch in batches
        for arithmetic in ("bfloat16", "float32")
        for layer in layers
    ]


def _convolution(layer: Layer, batch: int, arithmetic: str) -> Case:
    _, side, channels, outputs, taps, stride, padding = layer
    dtype = BF16 if arithmetic == "bfloat16" else np.dtype(np.float32)
    shape = (batch, side, side, channels)
    pixels = (side + 2 * padding - taps) // stride + 1
    attributes = {
        "strides": (stride, stride), "dilations": (1, 1), "low": (padding, padding),
        "high": (padding, padding), "groups": 1,
    }  # fmt: skip

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        return [_sampled(arrays[0], wide(arrays[1]), stride, padding, pixels)]

    kind = TensorType(dtype_of(np.empty(0, dtype)), shape)
    return Case(
        f"{arithmetic} b{batch} {side}x{side}x{channels}->{outputs} {taps}x{taps}/{stride}",
        lambda w: graph_of(lambda b, x, h: b.apply("conv", x, h, **attributes), [kind], [w]),
        lambda: [numbers(shape, dtype), numbers((taps, taps, channels, outputs), dtype, 1)],
        reference,
        TOLERANCES[arithmetic],
        2.0 * batch * pixels**2 * outputs * channels * taps**2,
        arithmetic=arithmetic,
        held=1,
        peer=lambda torch: _convolution_peer(torch, stride, padding),
        is_compiled=False,
    )


def _sampled(x: Array, w: Array, stride: int, padding: int, pixels: int) -> Sample:
    """Some of the result's pixels, from their windows."""
    batch, side = x.shape[0], x.shape[1]
    taps = w.shape[0]
    chosen = picked(batch * pixels**2, SAMPLES)
    image, row, column = np.unravel_index(chosen, (batch, pixels, pixels))
    expected = np.zeros((len(chosen), w.shape[-1]))
    for r in range(taps):
        for s in range(taps):
            y, z = row * stride + r - padding, column * stride + s - padding
            inside = (y >= 0) & (y < side) & (z >= 0) & (z < side)
            values = wide(x[image, np.clip(y, 0, side - 1), np.clip(z, 0, side - 1)])
            expected += (values * inside[:, None]) @ w[r, s]
    return Sample(0, (image, row, column), expected)


def _convolution_peer(torch: Any, stride: int, padding: int) -> Any:
    """cuDNN's, channels last too: the axes' order is a view. The weight is brought to that order
    once, as ours is packed once."""
    kept: list[Any] = []

    def run(x: Any, w: Any) -> Any:
        if not kept:
            turned = w.permute(3, 2, 0, 1)
            kept.append(turned.contiguous(memory_format=torch.channels_last))
        image = x.permute(0, 3, 1, 2)
        return torch.nn.functional.conv2d(image, kept[0], stride=stride, padding=padding)

    return run
