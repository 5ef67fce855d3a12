"""Products and convolutions on GPUs: three levels on the emulator, against float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.driver import build
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.loops import For
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of, f32, i32, u8
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.device import contraction as schedule
from bessemer.compiler.schedule.device.contraction_tiles import Choice, candidates
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.targets.nvptx import SM75, SM80, SM90A, DeviceTarget
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
    turned: tuple[bool, bool] = (False, False)
    residual: bool = False

    def __str__(self) -> str:
        turned = "".join("t" if t else "n" for t in self.turned)
        batch = "x".join(map(str, self.batch)) + "-" * bool(self.batch)
        return f"{batch}{self.m}x{self.n}x{self.k}-{self.dtype}-{turned}{'-w' * self.weights}"


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


def _turn(b: GraphBuilder, value: Value, turned: bool) -> Value:
    rank = value.type.rank
    order = (*range(rank - 2), rank - 1, rank - 2)
    return b.apply("transpose", value, permutation=order) if turned else value


def product_graph(case: Product, rng: np.random.Generator) -> tuple[Graph, list[Array], Array]:
    """The graph, its inputs, and the result in float64."""
    b, arrays = GraphBuilder("product"), list[Array]()
    shapes = [(*case.batch, case.m, case.k), (*case.batch * (not case.shared), case.k, case.n)]
    sides = [numbers(rng, shape, case.dtype) for shape in shapes]
    stored = [
        np.ascontiguousarray(np.swapaxes(a, -1, -2)) if t else a
        for a, t in zip(sides, case.turned, strict=True)
    ]
    left = _turn(b, _input(b, arrays, stored[0]), case.turned[0])
    right = b.constant(stored[1]) if case.weights else _input(b, arrays, stored[1])
    y = b.apply("matmul", left, _turn(b, right, case.turned[1]))
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


SIMT = [
    Product(33, 17, 9),
    Product(2, 4, 3),
    Product(65, 40, 16, residual=True),
    Product(40, 24, 20, turned=(True, False), weights=False),
    Product(40, 24, 20, turned=(False, True), weights=False),
    Product(36, 28, 12, turned=(True, True), weights=False, residual=True),
    Product(9, 10, 11, batch=(2, 3), weights=False),
    Product(9, 12, 8, batch=(2, 3), shared=True),
    Product(20, 12, 8, batch=(2,), weights=False, turned=(False, True)),
    Product(18, 10, 8, F64),
    Convolution((1, 5, 6, 4), 8),
    Convolution((2, 4, 4, 1), 5, low=(0, 0)),
    Convolution((1, 5, 4, 3), 6, (3, 2), (2, 1), low=(1, 0), high=(0, 1)),
    Convolution((1, 6, 6, 4), 6, dilations=(2, 2), low=(2, 1)),
    Convolution((1, 4, 4, 8), 8, groups=2),
    Convolution((2, 5, 5, 6), 10, (1, 1), (2, 2), low=(0, 0)),
]


@pytest.mark.parametrize("case", SIMT, ids=str)
def test_multiply_adds(case: Product | Convolution, rng: np.random.Generator) -> None:
    check(case, SM80, rng)


@pytest.mark.parametrize("case", [SIMT[0], SIMT[3], SIMT[10], Product(33, 18, 12, BF16)], ids=str)
def test_multiply_adds_without_asynchronous_copies(
    case: Product | Convolution, rng: np.random.Generator
) -> None:
    check(case, SM75, rng)


MATRIX = [
    *(
        Product(40, 24, 32, dtype, weights=False, turned=(left, right))
        for dtype in (BF16, F16)
        for left in (False, True)
        for right in (False, True)
    ),
    Product(33, 17, 9, BF16),
    Product(33, 18, 10, F16),
    Product(70, 72, 100, BF16, residual=True),
    Product(130, 40, 64, BF16, batch=(2,), weights=False),
    Product(17, 24, 40, F16, batch=(2, 2), shared=True),
    Product(17, 24, 40, BF16, batch=(3, 2), weights=False, turned=(True, False)),
    Product(2, 2, 2, BF16),
    Convolution((1, 6, 5, 16), 24, dtype=BF16),
    Convolution((2, 9, 8, 3), 16, (7, 7), (2, 2), low=(3, 3), dtype=BF16),
    Convolution((2, 6, 6, 1), 8, (5, 5), low=(2, 2), dtype=BF16),
    Convolution((1, 7, 6, 5), 9, (3, 3), (2, 1), low=(1, 0), high=(0, 2), dtype=BF16),
    Convolution((1, 6, 6, 12), 20, (3, 3), dilations=(2, 1), low=(2, 1), dtype=BF16),
    Convolution((2, 5, 5, 16), 24, (1, 1), (2, 2), low=(0, 0), dtype=BF16),
    Convolution((1, 6, 6, 32), 32, groups=4, dtype=BF16),
    Convolution((1, 1, 9, 16), 8, (1, 4), low=(0, 1), high=(0, 2), dtype=F16),
]


@pytest.mark.parametrize("case", MATRIX, ids=str)
def test_warps_multiply_tiles(case: Product | Convolution, rng: np.random.Generator) -> None:
    check(case, SM80, rng)


TF32 = [
    *(
        Product(40, 24, 20, weights=False, turned=(left, right))
        for left in (False, True)
        for right in (False, True)
    ),
    Product(33, 17, 9),
    Product(40, 33, 40, residual=True),
    Convolution((1, 6, 5, 8), 12),
    Convolution((1, 6, 5, 3), 12, strides=(2, 2)),
]


@pytest.mark.parametrize("target", [SM80, SM90A], ids=lambda target: target.name)
@pytest.mark.parametrize("case", TF32, ids=str)
def test_tf32_is_used_where_it_is_asked_for(
    case: Product | Convolution, target: DeviceTarget, rng: np.random.Generator
) -> None:
    check(case, target, rng, 3e-3, precision="tf32")


WARPGROUPS = [
    Product(70, 40, 64, BF16),
    Product(70, 40, 64, F16, residual=True),
    Product(200, 136, 96, BF16),
    Product(33, 17, 72, BF16, residual=True),
    Product(64, 64, 8, BF16),
    Product(5, 8, 128, BF16, weights=False, turned=(False, True)),
    Product(40, 24, 72, F16, batch=(3,), weights=False, turned=(False, True)),
    Product(17, 40, 64, BF16, batch=(2, 3), weights=False, turned=(False, True)),
    Product(17, 40, 64, BF16, batch=(2, 3), shared=True),
    Product(40, 24, 64, BF16, weights=False),
    Product(40, 24, 64, BF16, weights=False, turned=(True, False)),
    Product(9, 11, 600, BF16),
    Convolution((1, 6, 5, 64), 16, dtype=BF16),
    Convolution((2, 9, 7, 24), 16, strides=(2, 2), dtype=BF16),
    Convolution((2, 9, 7, 64), 16, (1, 1), (2, 2), low=(0, 0), dtype=BF16),
    Convolution((3, 5, 5, 64), 40, (1, 1), low=(0, 0), dtype=F16),
    Convolution((2, 1, 9, 64), 16, (1, 3), low=(0, 1), dtype=BF16),
    Convolution((1, 8, 9, 128), 64, groups=2, dtype=BF16),
    Convolution((1, 9, 9, 32), 24, (3, 2), (1, 2), (2, 1), (2, 0), (1, 1), dtype=BF16),
    Convolution((2, 6, 6, 3), 16, (3, 3), dtype=BF16),
    Convolution((2, 10, 9, 16), 8, (5, 5), (1, 1), low=(0, 0), dtype=BF16),
]


@pytest.mark.parametrize("case", WARPGROUPS, ids=str)
def test_warpgroups_multiply_what_copies_bring(
    case: Product | Convolution, rng: np.random.Generator
) -> None:
    check(case, SM90A, rng)


def forced(monkeypatch: pytest.MonkeyPatch, tile: Tile, split: int = 1) -> None:
    """Every contraction takes this tile."""
    monkeypatch.setattr(schedule, "choose", lambda *_: Choice(tile, split, 0.0))


TILES = [
    *(
        (tile, SM90A, Product(tile.rows + 20, tile.columns + 24, 80, BF16))
        for tile in candidates("wgmma", bf16, SM90A)
    ),
    *(
        (tile, SM80, Product(tile.rows + 9, tile.columns + 8, 40, BF16))
        for tile in candidates("mma", bf16, SM80)
    ),
    *(
        (tile, SM80, Product(tile.rows + 5, tile.columns + 3, 12))
        for tile in candidates("simt", f32, SM80)
    ),
]


def tile_name(value: object) -> str:
    """Short names of parameters."""
    if isinstance(value, Tile):
        return f"{value.level}-{value.rows}x{value.columns}x{value.depth}"
    return value.name if isinstance(value, DeviceTarget) else str(value)


@pytest.mark.parametrize(("tile", "target", "case"), TILES, ids=tile_name)
def test_every_tile_is_right(
    tile: Tile,
    target: DeviceTarget,
    case: Product,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forced(monkeypatch, tile)
    check(case, target, rng)


@pytest.mark.parametrize("split", [2, 3])
@pytest.mark.parametrize(
    ("tile", "target", "case"),
    [
        (Tile("simt", 32, 32, 8, 4, (2, 1)), SM80, Product(20, 12, 44, residual=True)),
        (Tile("mma", 32, 32, 32, 4, (2, 2)), SM80, Product(20, 12, 200, BF16, residual=True)),
        (Tile("mma", 32, 32, 32, 4, (2, 2)), SM80, Convolution((1, 5, 5, 16), 8, dtype=BF16)),
        (Tile("wgmma", 64, 32, 64, 4, (1, 1)), SM90A, Product(40, 40, 328, BF16)),
        (Tile("wgmma", 64, 32, 64, 4, (1, 1)), SM90A, Convolution((1, 5, 5, 64), 8, dtype=BF16)),
    ],
    ids=tile_name,
)
def test_a_split_depth_is_added_up(
    split: int,
    tile: Tile,
    target: DeviceTarget,
    case: Product | Convolution,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forced(monkeypatch, tile, split)
    check(case, target, rng)


def test_the_model_splits_what_leaves_processors_idle() -> None:
    rng = np.random.default_rng(0)
    graph, _, _ = product_graph(Product(32, 32, 8192, BF16), rng)
    (loop,) = build_device_program(graph, SM80).steps[0].kernel.body  # type: ignore[union-attr]
    assert isinstance(loop, For)
    assert loop.extent != 1


def test_integers_are_added_up_exactly(rng: np.random.Generator) -> None:
    b = GraphBuilder("integers")
    left, right = rng.integers(0, 256, (20, 33)), rng.integers(-128, 128, (33, 12))
    x = b.input("x", TensorType(u8, left.shape))
    w = b.constant(right.astype(np.int8))
    graph = b.finish([b.apply("matmul", x, w, dtype=i32)], ["y"])
    (actual,) = run_device_graph(graph, [left.astype(np.uint8)], SM80)
    np.testing.assert_array_equal(actual, left @ right)


@pytest.mark.parametrize("target", [SM80, SM90A], ids=lambda target: target.name)
@pytest.mark.parametrize("rows", [3, 70])
def test_one_compilation_serves_all_batches(
    rows: int, target: DeviceTarget, rng: np.random.Generator
) -> None:
    b = GraphBuilder("batches")
    w = numbers(rng, (64, 24), BF16)
    x = b.input("x", TensorType(bf16, (symbol("n"), 64)))
    graph = b.finish([b.apply("matmul", x, b.constant(w))], ["y"])
    array = numbers(rng, (rows, 64), BF16)
    (actual,) = run_device_graph(graph, [array], target)
    np.testing.assert_allclose(wide(actual), wide(array) @ wide(w), rtol=0, atol=0.3)


def test_processors_refuse_tf32() -> None:
    rng = np.random.default_rng(0)
    graph, _, _ = product_graph(Product(4, 4, 4), rng)
    with pytest.raises(CompileError, match="precision='tf32' is for GPUs"):
        build(graph, Options(precision="tf32"))
