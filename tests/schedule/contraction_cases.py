"""Contractions to test: matrix products and convolutions with their arrays and their result.

The reference is NumPy in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.contraction_axes import product_axes, window_axes
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer, Expression, binary
from bessemer.compiler.ir.loops import Kernel, Store
from bessemer.compiler.ir.types import DType, bf16, f32, f64, i8, i16, i32, u8
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    Epilogue,
    RowAxis,
    with_group,
)
from bessemer.compiler.schedule.contraction.microkernel import lower_contraction
from bessemer.compiler.schedule.contraction.packing import pack, packed_shape
from bessemer.compiler.schedule.contraction.tiles import plan
from bessemer.compiler.targets.machine import Target

Array = npt.NDArray[Any]
Pair = tuple[DType, DType]
PAIRS: tuple[tuple[DType, Pair], ...] = (
    (f32, (bf16, bf16)),
    (i32, (u8, i8)),
    (i32, (i8, u8)),
    (i32, (i8, i8)),
    (i32, (u8, u8)),
    (i32, (i16, i16)),
)
"""Types of sums and of narrower operands."""


def _named(pair: Pair | None) -> str:
    return "" if pair is None else f"-{pair[0]}-{pair[1]}"


@dataclass(frozen=True)
class Product:
    """batch x [m, k] x [k, n]; `shared`: one right side for all. `dynamic` names symbolic sizes."""

    m: int
    n: int
    k: int
    batch: int = 0
    shared: bool = False
    dynamic: str = ""
    dtype: DType = f32
    pair: Pair | None = None

    def __str__(self) -> str:
        batch = f"{self.batch}x" if self.batch else ""
        kind = f"{'-shared' * self.shared}-{self.dynamic}{_named(self.pair)}"
        return f"{batch}{self.m}x{self.n}x{self.k}{kind}"


@dataclass(frozen=True)
class Convolution:
    """A channels-last convolution of an input that needs no padding.

    `border`: the result is the inside of a larger tensor with this border, so that the rows of its
    pixels do not follow each other in memory.
    """

    shape: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    border: int = 0
    dynamic: str = ""
    dtype: DType = f32
    pair: Pair | None = None

    def __str__(self) -> str:
        numbers = (self.shape, self.outputs, self.kernel, self.strides, self.dilations)
        text = "-".join(str(n).replace(" ", "") for n in numbers)
        return f"{text}-g{self.groups}-b{self.border}-{self.dynamic}{_named(self.pair)}"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A kernel's contraction, its inputs in the kernel's order, and what must come out."""

    contraction: Contraction
    inputs: tuple[Array, ...]
    buffers: tuple[Buffer, ...]
    sizes: Mapping[str, int]
    expected: Array
    scale: Array

    def kernel(self, target: Target, threads: int = 2) -> tuple[Kernel, tuple[Array, ...]]:
        """The kernel for a machine, and its inputs: x, packed weights, others."""
        draft = with_group(self.contraction, target)
        group, run = draft.group, evaluate_named(draft.run, self.sizes)
        tiling = plan(draft, target, threads)
        weights = pack(self.inputs[1], tiling.panel, group, run)
        matrices = len(self.inputs[1])
        shape = packed_shape(matrices, draft.depth_steps, draft.columns, tiling.panel, group)
        packed = replace(draft.b, shape=shape)
        body = lower_contraction(replace(draft, b=packed), tiling, target)
        x, _, *others = self.buffers
        kernel = Kernel("tested", (x, packed, *others), 1, tuple(self.sizes), body)
        return kernel, (self.inputs[0], weights, *self.inputs[2:])


def random_product(rng: np.random.Generator) -> Product:
    """Sizes up to 70, a few of them symbolic."""
    m, n, k = (int(size) for size in rng.integers(1, 71, 3))
    dynamic = "".join(name for name in "mnk" if rng.random() < 0.25)
    batch = int(rng.integers(2, 5)) if rng.random() < 0.3 else 0
    shared = batch > 0 and rng.random() < 0.5
    dtype = f64 if rng.random() < 0.2 else f32
    found, pair = random_types(rng, dtype)
    return Product(m, max(2, n), k, batch, shared, dynamic, found, pair)


def random_convolution(rng: np.random.Generator) -> Convolution:
    """Kernels up to 4 x 4 with strides, dilations and groups, on images that just hold them."""
    kernel, strides, dilations = (
        (int(pair[0]), int(pair[1])) for pair in rng.integers(1, (5, 4, 3), (2, 3)).T
    )
    high, wide = (
        (taps - 1) * dilation + 1 + stride * int(rng.integers(0, 20))
        for taps, stride, dilation in zip(kernel, strides, dilations)
    )
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, outputs = groups * int(rng.integers(1, 12)), groups * int(rng.integers(2, 40))
    dynamic = "".join(name for name in "nhw" if rng.random() < 0.2)
    border = int(rng.integers(0, 2))
    shape = (int(rng.integers(1, 4)), high, wide, channels)
    types = random_types(rng, f32)
    return Convolution(shape, outputs, kernel, strides, dilations, groups, border, dynamic, *types)


def random_types(rng: np.random.Generator, dtype: DType) -> tuple[DType, Pair | None]:
    """As often as not, another type of sums with narrower operands."""
    if rng.random() < 0.5:
        return dtype, None
    return PAIRS[int(rng.integers(len(PAIRS)))]


