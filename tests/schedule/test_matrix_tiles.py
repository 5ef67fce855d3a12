"""Contractions on a matrix unit's tiles: interpreted, and compiled for AMX under the emulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.types import DType, bf16, f32, i8, i32, u8
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import parts_layout
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    HALF,
    SPLIT,
    TileForm,
    split_array,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import (
    SPLIT_NUMBER,
    is_faster,
    plan_tiles,
)
from bessemer.compiler.targets import x86
from tests.amx_emulation import counts, needs_emulator, reset
from tests.compiled_kernels import assembly
from tests.schedule.contraction_cases import (
    Convolution,
    Product,
    prepare,
)
from tests.schedule.tiled_contractions import CASES, blocked, check, run_compiled, tiled


@needs_emulator
@pytest.mark.parametrize("form", [HALF, SPLIT], ids=["bf16", "bf16x3"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_machine_code_computes_the_sums(
    case: Product | Convolution, form: TileForm, rng: np.random.Generator
) -> None:
    prepared = prepare(case, rng)
    a, b = prepared.inputs[:2]
    kernel, inputs, _ = tiled(prepared, form, (a, b))
    result = run_compiled(kernel, inputs, prepared.sizes)
    check(case, prepared, result, 3e-7 if form is SPLIT else 2.0**-7)


BLOCKED = (
    *(case for case in CASES if isinstance(case, Product) or case.groups == 1),
    Product(40, 20, 7),
    Product(5, 17, 31, batch=2, dynamic="m"),
    Convolution((1, 9, 9, 3), 20),
    Convolution((1, 20, 5, 40), 20, (3, 5)),
)


@needs_emulator
@pytest.mark.parametrize("case", BLOCKED, ids=str)
def test_parts_by_blocks_of_channels_give_the_same_sums(
    case: Product | Convolution, rng: np.random.Generator
) -> None:
    prepared = prepare(case, rng)
    split, kernel, inputs, layout = blocked(prepared, prepared.inputs[:2])
    a = inputs[0]
    assert layout.channels == a.shape[-1]
    padded = np.zeros((a.size // a.shape[-1], layout.blocks * 32), np.float32)
    padded[:, : a.shape[-1]] = a.reshape(-1, a.shape[-1])
    expected = split_array(padded.reshape(-1, layout.blocks, 32)).transpose(2, 0, 1, 3)
    parts = run_compiled(split, [a.reshape(-1)], prepared.sizes)
    np.testing.assert_array_equal(parts[:, :, : len(padded)], expected)
    result = run_compiled(kernel, [parts.reshape(-1), *inputs[1:]], prepared.sizes)
    check(case, prepared, result, 3e-7)


def test_groups_and_odd_starts_keep_the_order_of_the_left_side(rng: np.random.Generator) -> None:
    for case, base in ((Convolution((2, 7, 6, 64), 64, groups=2), 0), (Product(40, 40, 40), 7)):
        draft = prepare(case, rng).contraction
        layout = parts_layout(draft, draft.a.shape, base, SPLIT)
        assert layout.channels == 0
        assert layout.contraction(draft) is draft


@pytest.mark.parametrize("form", [HALF, SPLIT], ids=["bf16", "bf16x3"])
@pytest.mark.parametrize("case", [Product(18, 20, 40, dynamic="m"), CASES[17]], ids=str)
def test_the_statements_mean_the_sums(
    case: Product | Convolution, form: TileForm, rng: np.random.Generator
) -> None:
    prepared = prepare(case, rng)
    a, b = prepared.inputs[:2]
    kernel, inputs, _ = tiled(prepared, form, (a, b))
    result = run_kernel(kernel, inputs, prepared.sizes)
    check(case, prepared, result.outputs[0], 3e-7 if form is SPLIT else 2.0**-7)


@needs_emulator
@pytest.mark.parametrize("left", [i8, u8], ids=str)
@pytest.mark.parametrize("right", [i8, u8], ids=str)
@pytest.mark.parametrize(("m", "k"), [(40, 64), (33, 150), (1, 300)])
def test_products_of_bytes_are_exact(
    left: DType, right: DType, m: int, k: int, rng: np.random.Generator
) -> None:
    form = TileForm(left, right)
    a = rng.integers(0, 256, (m, k)).astype(np.uint8).view(left.numpy)
    b = rng.integers(0, 256, (1, k, 20)).astype(np.uint8).view(right.numpy)
    out = Buffer("out", i32, (m, 20))
    prepared = prepare(Product(m, 20, k), rng)
    draft = replace(
        prepared.contraction, epilogue=lambda row, c, total: (loops.Store(out, (*row, c), total),)
    )
    prepared = replace(prepared, contraction=draft, buffers=(*prepared.buffers[:2], out))
    kernel, inputs, _ = tiled(replace(prepared, inputs=(a, b)), form, (a, b))
    result = run_compiled(kernel, inputs, {})
    np.testing.assert_array_equal(result, a.astype(np.int64) @ b[0].astype(np.int64))


@needs_emulator
@pytest.mark.parametrize("number", range(40))
def test_machine_code_for_all_kinds_of_sizes(number: int, rng: np.random.Generator) -> None:
    m, n, k = (int(size) for size in rng.integers(1, (130, 90, 200)))
    case = Product(m, n + 1, k + 32, dynamic="m" if number % 3 == 0 else "")
    prepared = prepare(case, rng)
    form = SPLIT if number % 2 else HALF
    kernel, inputs, _ = tiled(prepared, form, prepared.inputs[:2])
    result = run_compiled(kernel, inputs, prepared.sizes)
    check(case, prepared, result, 3e-7 if form is SPLIT else 2.0**-7)


def _loops(text: str) -> list[list[str]]:
    """The mnemonics of every loop without an inner one: from its label to the jump back to it."""
    found: list[list[str]] = []
    lines = [line.strip() for line in text.splitlines()]
    labels = {line.rstrip(":"): at for at, line in enumerate(lines) if line.startswith(".LBB")}
    for at, line in enumerate(lines):
        words = line.split()
        if len(words) == 2 and words[0].startswith("j") and labels.get(words[1], at) < at:
            body = lines[labels[words[1]] + 1 : at]
            if not any(inner.startswith(".LBB") for inner in body):
                found.append([inner for inner in body if inner and not inner.startswith("#")])
    return found


@pytest.mark.parametrize(("form", "loads", "products"), [(HALF, 4, 4), (SPLIT, 14, 24)])
def test_the_innermost_loop_is_minimal(
    form: TileForm, loads: int, products: int, rng: np.random.Generator
) -> None:
    prepared = prepare(Product(64, 64, 256), rng)
    kernel, _, _ = tiled(prepared, form, prepared.inputs[:2])
    text = assembly(kernel, x86.AMX)
    (inner,) = [body for body in _loops(text) if any("tdpbf16ps" in line for line in body)]
    assert sum("tileload" in line for line in inner) == loads
    assert sum("tdpbf16ps" in line for line in inner) == products
    # Addresses that no displacement reaches, the counters, the end of the loop; no spills.
    assert len(inner) <= 1.6 * (loads + products) + 4
    assert not any("(%rsp" in line for line in inner)
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1


@needs_emulator
def test_the_instructions_are_as_many_as_the_blocks_need(rng: np.random.Generator) -> None:
    prepared = prepare(Product(96, 64, 128), rng)
    kernel, inputs, _ = tiled(prepared, SPLIT, prepared.inputs[:2])
    reset()
    run_compiled(kernel, inputs, {})
    blocks, steps = 3 * 2, 4
    expected = {
        "ldtilecfg": 2,
        "sttilecfg": 0,
        "load": blocks * steps * 14,
        "store": blocks * 4,
        "zero": blocks * 4,
        "release": 2,
        "product": blocks * steps * 24,
    }
    assert counts() == expected


def test_the_model_prefers_tiles_for_large_products_only(rng: np.random.Generator) -> None:
    def prefers(m: int, k: int, n: int) -> bool:
        draft = prepare(Product(m, n, k), rng).contraction
        draft = replace(draft, a=Buffer("a", bf16, (3 * m * k,)))
        tiling = plan_tiles(draft, SPLIT, x86.AMX, m * k)
        assert tiling is not None
        return is_faster(tiling, replace(draft, a=Buffer("a", f32, (m * k,))), SPLIT_NUMBER)

    assert prefers(512, 512, 512) and prefers(128, 768, 3072)
    assert not prefers(1, 1024, 1024) and not prefers(512, 32, 16) and not prefers(12, 512, 512)


def test_narrow_products_of_bfloat16_are_for_tiles_since_those_of_vectors_are_slow(
    rng: np.random.Generator,
) -> None:
    draft = prepare(Product(4096, 16, 64), rng).contraction
    for form, type, faster in ((HALF, bf16, True), (SPLIT, f32, False)):
        draft = replace(draft, a=Buffer("a", type, (4096 * 64,)))
        tiling = plan_tiles(draft, form, x86.AMX, 4096 * 64)
        assert tiling is not None and is_faster(tiling, draft, SPLIT_NUMBER) == faster


def test_tiles_have_to_be_faster_than_what_vectors_do_without_padding(
    rng: np.random.Generator,
) -> None:
    draft = prepare(Product(512, 512, 512), rng).contraction
    tiling = plan_tiles(draft, SPLIT, x86.AMX, 512 * 512)
    assert tiling is not None
    assert is_faster(tiling, draft, SPLIT_NUMBER)
    assert not is_faster(tiling, draft, SPLIT_NUMBER, left=0.5)


def test_short_or_scattered_runs_are_not_for_tiles(rng: np.random.Generator) -> None:
    for case in (Product(64, 64, 31), Product(64, 1, 64), Convolution((1, 9, 9, 8), 32)):
        draft = prepare(case, rng).contraction
        assert plan_tiles(draft, HALF, x86.AMX) is None
    draft = prepare(Product(64, 64, 64), rng).contraction
    assert plan_tiles(draft, HALF, x86.AVX512) is None
    assert plan_tiles(replace(draft, columns=dims.symbol("n")), HALF, x86.AMX) is None
