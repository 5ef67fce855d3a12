"""Products and convolutions on GPUs: three levels on the emulator, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.driver import build
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.loops import Contract, For
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.types import TensorType, bf16, f32, i32, u8
from bessemer.compiler.options import Options, Tuning
from bessemer.compiler.schedule.device import contraction as schedule
from bessemer.compiler.schedule.device.contraction_tiles import Choice, candidates
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.targets.nvptx import SM75, SM80, SM90A, DeviceTarget
from tests.device.device_contraction_cases import (
    BF16,
    F16,
    F64,
    Convolution,
    Product,
    check,
    convolved,
    numbers,
    product_graph,
    tile_name,
    wide,
)
from tests.device_runs import run_device_graph

SIMT = [
    Product(33, 17, 9),
    Product(2, 4, 3),
    Product(65, 40, 16, residual=True),
    Product(40, 24, 20, transposed=(True, False), weights=False),
    Product(40, 24, 20, transposed=(False, True), weights=False),
    Product(36, 28, 12, transposed=(True, True), weights=False, residual=True),
    Product(9, 10, 11, batch=(2, 3), weights=False),
    Product(9, 12, 8, batch=(2, 3), shared=True),
    Product(20, 12, 8, batch=(2,), weights=False, transposed=(False, True)),
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
        Product(40, 24, 32, dtype, weights=False, transposed=(left, right))
        for dtype in (BF16, F16)
        for left in (False, True)
        for right in (False, True)
    ),
    Product(33, 17, 9, BF16),
    Product(33, 18, 10, F16),
    Product(70, 72, 100, BF16, residual=True),
    Product(130, 40, 64, BF16, batch=(2,), weights=False),
    Product(17, 24, 40, F16, batch=(2, 2), shared=True),
    Product(17, 24, 40, BF16, batch=(3, 2), weights=False, transposed=(True, False)),
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
        Product(40, 24, 20, weights=False, transposed=(left, right))
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
    Product(5, 8, 128, BF16, weights=False, transposed=(False, True)),
    Product(40, 24, 72, F16, batch=(3,), weights=False, transposed=(False, True)),
    Product(17, 40, 64, BF16, batch=(2, 3), weights=False, transposed=(False, True)),
    Product(17, 40, 64, BF16, batch=(2, 3), shared=True),
    Product(40, 24, 64, BF16, weights=False),
    Product(40, 24, 64, BF16, weights=False, transposed=(True, False)),
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


DEPTHWISE = [
    Convolution((1, 5, 6, 8), 8, groups=8),
    Convolution((1, 6, 5, 8), 8, (3, 3), (2, 1), groups=8, dtype=BF16),
]


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise_convolutions(case: Convolution, rng: np.random.Generator) -> None:
    check(case, SM80, rng)


@pytest.mark.parametrize("target", [SM80, SM90A], ids=lambda target: target.name)
@pytest.mark.parametrize(
    "case", [Product(1, 300, 256, BF16), Product(1, 24, 40), Product(9, 1, 40)]
)
def test_a_row_or_a_column(case: Product, target: DeviceTarget, rng: np.random.Generator) -> None:
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


@pytest.mark.parametrize("target", [SM80, SM90A], ids=lambda target: target.name)
@pytest.mark.parametrize("step", [1, 2])
def test_the_gradient_of_a_convolutions_weight(
    step: int, target: DeviceTarget, rng: np.random.Generator
) -> None:
    """Its depth are images and pixels, and its rows channels: neighbours in memory."""
    size = 4 * step
    x, dy = numbers(rng, (2, size, size, 8), BF16), numbers(rng, (2, 4, 4, 16), BF16)
    b = GraphBuilder("gradient")
    image, weight = (
        b.apply("transpose", b.input(name, TensorType(bf16, a.shape)), permutation=order)
        for name, a, order in (("x", x, (3, 1, 2, 0)), ("dy", dy, (1, 2, 0, 3)))
    )
    taps = b.apply(
        "conv", image, weight, strides=(1, 1), dilations=(step, step), low=(1, 1),
        high=(2 - step, 2 - step), groups=1, dtype=f32,
    )  # fmt: skip
    graph = b.finish([b.apply("transpose", taps, permutation=(1, 2, 0, 3))], ["dw"])
    padded = np.pad(wide(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros(tuple(int(str(n)) for n in graph.outputs[0].type.shape))
    for i, j in np.ndindex(*expected.shape[:2]):
        seen = padded[:, i : i + 3 * step + 1 : step, j : j + 3 * step + 1 : step]
        expected[i, j] = np.einsum("npqc,npqo->co", seen, wide(dy))
    (actual,) = run_device_graph(graph, [x, dy], target)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", [SM80, SM90A], ids=lambda target: target.name)
def test_the_gradient_of_a_convolutions_input(
    target: DeviceTarget, rng: np.random.Generator
) -> None:
    """Its weight is read backwards, its channels change places."""
    dy, w = numbers(rng, (1, 5, 6, 64), BF16), numbers(rng, (3, 3, 16, 64), BF16)
    b = GraphBuilder("gradient")
    values = [b.input(n, TensorType(bf16, a.shape)) for n, a in (("dy", dy), ("w", w))]
    flipped = b.apply("slice", values[1], starts=(2, 2, 0, 0), shape=w.shape, steps=(-1, -1, 1, 1))
    transposed = b.apply("transpose", flipped, permutation=(0, 1, 3, 2))
    ones = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    graph = b.finish([b.apply("conv", values[0], transposed, **ones, groups=1, dtype=f32)], ["dx"])
    case = Convolution((1, 5, 6, 64), 16, dtype=BF16)
    expected = convolved(case, dy, w[::-1, ::-1].transpose(0, 1, 3, 2))
    (actual,) = run_device_graph(graph, [dy, w], target)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


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
    np.testing.assert_allclose(wide(actual), wide(array) @ wide(w), rtol=2.0**-8, atol=1e-4)


@pytest.mark.parametrize("target", [SM80, SM90A], ids=lambda target: target.name)
def test_one_compilation_serves_all_numbers_of_images(
    target: DeviceTarget, rng: np.random.Generator
) -> None:
    b = GraphBuilder("images")
    w = numbers(rng, (3, 3, 64, 16), BF16)
    x = b.input("x", TensorType(bf16, (symbol("n"), 6, 5, 64)))
    ones = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    y = b.apply("conv", x, b.constant(w), **ones, groups=1, dtype=f32)
    graph = b.finish([b.apply("relu", y)], ["y"])
    for images in (1, 3):
        array = numbers(rng, (images, 6, 5, 64), BF16)
        (actual,) = run_device_graph(graph, [array], target)
        expected = np.maximum(convolved(Convolution(array.shape, 16, dtype=BF16), array, w), 0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


def test_processors_refuse_tf32() -> None:
    rng = np.random.default_rng(0)
    graph, _, _ = product_graph(Product(4, 4, 4), rng)
    with pytest.raises(CompileError, match="precision='tf32' is for GPUs"):
        build(graph, Options(precision="tf32"))


def test_a_tuner_may_choose_among_a_few_tiles() -> None:
    b = GraphBuilder("product")
    x, w = (b.input(name, TensorType(bf16, (4096, 4096))) for name in "xw")
    graph = b.finish([b.apply("matmul", x, w)], ["y"])
    program = build_device_program(graph, SM90A, tuning=Tuning(explore=True))
    (decision,) = program.decisions
    assert 1 < len(decision.others) < 12
    for other in decision.others:
        tuned = build_device_program(graph, SM90A, tuning=Tuning({decision.signature: other}))
        (loop,) = tuned.steps[0].kernel.body  # type: ignore[union-attr]
        assert isinstance(loop, For)
        (contract,) = loop.body
        assert isinstance(contract, Contract)
        assert contract.tile.rows == other["tile_rows"]
        assert contract.tile.columns == other["tile_columns"]