def prepare(case: Product | Convolution, rng: np.random.Generator) -> Prepared:
    """Random arrays for a case, and its result."""
    match case:
        case Product():
            return _prepare_product(case, rng)
        case Convolution():
            return _prepare_convolution(case, rng)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Normal numbers; of integers all that 8 bits hold."""
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    low, high = (0, 255) if dtype.kind == "u" else (-128, 127)
    return rng.integers(low, high, shape, dtype.numpy, endpoint=True)


def _symbols(names: str, sizes: Mapping[str, int]) -> dict[str, Size]:
    return {name: symbol(name) if name in names else size for name, size in sizes.items()}


def draft_of(
    a: Buffer,
    rows: Sequence[RowAxis],
    depth: Sequence[DepthAxis],
    columns: int,
    epilogue: Epilogue = lambda *_: (),
) -> Contraction:
    """A contraction of float32 numbers that stores nothing unless told."""
    return Contraction(
        dtype=f32,
        a=a,
        a_base=0,
        rows=tuple(rows),
        depth=tuple(depth),
        columns=columns,
        b=Buffer("b", f32, (1,)),
        epilogue=epilogue,
    )


def _prepare_product(case: Product, rng: np.random.Generator) -> Prepared:
    known = {"m": case.m, "n": case.n, "k": case.k}
    size = _symbols(case.dynamic, known)
    batch = (case.batch,) if case.batch else ()
    left, right_type = case.pair or (case.dtype, case.dtype)
    a = Buffer("a", left, (*batch, size["m"], size["k"]))
    b = Buffer("b", right_type, (1,))
    bias = Buffer("bias", case.dtype, (size["n"],))
    out = Buffer("out", case.dtype, (*batch, size["m"], size["n"]))
    leading = [(extent, size["m"] * size["k"], 0 if case.shared else 1) for extent in batch]
    rows, depth = product_axes(leading, size["m"], size["k"])

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*row, column), binary("max", total + bias[column], 0)),)

    matrices = 1 if case.shared or not case.batch else case.batch
    x = _random(rng, (*batch, case.m, case.k), left)
    w = _random(rng, (matrices, case.k, case.n), right_type)
    shift = _random(rng, (case.n,), case.dtype)
    right = w if batch and not case.shared else w[0]
    expected = np.maximum(x.astype(np.float64) @ right.astype(np.float64) + shift, 0)
    scale = np.abs(x.astype(np.float64)) @ np.abs(right.astype(np.float64))
    scale += np.abs(shift.astype(np.float64))
    return Prepared(
        Contraction(
            dtype=case.dtype,
            a=a,
            a_base=0,
            rows=rows,
            depth=depth,
            columns=size["n"],
            b=b,
            epilogue=epilogue,
        ),
        (x, w, shift),
        (a, b, bias, out),
        {name: known[name] for name in case.dynamic},
        expected,
        scale,
    )


def _prepare_convolution(case: Convolution, rng: np.random.Generator) -> Prepared:
    known = dict(zip("nhw", case.shape[:3]))
    size = _symbols(case.dynamic, known)
    channels, groups = case.shape[3], case.groups
    left, right = case.pair or (case.dtype, case.dtype)
    a = Buffer("a", left, (*size.values(), channels))
    rows, depth = window_axes(a.shape, case.kernel, case.strides, case.dilations, groups)
    columns = case.outputs // groups
    high, wide = rows[-2].extent, rows[-1].extent
    edge = 2 * case.border
    out = Buffer("out", case.dtype, (size["n"], high + edge, wide + edge, case.outputs))

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        image, y, x = row[-3:]
        first = row[0] * columns if groups > 1 else 0
        at = (image, y + case.border, x + case.border, first + column)
        return (Store(out, at, total),)

    taps = case.kernel[0] * case.kernel[1]
    x = _random(rng, case.shape, left)
    w = _random(rng, (groups, taps * channels // groups, columns), right)
    b = Buffer("b", right, (1,))
    return Prepared(
        Contraction(
            dtype=case.dtype,
            a=a,
            a_base=0,
            rows=rows,
            depth=depth,
            columns=columns,
            b=b,
            epilogue=epilogue,
        ),
        (x, w),
        (a, b, out),
        {name: known[name] for name in case.dynamic},
        _convolve(case, x.astype(np.float64), w.astype(np.float64)),
        _convolve(case, np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64))),
    )


def _convolve(case: Convolution, x: Array, w: Array) -> Array:
    """By the definition: a product with the weights of each tap."""
    count, high, wide, channels = case.shape
    (kh, kw), (sh, sw), (dh, dw) = case.kernel, case.strides, case.dilations
    oh, ow = (high - (kh - 1) * dh - 1) // sh + 1, (wide - (kw - 1) * dw - 1) // sw + 1
    grouped = x.reshape(count, high, wide, case.groups, channels // case.groups)
    result = np.zeros((count, oh, ow, case.groups, case.outputs // case.groups))
    taps = w.reshape(case.groups, kh, kw, channels // case.groups, -1)
    for i, j in product(range(kh), range(kw)):
        rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
        columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
        result += np.einsum("nhwgc,gco->nhwgo", grouped[:, rows, columns], taps[:, i, j])
    return result.reshape(count, oh, ow, case.outputs)
