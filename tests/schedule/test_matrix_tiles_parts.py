"""Float32 as three parts on tiles: packing, splitting, errors, infinities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import Array, bf16, f32, i8, u8
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import PartsLayout
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    HALF,
    SPLIT,
    Runs,
    TileForm,
    pack,
    pack_body,
    packed_shape,
    split_array,
)
from bessemer.compiler.targets import x86
from tests.amx_emulation import needs_emulator
from tests.compiled_kernels import HERE, CompiledKernel
from tests.schedule.tiled_contractions import halves, plain, run_compiled, tiled

EDGES = np.array(
    [0.0, -0.0, 1.0, -1.5, 3.4028235e38, -3.4028235e38, 3.39e38, 3.3895e38, np.inf, -np.inf,
     1e-30, -3e-30, 1 + 2.0**-23, 2.0**-100, 65535.99],
    np.float32,
)  # fmt: skip


def test_three_parts_add_up_to_the_number_itself(rng: np.random.Generator) -> None:
    x = np.concatenate([EDGES, rng.standard_normal(2000).astype(np.float32)])
    total = split_array(x).astype(np.float64).sum(axis=0)
    np.testing.assert_array_equal(total, x.astype(np.float64))
    first, second, third = split_array(np.array([np.nan, np.inf], np.float32))
    assert np.isnan(first[0]) and np.isposinf(first[1])
    assert not second.any() and not third.any()


@needs_emulator
def test_the_machine_splits_like_numpy(rng: np.random.Generator) -> None:
    x = np.concatenate([EDGES, [np.nan], rng.standard_normal(9000)]).astype(np.float32)
    count = dims.symbol("n")
    source, parts = Buffer("x", f32, (count,)), Buffer("parts", bf16, (3, count))
    body, _ = PartsLayout(count, SPLIT).split_body(source, parts, 16)
    kernel = Kernel("split", (source, parts), 1, ("n",), body)
    verify_kernel(kernel)
    out = np.zeros((3, x.size), bf16.numpy)
    for result in (
        run_kernel(kernel, [x], {"n": x.size}).outputs[0],
        CompiledKernel(kernel, x86.AMX)([x, out], {"n": x.size}).arrays[1],
    ):
        np.testing.assert_array_equal(result.view(np.uint16), split_array(x).view(np.uint16))


def _packs(form: TileForm, b: Array, interpreted: bool) -> None:
    matrices, depth, columns = b.shape
    runs = Runs(2, depth // 2, form.depth)
    panel = 16 if columns <= 16 else 32
    shape = packed_shape(form, runs, matrices, columns, panel)
    dtype = f32 if form is SPLIT else form.right
    source, out = Buffer("b", dtype, b.shape), Buffer("out", form.right, shape)
    lanes = HERE[-1].lanes(f32)
    body, _ = pack_body(lambda *index: source[index], form, runs, out, columns, lanes)
    flat_out = Buffer("out", form.right, (dims.product(shape),))
    kernel = Kernel("pack", (source, flat_out), 1, (), body)
    verify_kernel(kernel)
    expected = pack(b, form, runs, panel)
    assert expected.shape == shape
    if interpreted:
        result = run_kernel(kernel, [b], {}).outputs[0]
    else:
        place = np.zeros(expected.size, form.right.numpy)
        result = CompiledKernel(kernel, HERE[-1])([b, place]).arrays[1]
    np.testing.assert_array_equal(result, expected.reshape(-1))


@pytest.mark.parametrize(("k", "columns"), [(64, 40), (70, 16), (250, 33)])
@pytest.mark.parametrize("form", [HALF, SPLIT, TileForm(u8, i8)], ids=["bf16", "bf16x3", "u8"])
def test_packing_at_run_time_is_packing(
    k: int, columns: int, form: TileForm, rng: np.random.Generator
) -> None:
    dtype = f32 if form is SPLIT else form.right
    _packs(form, (rng.standard_normal((2, 2 * k, columns)) * 40).astype(dtype.numpy), False)


def test_the_packing_kernel_means_packing(rng: np.random.Generator) -> None:
    _packs(HALF, rng.standard_normal((1, 66, 5)).astype(bf16.numpy), True)


def _error(result: Array, exact: Array) -> float:
    return float(np.linalg.norm(result - exact) / np.linalg.norm(exact))


@needs_emulator
@pytest.mark.parametrize("data", ["normal", "positive", "cancelling"])
@pytest.mark.parametrize(("m", "k"), [(64, 512), (49, 2304), (32, 64)])
def test_the_error_is_at_most_that_of_float32_arithmetic(
    data: str, m: int, k: int, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((m, k)).astype(np.float32)
    w = rng.standard_normal((1, k, 64)).astype(np.float32)
    if data == "positive":
        x, w = abs(x), abs(w)
    if data == "cancelling":
        half = k // 2
        noise = (1e-4 * rng.standard_normal((m, half))).astype(np.float32)
        x[:, half:] = -x[:, :half] * (1 + noise)
        w[:, half:] = w[:, :half]
    prepared = plain(m, k, 64, rng)
    exact = x.astype(np.float64) @ w[0].astype(np.float64)
    kernel, inputs, _ = tiled(replace(prepared, inputs=(x, w)), SPLIT, (x, w))
    ours = _error(run_compiled(kernel, inputs, {}), exact)
    fused, arrays = replace(prepared, inputs=(x, w)).kernel(x86.AVX512)
    out = np.zeros((m, 64), np.float32)
    theirs = _error(CompiledKernel(fused, x86.AVX512)([*arrays, out]).arrays[-1], exact)
    assert ours <= theirs


@needs_emulator
@pytest.mark.parametrize("form", [HALF, SPLIT], ids=["bf16", "bf16x3"])
@pytest.mark.parametrize("m", [64, 40, 5])
def test_infinities_and_nan_are_ieees(form: TileForm, m: int, rng: np.random.Generator) -> None:
    k = 70
    prepared = plain(m, k, 40, rng)
    x, w = (np.where(array == 0, 1, array) for array in prepared.inputs)
    if form is HALF:
        x, w = halves(x), halves(w)
    # In the elements that the last, overlapping step reads again, too.
    x[1, 3], x[2, 40], x[m - 1, 69], x[3, 41] = np.inf, -np.inf, np.inf, np.nan
    x[4, 5], x[4, 6] = np.inf, -np.inf
    w[0, 7, 33] = np.inf
    kernel, inputs, _ = tiled(replace(prepared, inputs=(x, w)), form, (x, w))
    with np.errstate(all="ignore"):
        exact = (x.astype(np.float64)[:, :, None] * w[0].astype(np.float64)).sum(axis=1)
    result = run_compiled(kernel, inputs, {})
    assert np.isinf(exact).any() and np.isnan(exact).any()
    np.testing.assert_allclose(result, exact, 1e-4, 1e-4)


@needs_emulator
def test_the_largest_numbers_are_not_lost(rng: np.random.Generator) -> None:
    prepared = plain(32, 64, 32, rng)
    x, w = prepared.inputs
    w = w * np.float32(0.01)
    x[0, 0], x[1, 1], x[2, 2:4] = 3.4e38, -3.4028235e38, [3e38, -3e38]
    kernel, inputs, _ = tiled(replace(prepared, inputs=(x, w)), SPLIT, (x, w))
    result = run_compiled(kernel, inputs, {})
    exact = x.astype(np.float64) @ w[0].astype(np.float64)
    assert np.all(abs(result - exact) <= 3e-7 * (abs(x).astype(np.float64) @ abs(w[0])))
    # Sums that are too large are infinite, whatever the parts' products make of them.
    w[:, 0, :] = 10
    kernel, inputs, _ = tiled(replace(prepared, inputs=(x, w)), SPLIT, (x, w))
    result = run_compiled(kernel, inputs, {})
    assert np.all(np.isposinf(result[0]))
    assert np.all(np.isfinite(result[1:]))
