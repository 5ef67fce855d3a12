"""Products of float32 numbers in three bf16 parts, on the emulator: as exact as multiply-adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, TensorType, bf16, f32
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.device import contraction as schedule
from bessemer.compiler.schedule.device.contraction_parts import split_constant
from bessemer.compiler.schedule.device.contraction_tiles import Choice, candidates
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import split_array
from bessemer.compiler.targets.nvptx import SM75, SM80, SM90A, DeviceTarget
from bessemer.runtime.cuda.model import DeviceModel
from emulator.driver import EmulatedDriver
from emulator.instructions import matrix, wgmma
from tests.device.device_contraction_cases import (
    Convolution,
    Product,
    check,
    tile_name,
)

WARPS = Tile("mma", 32, 32, 16, 4, (2, 2))
GROUPS = Tile("wgmma", 64, 32, 64, 4, (1, 1))
ADDS = Tile("simt", 32, 32, 8, 4, (2, 1))


def forced(monkeypatch: pytest.MonkeyPatch, tile: Tile, split: int = 1) -> None:
    """Every contraction takes this tile."""
    monkeypatch.setattr(schedule, "choose", lambda *_: Choice(tile, split, 0.0))


SLOW = pytest.mark.slow


def few(first: Product | Convolution, *others: Product | Convolution) -> list[Any]:
    """One case among the quick tests, the others among the slow ones."""
    return [first, *(pytest.param(case, marks=SLOW) for case in others)]


BY_WARPS = few(
    Product(33, 17, 9, residual=True),
    *(
        Product(40, 24, 20, weights=False, transposed=(left, right))
        for left in (False, True)
        for right in (False, True)
    ),
    Product(9, 12, 24, batch=(2, 3), shared=True),
    Convolution((1, 5, 4, 3), 6, (3, 2), (2, 1), low=(1, 0), high=(0, 1)),
    Convolution((1, 6, 6, 32), 32, groups=4),
    Convolution((1, 6, 6, 4), 6, dilations=(2, 2), low=(2, 1)),
)


@pytest.mark.parametrize("case", BY_WARPS, ids=str)
def test_warps_split_what_they_load(
    case: Product | Convolution, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch, WARPS)
    check(case, SM80, rng)


BY_GROUPS = few(
    Product(9, 11, 200, residual=True),
    Product(70, 40, 64),
    Product(40, 24, 72, batch=(3,), weights=False, transposed=(False, True)),
    Product(17, 40, 64, batch=(2, 3), shared=True),
    Convolution((2, 9, 7, 24), 16, strides=(2, 2)),
    Convolution((3, 5, 5, 64), 40, (1, 1), low=(0, 0)),
    Convolution((2, 1, 9, 64), 16, (1, 3), low=(0, 1)),
)


@pytest.mark.parametrize("case", BY_GROUPS, ids=str)
def test_warpgroups_multiply_parts_that_copies_bring(
    case: Product | Convolution, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch, GROUPS)
    check(case, SM90A, rng)


TILES = [
    *(
        (tile, SM80, Product(tile.rows + 9, tile.columns + 8, 24))
        for tile in candidates("mma", f32, SM80)
    ),
    *(
        (tile, SM90A, Product(tile.rows + 20, tile.columns + 24, 72))
        for tile in candidates("wgmma", bf16, SM90A, 3)
    ),
]


@SLOW
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


@SLOW
@pytest.mark.parametrize(("tile", "target"), [(WARPS, SM80), (GROUPS, SM90A)], ids=tile_name)
def test_a_split_depth(
    tile: Tile, target: DeviceTarget, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch, tile, 2)
    check(Product(20, 12, 200, residual=True), target, rng)


# Exactness


def _computed(
    x: Array, w: Array, tile: Tile, target: DeviceTarget, monkeypatch: pytest.MonkeyPatch
) -> Array:
    """x @ w on the emulator."""
    b = GraphBuilder("product")
    y = b.apply("matmul", b.input("x", TensorType(f32, x.shape)), b.constant(w))
    forced(monkeypatch, tile)
    made = build_for_device(b.finish([y], ["y"]), Options(), target)
    found: Array = DeviceModel(made.artifact, made.weights, EmulatedDriver()).run([x])[0]
    return found


def _cut(sums: Array, product: Array, name: str) -> Array:
    """sums + product as matrix units are known to add: what does not fit is cut off."""
    assert name == "f32"
    total = sums.view(np.float32).astype(np.float64) + product
    near = total.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(total)
    return np.where(beyond, np.nextafter(near, np.float32(0)), near).view(np.uint32)


@SLOW
@pytest.mark.parametrize("positive", [False, True], ids=["both signs", "one sign"])
@pytest.mark.parametrize(("tile", "target"), [(WARPS, SM80), (GROUPS, SM90A)], ids=tile_name)
def test_it_is_as_exact_as_multiply_adds(
    tile: Tile, target: DeviceTarget, positive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on units that cut off: long sums of one sign show it most."""
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((16, 384), (384, 16)))
    if positive:
        x, w = abs(x), abs(w)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    for module in (matrix, wgmma):
        monkeypatch.setattr(module, "add_product", _cut)
    errors = [
        np.linalg.norm(_computed(x, w, one, target, monkeypatch) - exact) for one in (tile, ADDS)
    ]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize(("tile", "target"), [(WARPS, SM80), (GROUPS, SM90A)], ids=tile_name)
