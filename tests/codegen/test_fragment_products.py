"""Products of groups into fragments: compiled for every machine here, interpreted, as text."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, constant, fragment_element
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel, Store
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, DType, bf16, f32, i8, i16, i32, u8
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import CompiledKernel, assembly

ROWS = 3
HERE = [t for t in x86.TARGETS if set(t.features) <= set(host_target().features)]
PAIRS = [
    (bf16, bf16, f32, 2),
    (u8, i8, i32, 4),
    (i8, u8, i32, 4),
    (i8, i8, i32, 4),
    (u8, u8, i32, 2),
    (i8, i8, i32, 2),
    (u8, i8, i32, 2),
    (i16, i16, i32, 2),
    (i8, i8, i32, 1),
    (bf16, bf16, f32, 1),
]


def _kernel(a_type: DType, b_type: DType, dtype: DType, group: int, terms: int, n: int) -> Kernel:
    """Two steps into a fragment of `n` columns: a whole group, then `terms` of one."""
    depth = group + terms
    a, b = Buffer("a", a_type, (ROWS, depth)), Buffer("b", b_type, (2, n, group))
    out = Buffer("out", dtype, (ROWS, n))
    builder = KernelBuilder()
    builder.append(loops.Fragment("sums", ROWS, n, dtype))
    column = dims.Symbol("column", n)
    builder.append(loops.FragmentFill("sums", column, constant(0, dtype), n))
    for k, count in ((0, None), (1, None if terms == group else terms)):
        offsets = tuple(r * depth + k * group for r in range(ROWS))
        rows = tuple(range(ROWS))
        mac = loops.FragmentMac("sums", rows, a, offsets, b, k * n * group, group, count)
        builder.append(mac)
    stores = tuple(
        (Store(out, (r, dims.atom(column)), fragment_element("sums", r, dtype)),)
        for r in range(ROWS)
    )
    builder.append(loops.FragmentStore("sums", column, n, stores))
    return Kernel("kernel", (a, b, out), 1, (), builder.block())


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Of integers, half are the extremes: what saturates must be seen."""
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    middle = rng.integers(limits.min, limits.max, shape, endpoint=True)
    extreme = rng.choice([limits.min, limits.max], shape)
    return np.where(rng.random(shape) < 0.5, middle, extreme).astype(dtype.numpy)


def _expected(a: Array, b: Array, group: int) -> Array:
    wide: type = np.float64 if a.dtype.kind not in "iu" else np.int64
    steps = np.concatenate(list(b.transpose(0, 2, 1)))[: a.shape[1]]
    total: Array = a.astype(wide) @ steps.astype(wide)
    return total if wide is np.float64 else total.astype(np.int32)


@pytest.mark.parametrize("columns", [32, 21])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
def test_groups_are_multiplied_exactly(
    pair: tuple[DType, DType, DType, int], target: Target, columns: int, rng: np.random.Generator
) -> None:
    a_type, b_type, dtype, group = pair
    for terms in range(1, group + 1):
        kernel = _kernel(a_type, b_type, dtype, group, terms, columns)
        verify_kernel(kernel)
        # Not one element more: what a kernel may not read would lie behind it.
        a = _random(rng, (ROWS, group + terms), a_type)
        b = _random(rng, (2, columns, group), b_type)
        expected = _expected(a, b, group)
        result = CompiledKernel(kernel, target)([a, b, np.zeros_like(expected, dtype.numpy)])
        meant = run_kernel(kernel, (a, b), {}).outputs[0]
        if dtype is f32:
            scale = np.abs(a.astype(np.float64)).sum() * 1e-6
            assert np.abs(result.arrays[-1] - expected).max() < scale
            assert np.abs(meant - expected).max() < scale
        else:
            assert np.array_equal(result.arrays[-1], expected)
            assert np.array_equal(meant, expected)


@pytest.mark.parametrize("terms", [1, 2, 3, 4])
def test_groups_print_and_read_back(terms: int) -> None:
    kernel = _kernel(u8, i8, i32, 4, terms, 16)
    text = print_kernel(kernel)
    assert print_kernel(parse_kernel(text)) == text
    assert "group 4" in text
    assert ("terms" in text) == (terms < 4)


@pytest.mark.parametrize(
    ("pair", "target", "instruction"),
    [
        ((bf16, bf16, f32, 2), x86.AVX512_BF16, "vdpbf16ps"),
        ((u8, i8, i32, 4), x86.AVX512_VNNI, "vpdpbusd"),
        ((i8, u8, i32, 4), x86.AVX2_VNNI, "vpdpbusd"),
        ((u8, i8, i32, 2), x86.AVX2, "vpmaddwd"),
    ],
)
def test_the_machines_own_instructions_are_used(
    pair: tuple[DType, DType, DType, int], target: Target, instruction: str
) -> None:
    a_type, b_type, dtype, group = pair
    text = assembly(_kernel(a_type, b_type, dtype, group, group, 16), target)
    assert instruction in text
