"""Contractions to test on GPUs: graphs with their inputs and their results in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.types import Array, TensorType, dtype_of
from bessemer.compiler.targets.nvptx import DeviceTarget
from tests.device_runs import run_device_graph

BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64 = (np.dtype(name) for name in ("f2", "f4", "f8"))
TOLERANCES = {BF16: 8e-3, F16: 1e-3, F32: 1e-6, F64: 1e-14}
"""Of the whole result: rounded once behind float32 sums."""


@dataclass(frozen=True)
class Product:
    """[batch..., m, k] x [batch..., k, n], as transposes where so said; `weights`: a constant."""

    m: int
    n: int
    k: int
    dtype: Any = F32
    batch: tuple[int, ...] = ()
    shared: bool = False
    weights: bool = True
    transposed: tuple[bool, bool] = (False, False)
    residual: bool = False

    def __str__(self) -> str:
        transposed = "".join("t" if t else "n" for t in self.transposed)
        batch = "x".join(map(str, self.batch)) + "-" * bool(self.batch)
        return f"{batch}{self.m}x{self.n}x{self.k}-{self.dtype}-{transposed}{'-w' * self.weights}"


@dataclass(frozen=True)
class Convolution:
    """Channels last; with a bias and a rectifier behind it."""

    shape: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    low: tuple[int, int] = (1, 1)
    high: tuple[int, int] | None = None
    groups: int = 1
    dtype: Any = F32

    def __str__(self) -> str:
        shape, kernel, strides, dilations, low = (
            "x".join(map(str, one))
            for one in (self.shape, self.kernel, self.strides, self.dilations, self.low)
        )
        rest = f"g{self.groups}-{self.dtype}"
        return f"{shape}-{self.outputs}-k{kernel}-s{strides}-d{dilations}-p{low}-{rest}"


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def wide(array: Array) -> Array:
    return array.astype(np.float64)


def _input(b: GraphBuilder, arrays: list[Array], array: Array) -> Value:
    arrays.append(array)
    return b.input(f"x{len(arrays)}", TensorType(dtype_of(array), array.shape))


def _transposed_if(b: GraphBuilder, value: Value, transposed: bool) -> Value:
    rank = value.type.rank
    order = (*range(rank - 2), rank - 1, rank - 2)
    return b.apply("transpose", value, permutation=order) if transposed else value


def product_graph(case: Product, rng: np.random.Generator) -> tuple[Graph, list[Array], Array]:
    """The graph, its inputs, and the result in float64."""
    b, arrays = GraphBuilder("product"), list[Array]()
    shapes = [(*case.batch, case.m, case.k), (*case.batch * (not case.shared), case.k, case.n)]
    sides = [numbers(rng, shape, case.dtype) for shape in shapes]
    stored = [
        np.ascontiguousarray(np.swapaxes(a, -1, -2)) if t else a
        for a, t in zip(sides, case.transposed, strict=True)
    ]
    left = _transposed_if(b, _input(b, arrays, stored[0]), case.transposed[0])
    right = b.constant(stored[1]) if case.weights else _input(b, arrays, stored[1])
    y = b.apply("matmul", left, _transposed_if(b, right, case.transposed[1]))
    expected = wide(sides[0]) @ wide(sides[1])
    if case.residual:
        residual = numbers(rng, expected.shape, case.dtype)
        y = b.apply("relu", b.apply("add", y, _input(b, arrays, residual)))
        expected = np.maximum(expected.astype(case.dtype).astype(np.float64) + wide(residual), 0)
    return b.finish([y], ["y"]), arrays, expected


def convolved(case: Convolution, x: Array, w: Array) -> Array:
    """The sums in float64."""
    high = case.high or case.low
    padded = np.pad(wide(x), ((0, 0), *zip(case.low, high, strict=True), (0, 0)))
    counts = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(
            padded.shape[1:3], case.kernel, case.strides, case.dilations, strict=True
        )
    ]
    inputs, columns = w.shape[2], case.outputs // case.groups
    out = np.zeros((len(x), *counts, case.outputs))
    for i, j in np.ndindex(*case.kernel):
        rows, across = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip((i, j), case.dilations, counts, case.strides, strict=True)
        )
        for g in range(case.groups):
            here = slice(g * columns, (g + 1) * columns)
            seen = padded[:, rows, across, g * inputs : (g + 1) * inputs]
            out[..., here] += seen @ wide(w[i, j])[:, here]
    return out


def convolution_graph(
    case: Convolution, rng: np.random.Generator
) -> tuple[Graph, list[Array], Array]:
    """The same of a convolution."""
    b, arrays = GraphBuilder("convolution"), list[Array]()
    x = numbers(rng, case.shape, case.dtype)
    w = numbers(rng, (*case.kernel, case.shape[-1] // case.groups, case.outputs), case.dtype)
    bias = numbers(rng, (case.outputs,), case.dtype)
    y = b.apply(
        "conv",
        _input(b, arrays, x),
        b.constant(w),
        strides=case.strides,
        dilations=case.dilations,
        low=case.low,
        high=case.high or case.low,
        groups=case.groups,
    )
    sums = convolved(case, x, w)
    y = b.apply("add", y, b.apply("broadcast_to", b.constant(bias), shape=y.type.shape))
    expected = np.maximum(sums.astype(case.dtype).astype(np.float64) + wide(bias), 0)
    return b.finish([b.apply("relu", y)], ["y"]), arrays, expected


def check(
    case: Product | Convolution,
    target: DeviceTarget,
    rng: np.random.Generator,
    tolerance: float | None = None,
    **options: Any,
) -> None:
    """Runs a case in four schedules and compares."""
    make = product_graph if isinstance(case, Product) else convolution_graph
    graph, arrays, expected = make(case, rng)  # type: ignore[arg-type]
    (actual,) = run_device_graph(graph, arrays, target, **options)
    error = np.linalg.norm(wide(actual) - expected) / np.linalg.norm(expected)
    assert error < (tolerance or TOLERANCES[case.dtype])


def tile_name(value: object) -> str:
    """Short names of parameters."""
    if isinstance(value, Tile):
        return f"{value.level}-{value.rows}x{value.columns}x{value.depth}"
    return value.name if isinstance(value, DeviceTarget) else str(value)
