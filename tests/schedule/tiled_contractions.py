"""Contractions on a matrix unit: kernels for cases of contraction_cases, under the emulator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import Array, bf16, f32
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles import lower_on_tiles
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import PartsLayout, parts_layout
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    SPLIT,
    TileForm,
    pack,
    split_array,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import MatrixTiling, plan_tiles
from bessemer.compiler.targets import x86
from tests.amx_emulation import emulator
from tests.compiled_kernels import CompiledKernel
from tests.schedule.contraction_cases import (
    Convolution,
    Prepared,
    Product,
    prepare,
)

CASES: tuple[Product | Convolution, ...] = (
    Product(32, 32, 32),
    Product(64, 64, 96),
    Product(1, 17, 33),
    Product(7, 10, 784),
    Product(16, 16, 64),
    Product(17, 40, 70),
    Product(49, 33, 50),
    Product(100, 100, 100),
    Product(23, 48, 64, batch=3),
    Product(23, 48, 64, batch=3, shared=True),
    Product(5, 37, 64, dynamic="m"),
    Product(16, 37, 64, dynamic="m"),
    Product(45, 37, 65, dynamic="m"),
    Product(18, 20, 40, batch=3, dynamic="m"),
    Convolution((1, 9, 9, 32), 20),
    Convolution((2, 6, 18, 32), 40, (1, 1)),
    Convolution((2, 6, 18, 32), 40, (1, 1), border=1),
    Convolution((1, 9, 9, 12), 20),
    Convolution((1, 9, 8, 40), 33, (3, 2), (2, 3), (2, 1)),
    Convolution((2, 7, 6, 64), 64, groups=2),
    Convolution((2, 9, 8, 32), 16, (3, 3), (1, 1), border=1),
    Convolution((3, 5, 9, 32), 20, (3, 3), dynamic="n"),
)


def halves(array: Array) -> Array:
    """Numbers that bf16 can hold."""
    return array.astype(bf16.numpy).astype(array.dtype)


def tiled(
    prepared: Prepared, form: TileForm, sources: tuple[Array, ...]
) -> tuple[Kernel, list[Array], MatrixTiling]:
    """The kernel on tiles, and its inputs; `sources` are a and b (a matrix each)."""
    a, b = sources
    draft = prepared.contraction
    elements = dims.product(draft.a.shape)
    flat_a = Buffer("a", form.left, (form.parts * elements,))
    draft = replace(draft, dtype=form.sum, a=flat_a)
    tiling = plan_tiles(draft, form, x86.AMX, elements)
    assert tiling is not None
    packed = pack(b, form, tiling.runs, tiling.panel)
    flat_b = Buffer("b", form.right, (packed.size,))
    body = lower_on_tiles(replace(draft, b=flat_b), tiling, x86.AMX)
    others = prepared.buffers[2:-1] if len(prepared.buffers) > 3 else ()
    buffers = (flat_a, flat_b, *others, prepared.buffers[-1])
    kernel = Kernel("tiles", buffers, 1, tuple(prepared.sizes), body)
    verify_kernel(kernel)
    left = split_array(a) if form.parts == 3 else a.astype(form.left.numpy)
    return kernel, [left.reshape(-1), packed.reshape(-1), *prepared.inputs[2:]], tiling


def blocked(
    prepared: Prepared, sources: tuple[Array, ...]
) -> tuple[Kernel, Kernel, list[Array], PartsLayout]:
    """A kernel that splits a by blocks of channels, one that multiplies; a and the other inputs."""
    a, b = sources
    draft = prepared.contraction
    layout = parts_layout(draft, draft.a.shape, 0, SPLIT)
    source = Buffer("source", f32, (layout.elements,))
    parts = Buffer("parts", bf16, layout.shape)
    body, _ = layout.split_body(source, parts, 16)
    split = Kernel("split", (source, parts), 1, tuple(prepared.sizes), body)
    flat_a = Buffer("a", bf16, (dims.product(layout.shape),))
    draft = replace(layout.contraction(draft), a=flat_a)
    tiling = plan_tiles(draft, SPLIT, x86.AMX, layout.part_stride)
    assert tiling is not None
    packed = pack(layout.arrange(b), SPLIT, tiling.runs, tiling.panel)
    flat_b = Buffer("b", bf16, (packed.size,))
    body = lower_on_tiles(replace(draft, b=flat_b), tiling, x86.AMX)
    others = prepared.buffers[2:-1]
    buffers = (flat_a, flat_b, *others, prepared.buffers[-1])
    kernel = Kernel("tiles", buffers, 1, tuple(prepared.sizes), body)
    for one in (split, kernel):
        verify_kernel(one)
    return split, kernel, [a, packed.reshape(-1), *prepared.inputs[2:]], layout


def run_compiled(kernel: Kernel, inputs: list[Array], sizes: Any) -> Array:
    """Machine code under the emulator, the items in two parts, the second part first."""
    emulator()
    out = kernel.buffers[-1]
    shape = tuple(evaluate_named(size, sizes) for size in out.shape)
    arrays = [*inputs, np.full(shape, 77, out.dtype.numpy)]
    compiled = CompiledKernel(kernel, x86.AMX)
    items = evaluate_named(kernel.parallel_extent, sizes)
    for part in ((items // 2, items), (0, items // 2)):
        arrays[-1] = compiled(arrays, sizes, part).arrays[-1]
    return arrays[-1]


def check(case: Product | Convolution, prepared: Prepared, result: Array, tolerance: float) -> None:
    if isinstance(case, Convolution) and case.border:
        inside = slice(case.border, -case.border)
        result = result[:, inside, inside]
    error = np.abs(result - prepared.expected)
    assert np.all(error <= tolerance * prepared.scale)


def plain(m: int, k: int, columns: int, rng: np.random.Generator) -> Prepared:
    """A product without an epilogue."""
    prepared = prepare(Product(m, columns, k), rng)
    out = prepared.buffers[-1]
    draft = replace(
        prepared.contraction, epilogue=lambda row, c, total: (loops.Store(out, (*row, c), total),)
    )
    return replace(
        prepared,
        contraction=draft,
        inputs=prepared.inputs[:2],
        buffers=(*prepared.buffers[:2], out),
    )
