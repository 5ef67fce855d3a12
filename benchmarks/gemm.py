"""Matrix products and ResNet-50's convolutions as kernels, and their results in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.contraction_axes import product_axes, window_axes
from benchmarks.machine_code import (
    Array,
    Call,
    Function,
    aligned,
    load_kernel,
)
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, binary
from bessemer.compiler.ir.loops import Kernel, Store
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.contraction.contraction import Contraction, Epilogue
from bessemer.compiler.schedule.contraction.microkernel import lower_contraction
from bessemer.compiler.schedule.contraction.packing import pack, packed_shape
from bessemer.compiler.schedule.contraction.tiles import Tiling, plan
from bessemer.compiler.targets.machine import Target

PRODUCTS = (  # m, n, k
    (512, 512, 512), (1024, 1024, 1024), (3136, 256, 64), (3136, 64, 576), (196, 256, 1024),
    (49, 512, 2048), (49, 2048, 512), (128, 3072, 768), (128, 768, 3072), (2048, 2048, 2048),
    (1, 4096, 4096), (1, 1024, 256), (8, 1024, 1024), (100, 10, 512),
)  # fmt: skip
RESNET50 = (  # how many, pixels a side, channels, outputs, taps a side, stride, padding
    (1, 224, 3, 64, 7, 2, 3), (1, 56, 64, 64, 1, 1, 0), (3, 56, 64, 64, 3, 1, 1),
    (4, 56, 64, 256, 1, 1, 0), (2, 56, 256, 64, 1, 1, 0), (1, 56, 256, 128, 1, 1, 0),
    (1, 56, 128, 128, 3, 2, 1), (1, 56, 256, 512, 1, 2, 0), (4, 28, 128, 512, 1, 1, 0),
    (3, 28, 512, 128, 1, 1, 0), (3, 28, 128, 128, 3, 1, 1), (1, 28, 512, 256, 1, 1, 0),
    (1, 28, 256, 256, 3, 2, 1), (1, 28, 512, 1024, 1, 2, 0), (6, 14, 256, 1024, 1, 1, 0),
    (5, 14, 1024, 256, 1, 1, 0), (5, 14, 256, 256, 3, 1, 1), (1, 14, 1024, 512, 1, 1, 0),
    (1, 14, 512, 512, 3, 2, 1), (1, 14, 1024, 2048, 1, 2, 0), (3, 7, 512, 2048, 1, 1, 0),
    (2, 7, 2048, 512, 1, 1, 0), (2, 7, 512, 512, 3, 1, 1),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """A contraction with bias and relu, its arrays, and its result in float64."""

    name: str
    count: int
    contraction: Contraction
    a: Array
    b: Array
    bias: Array
    out: Buffer
    expected: Array

    @property
    def operations(self) -> float:
        """Multiplications and additions, as the model counts them."""
        return 2.0 * math.prod(self.expected.shape) * len(self.b)


def product_work(m: int, n: int, k: int, rng: np.random.Generator) -> Work:
    """relu(a @ b + bias)."""
    a = rng.standard_normal((m, k), dtype=np.float32)
    b = rng.standard_normal((k, n), dtype=np.float32)
    bias = rng.standard_normal(n, dtype=np.float32)
    out = Buffer("out", f32, (m, n))
    rows, depth = product_axes((), m, k)
    x = Buffer("a", f32, (m, k))
    contraction = Contraction(
        dtype=f32,
        a=x,
        a_base=0,
        rows=rows,
        depth=depth,
        columns=n,
        b=Buffer("b", f32, (1,)),
        epilogue=_relu(out),
    )
    expected = np.maximum(a.astype(np.float64) @ b + bias, 0)
    return Work(f"{m} x {n} x {k}", 1, contraction, a, b, bias, out, expected)


def convolution_work(layer: tuple[int, ...], rng: np.random.Generator) -> Work:
    """relu(conv(x, w) + bias), where x has been padded by its producer."""
    count, side, channels, columns, taps, stride, padding = layer
    wide = side + 2 * padding
    x = rng.standard_normal((1, wide, wide, channels), dtype=np.float32)
    w = rng.standard_normal((taps, taps, channels, columns), dtype=np.float32)
    bias = rng.standard_normal(columns, dtype=np.float32)
    kernel, strides = (taps, taps), (stride, stride)
    rows, depth = window_axes(x.shape, kernel, strides, (1, 1))
    outputs = (wide - taps) // stride + 1
    out = Buffer("out", f32, (1, outputs, outputs, columns))
    buffer = Buffer("a", f32, x.shape)
    epilogue = _relu(out)
    contraction = Contraction(
        dtype=f32,
        a=buffer,
        a_base=0,
        rows=rows,
        depth=depth,
        columns=columns,
        b=Buffer("b", f32, (1,)),
        epilogue=epilogue,
    )
    expected = np.zeros((1, outputs, outputs, columns)) + bias
    for i in range(taps):
        for j in range(taps):
            last = (outputs - 1) * stride + 1
            inputs = x[:, i : i + last : stride, j : j + last : stride].astype(np.float64)
            expected += inputs @ w[i, j]
    b = w.reshape(-1, columns)
    expected = np.maximum(expected, 0)
    return Work(layer_name(layer), count, contraction, x, b, bias, out, expected)


def layer_name(layer: tuple[int, ...]) -> str:
    """Such as "56 64->64 3x3 s1"."""
    _, side, channels, columns, taps, stride, _ = layer
    return f"{side} {channels}->{columns} {taps}x{taps} s{stride}"


def _relu(out: Buffer) -> Epilogue:
    bias = Buffer("bias", f32, out.shape[-1:])

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*row, column), binary("max", total + bias[column], 0.0)),)

    return epilogue


@dataclass(frozen=True, eq=False)
class Ready:
    """A compiled work."""

    function: Function
    call: Call
    out: Array
    tiling: Tiling


def compile_work(work: Work, target: Target, tiling: Tiling | None = None) -> Ready:
    """Compiles for the tiling that the model chooses, or for another one."""
    tiling = tiling or plan(work.contraction, target, 1)
    columns = work.b.shape[1]
    shape = packed_shape(1, len(work.b), columns, tiling.panel)
    b = Buffer("b", f32, shape)
    contraction = replace(work.contraction, b=b)
    body = lower_contraction(contraction, tiling, target)
    bias = Buffer("bias", f32, (columns,))
    kernel = Kernel("tested", (contraction.a, b, bias, work.out), 1, (), body)
    function = load_kernel(kernel, target)
    out = aligned(work.expected.shape)
    arrays = []
    for array in (work.a, pack(work.b, tiling.panel), work.bias):
        arrays.append(aligned(array.shape))
        arrays[-1][...] = array
    extent = kernel.parallel_extent
    assert isinstance(extent, int)
    return Ready(function, Call(function, (*arrays, out), extent), out, tiling)


def error(work: Work, ready: Ready) -> float:
    """The relative error in the 2-norm."""
    ready.call()
    difference = float(np.linalg.norm(ready.out - work.expected))
    return difference / float(np.linalg.norm(work.expected))
