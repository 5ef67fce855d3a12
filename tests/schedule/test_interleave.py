"""Right operands that are computed in the run are packed in groups by whole vectors."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import DType, bf16, i8, u8
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.schedule.contraction.packing import pack, packed_element, packed_shape
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.schedule.nests.transpose import lower_transpose
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import CompiledKernel, assembly

TARGETS = [
    t
    for t in (x86.AVX512_BF16, x86.AVX2, x86.SSE42)
    if set(t.features) <= set(host_target().features)
]


def _packing(dtype: DType, shape: tuple[int, int, int], width: int, group: int) -> Kernel:
    """A kernel that packs matrices [matrices, depth, columns]."""
    matrices, depth, columns = shape
    source = Buffer("in0", dtype, shape)
    steps = -(-depth // group)
    target = Buffer("out0", dtype, packed_shape(matrices, steps, columns, width, group))
    symbols = [Symbol(f"i{k}", size) for k, size in enumerate(target.shape)]

    def element(matrix: Size, k: Size, column: Size) -> Expression:
        return source[matrix, k, column]

    index = tuple(atom(symbol) for symbol in symbols)
    value = flatten_loads(packed_element(element, index, columns, group, depth))
    order = (symbols[0], symbols[2], symbols[1], *symbols[3:])
    nest = lower_transpose(Piece(flat(target), target.offset(index), value, order), lambda _: 16)
    assert nest is not None
    kernel = Kernel("pack", (flat(source), flat(target)), 1, (), nest.body)
    verify_kernel(kernel)
    return kernel


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("dtype", "group", "shape", "width"),
    [(bf16, 2, (1, 12, 64), 32), (bf16, 2, (2, 7, 41), 32), (u8, 4, (1, 10, 48), 16)],
)
def test_a_matrix_is_packed_as_in_numpy(
    target: Target, dtype: DType, group: int, shape: tuple[int, int, int], width: int
) -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 100, shape).astype(dtype.numpy)
    kernel = _packing(dtype, shape, width, group)
    wanted = pack(given, width, group).reshape(-1)
    (found,) = run_kernel(kernel, [given.reshape(-1)], {}).outputs
    np.testing.assert_array_equal(found, wanted)
    out = np.full(wanted.shape, 77).astype(dtype.numpy)
    compiled = CompiledKernel(kernel, target)([given.reshape(-1), out])
    np.testing.assert_array_equal(compiled.arrays[1], wanted)


def test_pairs_are_stored_as_whole_vectors() -> None:
    text = assembly(_packing(bf16, (1, 12, 64), 32, 2), x86.AVX512_BF16)
    assert "pextrw" not in text
    assert text.count("%ymm") > 0


def _interleaved(offset: int, reads_itself: bool) -> Kernel:
    """out[2c] = x[c] + 1; out[2c + offset] = 2 x[c], or what out has at c."""
    x, out = Buffer("x", i8, (16,)), Buffer("out", i8, (40,))
    builder = KernelBuilder()
    with builder.loop(16, "vector", 16) as c:
        builder.store(out, (2 * c,), x[c] + 1)
        builder.store(out, (2 * c + offset,), out[c] if reads_itself else x[c] * 2)
    return Kernel("interleaved", (x, out), 1, (), builder.block())


@pytest.mark.parametrize(("offset", "reads_itself"), [(1, False), (3, False), (1, True)])
def test_only_neighbours_that_nobody_reads_are_stored_at_once(
    offset: int, reads_itself: bool
) -> None:
    x = np.arange(16, dtype=np.int8)
    out = np.zeros(40, np.int8)
    out[0:32:2] = x + 1
    out[offset : offset + 32 : 2] = out[:16] if reads_itself else 2 * x
    compiled = CompiledKernel(_interleaved(offset, reads_itself), host_target())
    found = compiled([x, np.zeros(40, np.int8)]).arrays[1]
    np.testing.assert_array_equal(found, out)
