"""Winograd's products on a matrix unit: under the emulator, against float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.driver import build
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.loops import Kernel, Store
from bessemer.compiler.ir.types import Array, TensorType, bf16, f32
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.options import Options, Precision
from bessemer.compiler.schedule.contraction.packing import pack
from bessemer.compiler.schedule.convolution import winograd_tiles
from bessemer.compiler.schedule.convolution.winograd import (
    lower_winograd,
    winograd_tiling,
)
from bessemer.compiler.schedule.convolution.winograd_taps import Taps
from bessemer.compiler.schedule.convolution.winograd_weights import transform_weights
from bessemer.compiler.schedule.convolution.winograd_work import Winograd
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from bessemer.frontends.cli.compiler_steps import schedule
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.amx_emulation import counts, emulator, needs_emulator, reset
from tests.compiled_kernels import CompiledKernel
from tests.schedule.test_matrix_tiles_networks import Sketch, loaded, runs_to, uses_tiles


def run(x: Array, w: Array, on_tiles: bool, target: Target, dilation: int = 1) -> tuple[Array, int]:
    """conv(x, w) by machine code, and of how many kernels."""
    down, across = (Taps(count, dilation) for count in w.shape[:2])
    images, *size, channels = x.shape
    rows, wide = (n - 2 * dilation * (k == 3) for n, k in zip(size, w.shape[:2]))
    columns = w.shape[-1]
    source, out = Buffer("x", f32, x.shape), Buffer("out", f32, (images, rows, wide, columns))

    def element(n: Size, row: Size, column: Size, channel: Size) -> Expression:
        return source[n, row, column, channel]

    def epilogue(at: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*at, column), total),)

    sizes, none = (images, rows, wide), Buffer("u", f32, (1,))
    draft = Winograd(element, sizes, channels, columns, none, epilogue, (down, across))
    u = transform_weights(w)
    if on_tiles:
        packed = winograd_tiles.pack_points(u)
    else:
        packed = pack(u, winograd_tiling(draft, target).panel)
    weights = Buffer("u", bf16 if on_tiles else f32, packed.shape)
    stages = lower_winograd(replace(draft, u=weights, on_tiles=on_tiles), target, 1)
    buffers = (source, weights, stages.v, stages.m, out)
    shapes = [TensorType(b.dtype, b.shape).static_shape for b in buffers]
    arrays = [x, packed, *(np.full(s, 77, b.dtype.numpy) for s, b in zip(shapes[2:], buffers[2:]))]
    for body in stages.bodies:
        kernel = Kernel("tested", buffers, 3, (), body)
        verify_kernel(kernel)
        arrays = list(CompiledKernel(kernel, target)(arrays).arrays)
    return arrays[-1], len(stages.bodies)


def exact(x: Array, w: Array, dilation: int = 1) -> Array:
    rows, wide = (n - 2 * dilation * (k == 3) for n, k in zip(x.shape[1:], w.shape[:2]))
    total = np.zeros((len(x), rows, wide, w.shape[-1]))
    for i, j in product(*map(range, w.shape[:2])):
        part = x[:, i * dilation : i * dilation + rows, j * dilation : j * dilation + wide]
        total += part.astype(np.float64) @ w[i, j].astype(np.float64)
    return total


@needs_emulator
@pytest.mark.parametrize(
    ("outputs", "taps", "channels", "columns", "dilation", "cache"),
    [
        pytest.param((1, 9, 10), (3, 3), 96, 64, 1, 2 << 20, marks=pytest.mark.slow),
        ((2, 15, 17), (3, 3), 64, 64, 1, 128 << 10),
        ((1, 13, 12), (3, 3), 32, 32, 2, 2 << 20),
        pytest.param((3, 1, 90), (1, 3), 64, 96, 1, 128 << 10, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_is_as_exact_as_on_the_vector_unit(
    outputs: tuple[int, int, int],
    taps: tuple[int, int],
    channels: int,
    columns: int,
    dilation: int,
    cache: int,
    rng: np.random.Generator,
) -> None:
    """In three kernels, and in one, whose last block computes some tiles again."""
    emulator()
    target = replace(x86.AMX, l2_bytes=cache)
    images, *size = outputs
    padded = (n + 2 * dilation * (k == 3) for n, k in zip(size, taps))
    x = rng.standard_normal((images, *padded, channels)).astype(np.float32)
    w = rng.standard_normal((*taps, channels, columns)).astype(np.float32)
    expected = exact(x, w, dilation)
    reset()
    ours, kernels = run(x, w, True, target, dilation)
    assert counts()["product"] > 0 and kernels == (3 if cache > 1 << 20 else 1)
    theirs, _ = run(x, w, False, target, dilation)
    ours_error, their_error = (np.linalg.norm(y - expected) for y in (ours, theirs))
    assert ours_error <= 1.02 * their_error


@needs_emulator
@pytest.mark.slow
def test_infinities_and_large_numbers_do_what_they_do_on_the_vector_unit(
    rng: np.random.Generator,
) -> None:
    emulator()
    x = rng.standard_normal((1, 12, 11, 32)).astype(np.float32)
    w = rng.standard_normal((3, 3, 32, 32)).astype(np.float32)
    x[0, 5, 6, 7], x[0, 1, 1, 3], x[0, 9, 9, 9] = np.inf, 1e38, np.nan
    ours, theirs = (run(x, w, on_tiles, x86.AMX)[0] for on_tiles in (True, False))
    assert np.isfinite(theirs).any() and not np.isfinite(theirs).all()
    np.testing.assert_allclose(ours, theirs, 1e-4, 1e-4)


def network(dtype: Any) -> Sketch:
    net = Sketch((1, 64, 12, 13), dtype)
    before = net.add("Relu")
    net.conv(64, 96, 3)
    net.add("Relu")
    net.conv(96, 64, 3)
    net.add("Add", before)
    return net


@needs_emulator
@pytest.mark.slow
def test_networks_take_them_but_strict_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator()
    monkeypatch.setattr(winograd_tiles, "is_faster", lambda *_: True)
    x = np.random.default_rng(5).standard_normal((1, 64, 12, 13)).astype(np.float32)

    def result(precision: Precision, threads: int) -> Array:
        options = Options(target="x86_64-amx", precision=precision, verify=True)
        made = build(read_onnx(network(np.float32).model()), options)
        assert uses_tiles(made) == (2 if precision == "float32" else 0)
        return runs_to(loaded(made, threads), x)

    one, two = result("float32", 1), result("float32", 2)
    np.testing.assert_array_equal(one.view(np.uint32), two.view(np.uint32))
    np.testing.assert_allclose(one, result("strict", 1), 1e-5, 1e-5)


def test_it_is_for_layers_whose_weights_do_not_come_too_slowly() -> None:
    for tiles, channels in ((784, 64), (196, 128), (49, 256)):
        assert winograd_tiles.is_faster(16, tiles, channels, channels, x86.AMX)
    for tiles, channels in ((16384, 32), (16, 512)):
        assert not winograd_tiles.is_faster(16, tiles, channels, channels, x86.AMX)
    assert winograd_tiles.fits(96, 64)
    assert not winograd_tiles.fits(48, 64) and not winograd_tiles.fits(64, 40)


def test_the_unit_computes_what_segments_of_taps_would_not_compute_sooner() -> None:
    def choices(channels: int, *taps: int) -> list[str]:
        net = Sketch((1, channels, 24, 24), np.float32)
        pads = [*(count // 2 for count in taps), 0, 0]  # padding puts channels last
        net.add("Conv", net.weights(channels, channels, *taps), pads=pads)
        made = schedule(read_onnx(net.model()), Options(target="x86_64-amx"))
        return [name for one in made.program.decisions for name, used in one.choice.items() if used]

    assert choices(16, 5, 5) == choices(64, 5, 5) == ["winograd"]
    assert choices(128, 2, 2) == ["winograd", "tiles"]
    assert choices(64, 5, 1) == ["tiles"]