def test_infinities_nan_and_overflow_are_as_in_ieee(
    tile: Tile, target: DeviceTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((20, 72), (72, 16)))
    x[0, 3], x[1, 5], x[2, 7], w[9, 4] = np.inf, -np.inf, np.nan, np.inf
    x[3, 9] = 0.0  # times infinity
    x[4], x[5, 1], w[:, 6] = 3e38, np.finfo(np.float32).max, 3.0
    x[6, :], x[6, 2] = 0.0, np.finfo(np.float32).max
    w[2, 7] = 1.0
    expected = np.zeros((20, 16), np.float32)
    with np.errstate(all="ignore"):
        for k in range(72):
            products = x[:, k : k + 1].astype(np.float64) * w[k]
            expected = (expected + products).astype(np.float32)
    found = _computed(x, w, tile, target, monkeypatch)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(found[infinite], expected[infinite])
    finite = np.isfinite(expected)
    assert finite.any()
    np.testing.assert_allclose(found[finite], expected[finite], rtol=2e-5)


def test_constants_are_split_as_everything_else() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal(4000).astype(np.float32) * np.exp2(rng.integers(-60, 60, 4000))
    x = x.astype(np.float32)
    np.testing.assert_array_equal(
        split_constant(x).view(np.uint16), split_array(x).reshape(-1).view(np.uint16)
    )
    x[7], x[9], x[11] = np.inf, np.nan, np.finfo(np.float32).max
    found = split_constant(x).astype(np.float64).reshape(3, -1)
    wanted = split_array(x).astype(np.float64)
    np.testing.assert_array_equal(found, wanted)


# What the model chooses


def _levels(graph: Graph, target: DeviceTarget, **options: Any) -> set[str]:
    program = build_device_program(graph, target, **options)
    bodies = [step.kernel.body for step in program.steps if isinstance(step, Launch)]
    return {s.tile.level for body in bodies for s in walk(body) if isinstance(s, Contract)}


def test_the_model_takes_it_where_it_beats_multiply_adds() -> None:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(f32, (4096, 4096))) for name in "xy")
    graph = b.finish([b.apply("matmul", x, b.apply("transpose", y, permutation=(1, 0)))], ["z"])
    assert _levels(graph, SM90A) == {"wgmma"}
    assert _levels(graph, SM80) == {"mma"}
    assert _levels(graph, SM75) == {"simt"}
    for target in (SM80, SM90A):
        assert _levels(graph, target, precision="strict") == {"simt"}


def test_what_several_products_read_is_split_once() -> None:
    b = GraphBuilder("products")
    x = b.input("x", TensorType(f32, (4096, 1024)))
    weights = [np.zeros((1024, 1024), np.float32)] * 2
    y = [b.apply("matmul", x, b.constant(w)) for w in weights]
    program = build_device_program(b.finish(y, ["y", "z"]), SM90A)
    names = [step.kernel.name for step in program.steps if isinstance(step, Launch)]
    assert names.count("split") == 1
    assert len(names) == 3
